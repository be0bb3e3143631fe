"""What a package for bioimage.io says of a model."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from careamics_dm import CAREModule, Masking, N2NModule, N2VModule, UNet
from careamics_dm.cli.model_description import (
    Sizes,
    documentation_of,
    method_of,
    postprocessing,
    preprocessing,
    sizes_of,
    tags_of,
    tensors,
)
from careamics_dm.transforms.normalization import Affine

small = partial(UNet, 1, first_filters=2)


def run(operations, image):
    """Apply operations of the specification to ``C Y X``."""
    for operation in operations:
        given = operation["kwargs"]
        column = {k: np.reshape(v, (-1, 1, 1)) for k, v in given.items() if k != "axis"}
        if operation["id"] == "clip":
            image = np.clip(image, given["min"], given["max"])
        elif operation["id"] == "scale_linear":
            image = image * column["gain"] + column["offset"]
        else:
            image = (image - column["mean"]) / column["std"]
    return image


@pytest.mark.parametrize(
    ("affine", "names"),
    [
        (Affine([100.0, 30.0], [20.0, 5.0]), ["fixed_zero_mean_unit_variance"]),
        (Affine([0.5, 0.2], [0.01, 20.0]), ["scale_linear"]),
        (
            Affine([100.0, 30.0], [20.0, 5.0], [90.0, 20.0], [150.0, 44.0]),
            ["scale_linear", "clip", "scale_linear"],
        ),
        (
            Affine([7.0, 30.0], [1.0, 5.0], [7.0, 20.0], [7.0, 44.0]),  # a constant channel
            ["scale_linear", "clip", "scale_linear"],
        ),
        (Affine([0.0, 0.0], [1.0, 1.0]), []),
    ],
)
def test_operations_do_what_the_normalisation_does(affine, names):
    image = np.random.default_rng(0).uniform(0, 200, (2, 8, 8)).astype(np.float32)
    assert [operation["id"] for operation in preprocessing(affine)] == names
    expected = affine.apply_(torch.from_numpy(image.copy())[None])
    assert np.allclose(run(preprocessing(affine), image), expected[0], rtol=1e-5, atol=1e-5)
    back = run(postprocessing(affine), expected[0].numpy())
    assert np.allclose(back, affine.undo(expected)[0], rtol=1e-5)


def test_sizes_are_what_the_network_takes():
    plane = sizes_of(N2VModule(small(dims=2, depth=2)), (64, 64))
    assert plane == Sizes((60, 60), (4, 4), (28, 28))  # the reach is 26
    assert plane.at_least((128, 10)) == (128, 60) and plane.at_least((61, 64)) == (64, 64)
    volume = sizes_of(CAREModule(small(dims=3, depth=1, pool=(1, 2, 2))), (4, 16, 16))
    assert volume == Sizes((2, 22, 22), (1, 2, 2), (0, 10, 10))
    other = sizes_of(N2NModule(torch.nn.Conv2d(1, 1, 3), size_divisor=8), (16, 24))
    assert other == Sizes((16, 24), (8, 8), (0, 0))


@pytest.mark.parametrize(
    ("module", "name", "doi"),
    [
        (N2VModule(small(dims=2)), "Noise2Void", "10.1109/CVPR.2019.00223"),
        (N2VModule(small(dims=2, n2v2=True)), "N2V2", "10.1007/978-3-031-25069-9_33"),
        (
            N2VModule(small(dims=2), masking=Masking(struct_mask="vertical")),
            "structN2V",
            "10.1109/ISBI45749.2020.9098336",
        ),
        (CAREModule(small(dims=3)), "CARE", "10.1038/s41592-018-0216-7"),
        (N2NModule(small(dims=2)), "Noise2Noise", "10.48550/arXiv.1803.04189"),
    ],
)
def test_a_method_is_named_with_its_paper_and_that_of_the_network(module, name, doi):
    method = method_of(module)
    assert method.name == name
    assert [entry["doi"] for entry in method.cite] == [doi, "10.1007/978-3-319-24574-4_28"]
    sizes = sizes_of(module, (16,) * (3 if name == "CARE" else 2))
    text = documentation_of("A name", "What it does.", method, sizes)
    assert f"by {name}, from " in text and f"https://doi.org/{doi}" in text
    assert "\n## Validation\n" in text
    assert ("have to contain all planes" in text) is (name == "CARE")


def test_a_network_of_another_package_is_no_unet():
    module = N2NModule(torch.nn.Conv2d(1, 1, 3))
    assert [entry["doi"] for entry in method_of(module).cite] == ["10.48550/arXiv.1803.04189"]
    assert tags_of(module, "2D") == ["image-restoration", "denoising", "2d", "pytorch"]


def test_axes_have_names_sizes_and_halo():
    one = Affine([0.0], [1.0])
    found = tensors(Sizes((2, 24, 20), (1, 4, 4), (0, 12, 8)), ["DAPI"], ["a", "b"], one, one)
    [image], [restored] = found["inputs"], found["outputs"]
    assert [axis.get("id", axis["type"]) for axis in image["axes"]] == [
        *("batch", "channel", "z", "y", "x")
    ]
    assert image["axes"][1]["channel_names"] == ["DAPI"]
    assert (
        image["axes"][2]["size"] == {"min": 2, "step": 1} and not image["axes"][2]["concatenable"]
    )
    assert image["axes"][3]["size"] == {"min": 24, "step": 4} and image["axes"][3]["concatenable"]
    assert restored["axes"][1]["channel_names"] == ["a", "b"]
    assert [axis.get("halo") for axis in restored["axes"][2:]] == [None, 12, 8]
    assert restored["axes"][4]["size"] == {"tensor_id": "image", "axis_id": "x"}
