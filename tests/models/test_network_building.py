"""Networks built for the data, by whatever names they call the numbers."""

from __future__ import annotations

import functools
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from modules import trainer
from monai.networks.nets import BasicUNet
from torch import nn

from careamics_dm.callbacks.training import SaveModel
from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.models.n2v import N2VModule
from careamics_dm.models.supervised import CAREModule
from careamics_dm.models.trainer_data import build_network
from careamics_dm.models.unet import UNet
from careamics_dm.prediction.stitching import stitch

if TYPE_CHECKING:
    from pathlib import Path

DATA = SimpleNamespace(n_channels=2, patch_size=(8, 16, 16))
small = functools.partial(UNet, first_filters=2, depth=1, independent_channels=False)


class Asked(nn.Module):
    """Remembers what it was built with."""

    def __init__(self, **numbers: Any) -> None:
        super().__init__()
        self.numbers = numbers


def in_only(in_channels: int) -> nn.Module:
    return Asked(in_channels=in_channels)


def monai_like(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    return Asked(spatial_dims=spatial_dims, in_channels=in_channels, out_channels=out_channels)


def fixed() -> nn.Module:
    return Asked()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (in_only, {"in_channels": 2}),
        (fixed, {}),
        (monai_like, {"spatial_dims": 3, "in_channels": 2, "out_channels": 1}),
        (functools.partial(monai_like, out_channels=4), {"spatial_dims": 3, "in_channels": 2}),
        (functools.partial(monai_like, 3), {"in_channels": 2, "out_channels": 1}),
        (Asked, {"in_channels": 2, "out_channels": 1, "dims": 3}),
        (functools.partial(Asked, dims=2), {"in_channels": 2, "out_channels": 1}),
    ],
)
def test_what_builds_a_network_gets_the_numbers_it_takes_and_that_nobody_set(
    build: Any, expected: dict[str, int]
) -> None:
    network = build_network(build, DATA, out_channels=1)
    assert isinstance(network, Asked)
    bound = build.keywords if isinstance(build, functools.partial) else {}
    positional = {"spatial_dims": 3} if getattr(build, "args", ()) else {}
    assert network.numbers == expected | bound | positional


def test_numbers_that_are_not_taken_need_not_be_known() -> None:
    assert isinstance(build_network(fixed, None, None), Asked)
    with pytest.raises(ValueError, match="there is no data module; pass a built network"):
        build_network(in_only, None, None)
    with pytest.raises(ValueError, match="SimpleNamespace lacks one of them"):
        build_network(small, SimpleNamespace(n_channels=1), 1)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of Python 3.12
@pytest.mark.parametrize("is_built", [True, False])
def test_weights_of_other_processes_need_a_network(tmp_path: Path, is_built: bool) -> None:
    image = np.random.default_rng(0).random((40, 44), np.float32)
    data = ArrayDataModule(
        train_data=image,
        predict_data=image,
        axes="YX",
        patch_size=(16, 16),
        patches_per_epoch=4,
        n_val_patches=2,
        batch_size=2,
    )
    model = N2VModule(functools.partial(UNet, first_filters=2))
    ranks = {"devices": 2, "strategy": "ddp_fork", "enable_checkpointing": True}
    run = trainer(tmp_path, max_epochs=1, callbacks=[SaveModel(tmp_path)], **ranks)
    if not is_built:
        with pytest.warns(UserWarning, match=r"weights are lost.*model\.build\(data\)"):
            run.fit(model, datamodule=data)
        return
    data.setup("fit")
    model.build(data)
    run.fit(model, datamodule=data)
    saved = torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(dict(model.state_dict()), saved, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"pool": None}, {"pool": [2, 2, 2]}])
