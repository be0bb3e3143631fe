"""What a package for bioimage.io says of a model: plain values, as its specification 0.5 wants."""

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from careamics_dm.models.base import RestorationModule
from careamics_dm.models.n2v import N2VModule
from careamics_dm.models.unet import UNet, per_axis
from careamics_dm.transforms.normalization import Affine

INPUT, OUTPUT = "image", "restored"
"""Names of the tensors."""
_LEAST_STD = 0.1
"""bioimageio.core adds 1e-6 to standard deviations; below this, the result would show it."""
_UNET = {
    "text": "Ronneberger et al., U-Net: convolutional networks for biomedical image segmentation, "
    "MICCAI 2015",
    "doi": "10.1007/978-3-319-24574-4_28",
}


class Method(NamedTuple):
    """How a model has learned."""

    name: str
    learned: str
    cite: list[dict[str, str]]


class Sizes(NamedTuple):
    """Which sizes a network takes, ``(Z) Y X``."""

    least: tuple[int, ...]
    step: tuple[int, ...]
    halo: tuple[int, ...]
    """What tiles have to overlap by at each side; 0 of an axis along which they can't be cut."""

    def at_least(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Return the smallest sizes that it takes and that are not below those wanted."""
        each = zip(wanted, self.least, self.step, strict=True)
        return tuple(low + max(0, -(-(n - low) // step)) * step for n, low, step in each)


_PAPERS = {
    "Noise2Void": (
        "noisy images alone",
        "Krull et al., Noise2Void: learning denoising from single noisy images, CVPR 2019",
        "10.1109/CVPR.2019.00223",
    ),
    "N2V2": (
        "noisy images alone",
        "Höck et al., N2V2: fixing Noise2Void checkerboard artifacts with modified sampling "
        "strategies and a tweaked network architecture, ECCV Workshops 2022",
        "10.1007/978-3-031-25069-9_33",
    ),
    "structN2V": (
        "noisy images alone",
        "Broaddus et al., Removing structured noise with self-supervised blind-spot networks, "
        "ISBI 2020",
        "10.1109/ISBI45749.2020.9098336",
    ),
    "Neighbor2Neighbor": (
        "noisy images alone",
        "Huang et al., Neighbor2Neighbor: self-supervised denoising from single noisy images, "
        "CVPR 2021",
        "10.1109/CVPR46437.2021.01454",
    ),
    "CARE": (
        "pairs of degraded and clean images",
        "Weigert et al., Content-aware image restoration: pushing the limits of fluorescence "
        "microscopy, Nature Methods 2018",
        "10.1038/s41592-018-0216-7",
    ),
    "Noise2Noise": (
        "pairs of noisy images",
        "Lehtinen et al., Noise2Noise: learning image restoration without clean data, ICML 2018",
        "10.48550/arXiv.1803.04189",
    ),
}
_OF_CLASS = {
    "CAREModule": "CARE",
    "N2NModule": "Noise2Noise",
    "N2VModule": "Noise2Void",
    "Neighbor2NeighborModule": "Neighbor2Neighbor",
}


def method_of(module: RestorationModule) -> Method:
    """Say by which method a model has learned, with its paper, and that of the U-Net."""
    name = _OF_CLASS.get(type(module).__name__, type(module).__name__)
    if isinstance(module, N2VModule) and name == "Noise2Void":
        name = "N2V2" if getattr(module.network, "n2v2", False) else name
        name = "structN2V" if module.masking.struct_mask is not None else name
    learned, *paper = _PAPERS.get(name, (module.learns_from,))
    cite = [dict(zip(("text", "doi"), paper, strict=True))] if paper else []
    return Method(name, learned, cite + [_UNET] * isinstance(module.network, UNet))


def sizes_of(module: RestorationModule, patch_size: Sequence[int]) -> Sizes:
    """Say which sizes a network takes; without a reach, at least the size of its patches."""
    dims = len(patch_size)
    step = per_axis(module.size_divisor, dims)
    sees = module.reach or inf  # normalisation over an image sees all of it
    sees = (sees,) * dims if isinstance(sees, int | float) else sees
    if max(sees) == inf:
        return Sizes(tuple(patch_size), step, (0,) * dims)
    # Tiles are cut in the plane: the reach along Z is more than many stacks have planes. An image
    # with its halo at both sides has to suit the network, too.
    reach = (0,) * (dims - 2) + tuple(map(int, sees[-2:]))
    halo = tuple(-(-n // factor) * factor for n, factor in zip(reach, step, strict=True))
    least = (2 * max(factor, n) + factor * (n > 0) for n, factor in zip(halo, step, strict=True))
    return Sizes(tuple(least), step, halo)


def preprocessing(affine: Affine) -> list[dict[str, Any]]:
    """Express a normalisation, one number per channel, in operations of the specification."""
    offset, scale, low, high = affine
    if low is None or high is None:
        if min(scale) < _LEAST_STD or (set(offset), set(scale)) == ({0.0}, {1.0}):
            return _linear(
                [1 / s for s in scale], [-o / s for o, s in zip(offset, scale, strict=True)]
            )
        kwargs = {"axis": "channel", "mean": offset, "std": scale}
        return [{"id": "fixed_zero_mean_unit_variance", "kwargs": kwargs}]
    # Clipping has the same limits for all channels: each is first brought to the range 0 to 1.
    ranges = [b - a for a, b in zip(low, high, strict=True)]
    to_one = [1 / (width or 1) for width in ranges]
    return [
        *_linear(to_one, [-a * gain for a, gain in zip(low, to_one, strict=True)]),
        {"id": "clip", "kwargs": {"min": 0.0, "max": 1.0}},
        *_linear(
            [width / s for width, s in zip(ranges, scale, strict=True)],
            [(a - o) / s for a, o, s in zip(low, offset, scale, strict=True)],
        ),
    ]


def postprocessing(affine: Affine) -> list[dict[str, Any]]:
    """Express the way back into the units of the data."""
    return _linear(affine.scale, affine.offset)


def tags_of(module: RestorationModule, dims: str) -> list[str]:
    """Return what bioimage.io lists a model under."""
    task = ["image-restoration", "denoising"]
    return [*task, dims.lower(), "pytorch", *["unet"] * isinstance(module.network, UNet)]


def tensors(
    sizes: Sizes, names: Sequence[str], restored: Sequence[str], image: Affine, target: Affine
) -> dict[str, list[dict[str, Any]]]:
    """Describe input and output, of channels that are named."""
    space = list(zip("zyx"[-len(sizes.step) :], *sizes, strict=True))
    taken: list[dict[str, Any]] = [
        {"type": "space", "id": axis, "size": {"min": low, "step": step}, "concatenable": halo > 0}
        for axis, low, step, halo in space
    ]
    made: list[dict[str, Any]] = [
        {"type": "space", "id": axis, "size": {"tensor_id": INPUT, "axis_id": axis}}
        | ({"halo": halo} if halo else {})
        for axis, _, _, halo in space
    ]
    return {
        "inputs": [
            {
                "id": INPUT,
                "axes": [*_batch_and_channels(names), *taken],
                "preprocessing": preprocessing(image),
                "pad": {"mode": "reflect"},
                "test_tensor": {"source": f"{INPUT}.npy"},
            }
        ],
        "outputs": [
            {
                "id": OUTPUT,
                "axes": [*_batch_and_channels(restored), *made],
                "postprocessing": postprocessing(target),
                "test_tensor": {"source": f"{OUTPUT}.npy"},
            }
        ],
    }


_BLOCKS = """
## Large volumes

Blocks may be cut in the plane, but have to contain all planes. (With `bioimageio.core`: predict
without blocks, or by `predict_sample_with_fixed_blocking`, with as many planes as the image has.)
"""


def documentation_of(name: str, description: str, method: Method, sizes: Sizes) -> str:
    """Write the README of a package."""
    papers = "\n".join(
        f"- {entry['text']}, https://doi.org/{entry['doi']}" for entry in method.cite
    )
    return f"""# {name}

{description}

The model was trained with careamics_dm by {method.name}, from {method.learned}. It takes images in
the units of the training images, which it normalises by the statistics of these; results are in
the units of the data, too. It suits images that were recorded like those of the training.
{_BLOCKS * (len(sizes.step) == 3)}
## Validation

Restore images that were not used in training. Where there are clean images of the same scenes,
compare with them (PSNR, SSIM). Where there are none, subtract the restored image from the noisy
one: the difference should be noise, without the structures of the sample.

## References

{papers or "None."}
"""


def _batch_and_channels(names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"type": "batch"}, {"type": "channel", "channel_names": list(names)}]


def _linear(gain: list[float], offset: list[float]) -> list[dict[str, Any]]:
    if set(gain) == {1.0} and set(offset) == {0.0}:  # which the specification refuses
        return []
    kwargs = {"axis": "channel", "gain": gain, "offset": offset}
    return [{"id": "scale_linear", "kwargs": kwargs}]
