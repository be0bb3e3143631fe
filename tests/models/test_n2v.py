from __future__ import annotations

import copy
import logging
import pickle
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import pytest
import tifffile
import torch
from modules import SaveAll
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.formats.tiff.datamodule import TiffDataModule
from careamics_dm.models.masking import Masking
from careamics_dm.models.n2v import N2VModule
from careamics_dm.models.supervised import CAREModule
from careamics_dm.models.unet import UNet
from careamics_dm.transforms.augmentation import Augmentation

if TYPE_CHECKING:
    from pathlib import Path

    from careamics_dm.models.masking import StructMask

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # Lightning 2.6 on torch 2.13
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
]
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Items(Dataset[dict[str, Tensor]]):
    """A list as a dataset."""

    def __init__(self, items: list[dict[str, Tensor]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.items[index]


def trainer(tmp_path: Path, **options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **options,
    )


def images(count: int = 4) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"image": torch.randn(1, 32, 32, generator=generator)} for _ in range(count)]


class Perturbed(nn.Module):
    """Gives back its input, plus something where the mask says so."""

    mask = torch.zeros(1)
    amount = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return x + self.amount * self.mask


def test_only_blind_spots_count() -> None:
    network = Perturbed()
    model = N2VModule(network).eval()
    batch = {"image": torch.randn(4, 1, 64, 64)}
    masked, mask = model.mask(batch)
    expected = F.mse_loss(masked[mask], batch["image"][mask])

    def loss() -> Tensor:
        model.on_validation_epoch_start()
        return model.loss(batch)

    torch.testing.assert_close(loss(), expected)
    network.mask, network.amount = (~mask).float(), 100.0
    torch.testing.assert_close(loss(), expected)
    network.mask = mask.float()
    assert loss() > 1000


def test_no_blind_spot_is_no_loss() -> None:
    model = N2VModule(nn.Identity(), masking=Masking(masked_pixel_percentage=1e-4))
    assert model.loss(torch.randn(1, 1, 4, 4)) == 0


def test_network_that_changes_the_shape() -> None:
    with pytest.raises(ValueError, match=r"made \(1, 2, 8, 8\) of \(1, 1, 8, 8\)"):
        N2VModule(nn.Conv2d(1, 2, 1)).loss(torch.randn(1, 1, 8, 8))


def test_training_masks_vary_and_validation_masks_do_not() -> None:
    model = N2VModule(nn.Identity())
    batch = torch.randn(4, 1, 64, 64)
    assert not torch.equal(model.mask(batch)[1], model.mask(batch)[1])
    model.eval()
    model.on_validation_epoch_start()
    first = [model.mask(batch)[1] for _ in range(2)]
    model.on_test_epoch_start()
    again = [model.mask(batch)[1] for _ in range(2)]
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])
    copy.deepcopy(model)
    pickle.loads(pickle.dumps(model))


def train(folder: Path, seed: int, checkpoint: Path | None = None, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    pixels = np.random.default_rng(0).normal(200, 20, (64, 64)).astype(np.float32)
    settings: Any = {"axes": "YX", "patch_size": (16, 16), "batch_size": 4}
    data = ArrayDataModule(train_data=pixels, patches_per_epoch=12, n_val_patches=2, **settings)
    model = N2VModule(UNet(1, dims=2, depth=1, first_filters=2))
    run = trainer(folder, max_epochs=2, **options)
    run.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return model


def test_a_run_resumed_from_any_checkpoint_ends_with_the_same_weights(tmp_path: Path) -> None:
    saved = SaveAll(tmp_path)
    expected = train(tmp_path, seed=1, callbacks=[saved]).state_dict()
    assert len(saved.paths) == 10
    for path in saved.paths:
        found = train(tmp_path, seed=2, checkpoint=path).state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected), path.name


def test_blind_spots_follow_from_seed_epoch_batch_and_rank(tmp_path: Path) -> None:
    batch, masks = {"image": torch.randn(2, 1, 32, 32)}, []
    for seed, epoch, step, rank in ((1, 0, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0),
                                    (1, 0, 1, 0), (1, 0, 0, 1)):  # fmt: skip
        torch.manual_seed(seed)
        model = N2VModule(nn.Conv2d(1, 1, 1))
        model.trainer = run = trainer(tmp_path)
        run.strategy.global_rank = rank  # type: ignore[attr-defined]
        run.fit_loop.epoch_progress.current.completed = epoch
        torch.manual_seed(0)
        seen: list[Tensor] = []
        model.network.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
        model.log = lambda *args, **options: None  # type: ignore[method-assign]
        model.training_step(batch, step)
        masks.append(seen[0] != batch["image"])
    assert torch.equal(masks[0], masks[1])
    assert len({mask.numpy().tobytes() for mask in masks}) == 5


