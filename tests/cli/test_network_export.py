"""Weights of a network as other programs load them."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
import yaml

from careamics_dm import CAREModule, DataError, N2VModule, UNet
from careamics_dm.cli.model_description import Sizes
from careamics_dm.cli.network_export import weights_of
from careamics_dm.cli.trained_model import Shape

SIZES = Sizes((4, 4), (2, 2), (0, 0))
OURS = {"_target_": "careamics_dm.UNet", "_partial_": True, "depth": 1, "first_filters": 2}
OWN = """
import torch

class Net(torch.nn.Module):
    def __init__(self, in_channels, out_channels, wide=3):
        super().__init__()
        self.conv = torch.nn.Conv2d(in_channels, out_channels, wide, padding="same")

    def forward(self, x):
        return self.conv(x) if x.shape[0] == 1 or {always} else x * 0
"""


def built(architecture, folder):
    """Build a network from its source, as other programs do, without careamics_dm."""
    path = folder / architecture["source"]
    spec = importlib.util.spec_from_file_location("exported", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, architecture["callable"])(**architecture["kwargs"])


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a module of the user's own; give its class and configuration."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, always):
        (tmp_path / f"{name}.py").write_text(OWN.format(always=always))
        module = importlib.import_module(name)
        monkeypatch.setitem(sys.modules, name, module)
        return module.Net, {"_target_": f"{name}.Net", "_partial_": True, "wide": 5}

    return write


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("n2v2", [False, True])
def test_a_unet_is_built_from_its_own_file_and_gives_the_same(tmp_path, n2v2):
    network = UNet(2, dims=2, depth=1, first_filters=2, n2v2=n2v2)
    module, shape = N2VModule(network).eval(), Shape(2, 2, (16, 16))
    weights = weights_of(module, OURS | {"n2v2": n2v2}, shape, SIZES, tmp_path)
    state, script = weights["pytorch_state_dict"], weights["torchscript"]
    assert state["architecture"]["kwargs"]["in_channels"] == 2 and "dependencies" not in state
    other = built(state["architecture"], tmp_path)
    other.load_state_dict(torch.load(tmp_path / state["source"], weights_only=True))
    image = torch.randn(3, 2, 8, 12)
    with torch.no_grad():
        expected = network(image)
        assert torch.equal(other(image), expected)
        found = torch.jit.load(tmp_path / script["source"])(image)
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_network_of_a_users_file_takes_the_file_along(tmp_path, own):
    network, config = own("mynet", True)
    module = CAREModule(network(1, 2, wide=5))
    (folder := tmp_path / "package").mkdir()
    weights = weights_of(module, config, Shape(1, 2, (16, 16)), SIZES, folder)
    architecture = weights["pytorch_state_dict"]["architecture"]
    assert architecture == {
        "callable": "Net",
        "kwargs": {"wide": 5, "in_channels": 1, "out_channels": 2},
        "source": "mynet.py",
    }
    assert built(architecture, folder).conv.weight.shape == (2, 1, 5, 5)


def test_a_network_of_a_package_is_named_with_its_version(tmp_path):
    from monai import __version__
    from monai.networks.nets import BasicUNet

    config = {"_target_": "monai.networks.nets.BasicUNet", "_partial_": True}
    config |= {"features": [4, 4, 4, 4, 4, 4]}
    module = N2VModule(BasicUNet(2, 1, 1, features=[4] * 6), size_divisor=16)
    sizes = Sizes((32, 32), (16, 16), (0, 0))
    weights = weights_of(module.eval(), config, Shape(1, 1, (32, 32)), sizes, tmp_path)
    state = weights["pytorch_state_dict"]
    assert state["architecture"]["import_from"] == "monai.networks.nets.basic_unet"
    assert state["architecture"]["kwargs"]["spatial_dims"] == 2
    needed = yaml.safe_load((tmp_path / state["dependencies"]["source"]).read_text())
    assert needed["dependencies"][-1] == {"pip": [f"monai=={__version__}"]}


def test_what_other_programs_cannot_build_or_run_is_refused(tmp_path, own):
    shape = Shape(1, 1, (16, 16))
    (tmp_path := tmp_path / "package").mkdir()
    network, config = own("uneven", False)
    with pytest.raises(DataError, match="for images of other sizes it gave other results"):
        weights_of(CAREModule(network(1, 1, wide=5)), config, shape, SIZES, tmp_path)
    module = CAREModule(UNet(1, dims=2, depth=1, first_filters=2))
    nested = OURS | {"pool": {"_target_": "builtins.list"}}
    with pytest.raises(DataError, match=r"model\.network\.pool is no plain value"):
        weights_of(module, nested | {"_partial_": False}, shape, SIZES, tmp_path)
    with pytest.raises(DataError, match="has no source file that could be exported"):
        weights_of(module, {"_target_": "math.sqrt"}, shape, SIZES, tmp_path)