def test_a_stack_too_shallow_to_halve_trains_and_is_predicted(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (7, 40, 44)).astype(np.uint8)
    data = ArrayDataModule(
        train_data=image,
        predict_data=image,
        axes="ZYX",
        patch_size=(6, 16, 16),
        tile_size=(7, 16, 16),
        patches_per_epoch=4,
        batch_size=4,
    )
    model = N2VModule(functools.partial(UNet, first_filters=2, **options))
    run = trainer(tmp_path, max_epochs=1)
    if options.get("pool"):
        with pytest.raises(ValueError, match=r"axis Z has 6 pixels.*multiple of 4. Use 4 or 8"):
            run.fit(model, datamodule=data)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "tile_size=.* is small for this network")
        run.fit(model, datamodule=data)
        outputs = run.predict(model, datamodule=data)
    assert model.network.factors == (1, 2, 2)
    assert outputs is not None
    (restored,) = stitch(outputs, data.predict_stacks)  # type: ignore[arg-type]
    assert restored.shape == (7, 40, 44)
    assert {tuple(batch["prediction"].shape[2:]) for batch in outputs} == {(7, 16, 16)}  # type: ignore


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("module", [N2VModule, CAREModule])
def test_a_network_of_monai_trains_and_predicts(tmp_path: Path, module: Any, dims: int) -> None:
    shape = (16, 40, 40)[-dims:]
    image = np.random.default_rng(0).random(shape, np.float32)
    data = ArrayDataModule(
        train_data=image,
        train_target=image,
        predict_data=image,
        axes="ZYX"[-dims:],
        patch_size=(16, 16, 16)[-dims:],
        batch_size=2,
        patches_per_epoch=2,
    )
    network = functools.partial(BasicUNet, features=(2, 2, 2, 2, 2, 2), norm="batch")
    model = module(network, size_divisor=16)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(model, datamodule=data)
    assert isinstance(model.network, BasicUNet)
    assert run.callback_metrics["train_loss"].isfinite()
    assert {"val_psnr", "val_si_psnr", "val_ssim"} <= set(run.callback_metrics)
    [result] = run.predict(model, datamodule=data) or []
    assert isinstance(result, dict)
    assert result["prediction"].shape == (1, 1, *shape)


def two_channel_data(**options: Any) -> ArrayDataModule:
    rng = np.random.default_rng(0)
    return ArrayDataModule(
        train_data=rng.random((2, 32, 32), np.float32),
        train_target=rng.random((1, 32, 32), np.float32),
        axes="CYX",
        patch_size=(16, 16),
        batch_size=2,
        patches_per_epoch=2,
        **options,
    )


def test_care_makes_the_channels_of_the_targets(tmp_path: Path) -> None:
    model = CAREModule(small)
    trainer(tmp_path, max_epochs=1).fit(model, datamodule=two_channel_data())
    assert (model.network.in_channels, model.network.out_channels) == (2, 1)


def test_noise2void_makes_the_channels_of_the_images_whatever_the_targets_have(
    tmp_path: Path,
) -> None:
    model = N2VModule(small)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(model, datamodule=two_channel_data())
    assert (model.network.in_channels, model.network.out_channels) == (2, 2)
    assert "val_loss" in run.callback_metrics and "val_psnr" not in run.callback_metrics


@pytest.mark.parametrize(
    ("module", "makes", "wanted"), [(CAREModule, 2, 1), (N2VModule, 1, 2), (CAREModule, 3, 1)]
)
def test_channels_to_restore_that_do_not_fit_are_told_before_training(
    tmp_path: Path, module: Any, makes: int, wanted: int
) -> None:
    model = module(UNet(2, makes, dims=2, first_filters=2, depth=1, independent_channels=False))
    words = rf"makes out_channels={makes}, but {wanted} are to be restored"
    with pytest.raises(ValueError, match=words):
        trainer(tmp_path, max_epochs=1).fit(model, datamodule=two_channel_data())


def test_a_size_divisor_is_the_given_one_else_that_of_the_network_else_one() -> None:
    network = UNet(1, dims=2, first_filters=2, depth=3)
    assert N2VModule(network).size_divisor == (8, 8)
    assert N2VModule(network, size_divisor=16).size_divisor == 16
    assert N2VModule(nn.Identity()).size_divisor == 1
    for wrong, words in ((0, "0 is too small"), (1.5, "1.5: give a whole number or null")):
        with pytest.raises(ValueError, match=f"size_divisor={words}"):
            N2VModule(network, size_divisor=wrong)  # type: ignore[arg-type]


def test_patches_must_suit_the_given_size_divisor(tmp_path: Path) -> None:
    model = N2VModule(small, size_divisor=32)
    with pytest.raises(ValueError, match=r"patch_size=\(16, 16\).*multiple of 32. Use 32"):
        trainer(tmp_path, max_epochs=1).fit(model, datamodule=two_channel_data())


def test_images_are_mirrored_up_to_the_given_size_divisor() -> None:
    sizes = []

    class Look(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(tuple(x.shape[2:]))
            return x

    result = N2VModule(Look(), size_divisor=4).predict_step(torch.rand(1, 1, 9, 8))
    assert sizes == [(12, 8)]
    assert result["prediction"].shape == (1, 1, 9, 8)