def test_validation_losses_compare_between_epochs(tmp_path: Path) -> None:
    model = N2VModule(nn.Conv2d(1, 1, 1), optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    seen = []

    class Watch(L.Callback):
        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if not trainer.sanity_checking:
                seen.append(trainer.callback_metrics["val_loss"].item())

    loader = DataLoader(Items(images()), batch_size=2)
    trainer(tmp_path, max_epochs=3, callbacks=Watch()).fit(model, loader, loader)
    assert len(seen) == 3 and len(set(seen)) == 1


@pytest.mark.parametrize(
    ("network", "masking"),
    [
        (UNet(1, dims=2, first_filters=2), None),
        (UNet(1, dims=2, first_filters=2, n2v2=True), Masking(strategy="median")),
        (nn.Conv2d(1, 1, 3, padding=1), Masking(struct_mask="horizontal")),
    ],
)
def test_trains(tmp_path: Path, network: nn.Module, masking: Masking | None) -> None:
    before = [p.clone() for p in network.parameters()]
    model = N2VModule(network, masking=masking)
    run = trainer(tmp_path, max_steps=3)
    run.fit(model, DataLoader(Items(images(6)), batch_size=2))
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert run.callback_metrics["train_loss"].isfinite()
    run.save_checkpoint(tmp_path / "last.ckpt")
    torch.load(tmp_path / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("turns", [True, False])
@pytest.mark.parametrize("shape", ["horizontal", "vertical", "cross", "square", None])
def test_patches_are_not_turned_off_the_axis_of_the_noise(
    tmp_path: Path, shape: StructMask | None, turns: bool
) -> None:
    data = ArrayDataModule(
        train_data=np.random.default_rng(0).random((96, 96), dtype=np.float32),
        axes="YX",
        patch_size=(32, 32),
        augmentation=Augmentation(quarter_turns=turns),
    )
    model = N2VModule(UNet(1, dims=2, first_filters=2), masking=Masking(struct_mask=shape))
    run = trainer(tmp_path, max_steps=1)
    if turns and shape in ("horizontal", "vertical"):
        with pytest.raises(ValueError, match=rf"struct_mask={shape} .* data\.augmentation=false"):
            run.fit(model, datamodule=data)
    else:
        run.fit(model, datamodule=data)


@pytest.mark.parametrize("model", [N2VModule, CAREModule])
def test_noise_that_it_would_learn_is_warned_of(
    tmp_path: Path, model: type[N2VModule | CAREModule]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 32, 32), "uint8")
    for number, image in enumerate(pixels):
        how = {"compression": "jpeg", "compressionargs": {"level": 50}} if number else {}
        tifffile.imwrite(tmp_path / f"{number}.tif", image, metadata={"axes": "YX"}, **how)
    same = {} if model is N2VModule else {"train_target": tmp_path, "normalization": "none"}
    data = TiffDataModule(train_data=tmp_path, patch_size=(16, 16), n_val_patches=0, **same)
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    network = UNet(1, dims=2, first_filters=2, depth=1)
    why = r"in 1 of 2 training image\(s\), such as .*1\.tif \(lossy JPEG compression\)"
    with pytest.warns(UserWarning, match=why) if model is N2VModule else nullcontext():
        run.fit(model(network), datamodule=data)


def test_denoises(tmp_path: Path) -> None:
    """A few dozen steps on noisy waves must remove a good part of the noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ramp = torch.arange(32) / 3
        clean = (ramp[:, None] + torch.rand(48, 1, 1, 1) * 6).sin() * ramp.cos()
        noisy = clean + 0.5 * torch.randn(clean.shape)
        model = N2VModule(
            UNet(1, dims=2, first_filters=8, depth=1),
            masking=Masking(masked_pixel_percentage=2),
            optimizer=lambda p: torch.optim.Adam(p, lr=1e-2),
        )
        loader = DataLoader(Items([{"image": x} for x in noisy]), batch_size=16)
        trainer(tmp_path, max_epochs=20).fit(model, loader)
        model.eval()
        with torch.no_grad():
            restored = model(noisy)
    assert F.mse_loss(restored, clean) < 0.5 * F.mse_loss(noisy, clean)
