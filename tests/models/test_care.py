"""CARE and Noise2Noise: what they learn, what they need, what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from modules import trainer
from torch import Tensor, nn
from torch.nn import functional as F

from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.models.n2v import N2VModule
from careamics_dm.models.supervised import CAREModule, N2NModule
from careamics_dm.models.unet import UNet

if TYPE_CHECKING:
    from pathlib import Path

BOTH = pytest.mark.parametrize("module", [CAREModule, N2NModule])


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 2, 1, 8, 8, generator=generator)
    return {"image": x, "target": y}


class Weighted(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.weight * (prediction - target).abs().max()


def test_the_loss_compares_the_restored_image_with_the_target() -> None:
    pair = batch()
    difference = (pair["image"] - pair["target"]).abs()
    losses: list[Any] = [
        (CAREModule(nn.Identity()), difference.mean()),
        (CAREModule(nn.Identity(), loss="mse"), difference.square().mean()),
        (CAREModule(nn.Identity(), loss=F.smooth_l1_loss), (difference.square() / 2).mean()),
        (CAREModule(nn.Identity(), loss=Weighted()), 3 * difference.max()),
        (N2NModule(nn.Identity()), difference.square().mean()),
        (N2NModule(nn.Identity(), loss="mae"), difference.mean()),
    ]
    for model, expected in losses:
        torch.testing.assert_close(model.loss(pair), expected)
        torch.testing.assert_close(model.loss((pair["image"], pair["target"])), expected)


def test_a_loss_that_is_a_module_learns_with_the_network() -> None:
    model = CAREModule(nn.Conv2d(1, 1, 1), loss=Weighted())
    assert "criterion.weight" in dict(model.named_parameters())


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss='l1' does not exist; use 'mae', 'mse' or a"):
        CAREModule(nn.Identity(), loss="l1")  # type: ignore[arg-type]


@BOTH
def test_a_batch_without_target_is_refused(module: Any) -> None:
    words = rf"{module.__name__} learns from .* targets, but the batch has no target; let the"
    with pytest.raises(ValueError, match=words):
        module(nn.Identity()).loss({"image": torch.zeros(1, 1, 8, 8)})


@BOTH
def test_a_target_of_other_channels_than_the_network_makes_is_refused(module: Any) -> None:
    pair = {"image": torch.zeros(1, 1, 8, 8), "target": torch.zeros(1, 2, 8, 8)}
    words = r"made \(1, 1, 8, 8\) and the target is \(1, 2, 8, 8\); build it with out_channels=2"
    with pytest.raises(ValueError, match=words):
        module(nn.Identity()).loss(pair)


def test_each_model_says_what_it_learns_from_and_which_weights_to_keep() -> None:
    said = {m.__name__: (m.learns_from, m.keeps) for m in (CAREModule, N2NModule, N2VModule)}
    assert said == {
        "CAREModule": ("clean targets", "best"),
        "N2NModule": ("noisy targets", "last"),
        "N2VModule": ("noisy images", "last"),
    }


def data(**options: Any) -> ArrayDataModule:
    image = np.random.default_rng(0).random((32, 32), np.float32)
    return ArrayDataModule(
        train_data=image,
        axes="YX",
        patch_size=(8, 8),
        batch_size=2,
        patches_per_epoch=2,
        **options,
    )


def network() -> UNet:
    return UNet(1, dims=2, first_filters=2, depth=1)


IMAGE = np.random.default_rng(1).random((32, 32), np.float32)


@BOTH
@pytest.mark.parametrize(
    ("options", "role"),
    [
        ({}, "train"),
        ({"train_target": IMAGE, "val_data": IMAGE}, "val"),
    ],
)
def test_data_without_targets_are_refused_before_training(
    tmp_path: Path, module: Any, options: dict[str, Any], role: str
) -> None:
    words = rf"{module.__name__} learns from \w+ targets, but {role}_data has no targets. "
    with pytest.raises(
        ValueError, match=rf"{words}Give {role}_target, or target_channels"
    ) as error:
        trainer(tmp_path, max_epochs=1).fit(module(network()), datamodule=data(**options))
    assert ("model=n2v" in str(error.value)) == (role == "train")


def test_validation_data_without_targets_do_not_matter_where_nothing_validates(
    tmp_path: Path,
) -> None:
    run = trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    run.fit(CAREModule(network()), datamodule=data(train_target=IMAGE, val_data=IMAGE))
    assert run.callback_metrics["train_loss"].isfinite()


def test_test_and_validation_data_need_targets_where_the_model_does(tmp_path: Path) -> None:
    module = data(train_target=IMAGE, val_data=IMAGE, test_data=IMAGE)
    model = CAREModule(network())
    with pytest.raises(ValueError, match=r"test_data has no targets. Give test_target"):
        trainer(tmp_path).test(model, datamodule=module, verbose=False)
    with pytest.raises(ValueError, match=r"val_data has no targets. Give val_target"):
        trainer(tmp_path).validate(model, datamodule=module, verbose=False)
    assert trainer(tmp_path).test(N2VModule(network()), datamodule=module, verbose=False)


def pairs(noisy_target: bool) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96] / 4
    clean = (np.sin(y) * np.cos(x)).astype(np.float32)
    noisy, again = (clean + rng.normal(0, 0.4, (2, 96, 96))).astype(np.float32)
    return clean, noisy, again if noisy_target else clean


@pytest.mark.parametrize(("module", "noisy_target"), [(CAREModule, False), (N2NModule, True)])
def test_it_denoises(tmp_path: Path, module: Any, noisy_target: bool) -> None:
    clean, noisy, target = pairs(noisy_target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = module(
            UNet(1, dims=2, first_filters=8, depth=1),
            optimizer=lambda p: torch.optim.Adam(p, lr=1e-2),
        )
        source = ArrayDataModule(
            train_data=noisy,
            train_target=target,
            test_data=noisy,
            test_target=clean,
            axes="YX",
            patch_size=(16, 16),
            batch_size=8,
            patches_per_epoch=64,
        )
        run = trainer(tmp_path, max_epochs=6)
        run.fit(model, datamodule=source)
        [found] = run.test(model, datamodule=source, verbose=False)
    before = model.test_scores_before[0].as_dict()["psnr"][0]
    assert found["test_psnr"] > before + 3
