"""Validation and test: restored images against targets, in the units of the data."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from modules import trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from careamics_dm.evaluation.metrics import Scores, psnr, scale_invariant_psnr, ssim
from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.models.distributed_scores import mean_over_images, merged
from careamics_dm.models.n2v import N2VModule
from careamics_dm.models.supervised import CAREModule
from careamics_dm.models.unet import UNet

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
NAMES = ("psnr", "si_psnr", "ssim")
RNG = np.random.default_rng(0)
CLEAN = [
    (100 + 10 * np.sin(np.arange(h * w).reshape(h, w) / 9)).astype(np.float32)
    for h, w in ((40, 33), (24, 50))
]
NOISY = [(c + RNG.normal(0, 3, c.shape)).astype(np.float32) for c in CLEAN]


class Halve(nn.Module):
    """A restoration that is known, and counts how often it is asked."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 0.5 * x


def data(**options: Any) -> ArrayDataModule:
    given = {"train_data": NOISY, "train_target": CLEAN, "test_data": NOISY, "test_target": CLEAN}
    settings: dict[str, Any] = given | {"axes": "YX", "patch_size": (16, 16), "batch_size": 3}
    return ArrayDataModule(**(settings | options))


def restored(module: ArrayDataModule, image: Any, side: str = "target") -> Any:
    """What `Halve` makes of an image, in the units of the data."""
    of, to = (module.statistics.get(s, module.statistics["image"]) for s in ("image", side))
    return (image - of.offset[0]) / of.scale[0] * 0.5 * to.scale[0] + to.offset[0]


@pytest.mark.parametrize("module", [CAREModule, N2VModule])
def test_whole_test_images_have_the_scores_of_the_functions(tmp_path: Path, module: Any) -> None:
    source, model = data(), module(Halve())
    [found] = trainer(tmp_path).test(model, datamodule=source, verbose=False)
    assert list(model.test_scores) == list(model.test_scores_before) == [0, 1]
    for image, (noisy, clean) in enumerate(zip(NOISY, CLEAN, strict=True)):
        for scores, expected in (
            (model.test_scores[image], restored(source, noisy, model.restores_to)),
            (model.test_scores_before[image], noisy),
        ):
            values = scores.as_dict()
            assert values["psnr"] == [pytest.approx(psnr(clean, expected), abs=1e-3)]
            assert values["si_psnr"] == [
                pytest.approx(scale_invariant_psnr(clean, expected), abs=1e-3)
            ]
            assert values["ssim"] == [pytest.approx(ssim(clean, expected), abs=1e-4)]
    for name in NAMES:
        each = [model.test_scores[image].as_dict()[name][0] for image in (0, 1)]
        assert found[f"test_{name}"] == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize("normalize_target", [True, False])
def test_noise2void_restores_to_the_units_of_the_images_whatever_the_targets(
    tmp_path: Path, normalize_target: bool
) -> None:
    noisy = 3 * NOISY[0] + 50
    source = data(
        train_data=noisy,
        train_target=CLEAN[0],
        predict_data=noisy,
        test_data=noisy,
        test_target=CLEAN[0],
        normalize_target=normalize_target,
    )
    model = N2VModule(nn.Identity())
    found = trainer(tmp_path).predict(model, datamodule=source)
    np.testing.assert_allclose(found[0]["prediction"][0, 0], noisy, rtol=1e-4)
    model.test_time_augmentation = model.uncertainty = True
    found = trainer(tmp_path).predict(model, datamodule=source)
    assert found[0]["uncertainty"].max() < 1e-2
    trainer(tmp_path).test(model, datamodule=source, verbose=False)
    after, before = (s[0].as_dict() for s in (model.test_scores, model.test_scores_before))
    assert after["psnr"] == pytest.approx(before["psnr"], abs=1e-3)


def test_tiles_are_cut_to_what_they_keep_so_that_psnr_is_that_of_the_whole_image(
    tmp_path: Path,
) -> None:
    whole, tiled = CAREModule(Halve()), CAREModule(Halve())
    trainer(tmp_path).test(whole, datamodule=data(), verbose=False)
    source = data(tile_size=(16, 16), tile_overlap=(6, 6))
    trainer(tmp_path).test(tiled, datamodule=source, verbose=False)
    for image in (0, 1):
        a, b = (m.test_scores[image].as_dict() for m in (whole, tiled))
        assert b["psnr"] == pytest.approx(a["psnr"], abs=1e-3)
        assert b["si_psnr"] == pytest.approx(a["si_psnr"], abs=1e-3)
        # Each tile is reflected at its border and has its own range.
        assert b["ssim"] == pytest.approx(a["ssim"], abs=0.2)


def test_a_test_takes_one_pass_per_tile_unless_the_loss_needs_blind_spots(tmp_path: Path) -> None:
    calls = []
    for model, target in (
        (CAREModule(Halve()), CLEAN),
        (N2VModule(Halve()), CLEAN),
        (N2VModule(Halve()), None),
    ):
        source = data(test_target=target)
        [found] = trainer(tmp_path).test(model, datamodule=source, verbose=False)
        calls.append((model.network.calls, "test_loss" in found, "test_psnr" in found))
    assert calls == [(2, True, True), (2, False, True), (4, True, False)]


def test_the_loss_of_a_test_is_that_of_the_restored_images(tmp_path: Path) -> None:
    source = data()
    [found] = trainer(tmp_path).test(CAREModule(Halve()), datamodule=source, verbose=False)
    scale = source.statistics["target"].scale[0]
    each = [
        np.abs(restored(source, n) - c).mean() / scale for n, c in zip(NOISY, CLEAN, strict=True)
    ]
    assert found["test_loss"] == pytest.approx(np.mean(each), rel=1e-4)


@pytest.mark.parametrize("target", [CLEAN, None])
def test_a_test_step_returns_what_callbacks_show_in_the_units_of_the_data(
    tmp_path: Path, target: Any
) -> None:
    seen: list[dict[str, Tensor]] = []

    class Look(L.Callback):
        def on_test_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            seen.append(outputs)

    source = data(test_target=target)
    network = UNet(1, dims=2, first_filters=2, depth=2)  # 33 pixels are none of its sizes
    run = trainer(tmp_path, callbacks=Look())
    run.test(N2VModule(network), datamodule=source, verbose=False)
    assert len(seen) == 2
    for output, noisy, clean in zip(seen, NOISY, CLEAN, strict=True):
        keys = {"prediction", "image", "region"}
        assert set(output) == (keys if target is None else keys | {"target"})
        assert output["prediction"].shape == (1, 1, *noisy.shape)
        np.testing.assert_allclose(output["image"][0, 0], noisy, rtol=1e-5)
        if target is not None:
            np.testing.assert_allclose(output["target"][0, 0], clean, rtol=1e-5)


def test_a_test_may_average_over_flips_and_turns(tmp_path: Path) -> None:
    model = CAREModule(Halve())
    model.test_time_augmentation = True
    trainer(tmp_path).test(model, datamodule=data(), verbose=False)
    assert model.network.calls == 16
    alone = CAREModule(Halve())
    trainer(tmp_path).test(alone, datamodule=data(), verbose=False)
    a, b = (m.test_scores[0].as_dict()["psnr"] for m in (model, alone))
    assert a == pytest.approx(b, rel=1e-5)


def test_a_second_test_starts_anew(tmp_path: Path) -> None:
    model = CAREModule(Halve())
    [first] = trainer(tmp_path).test(model, datamodule=data(), verbose=False)
    [second] = trainer(tmp_path).test(model, datamodule=data(), verbose=False)
    assert first == second


def test_without_regions_each_image_of_a_batch_is_one_and_without_data_module_units_stay(
    tmp_path: Path,
) -> None:
    x = torch.randn(5, 1, 16, 16)
    pairs = DataLoader([(2 * a, a) for a in x], batch_size=2)
    model = CAREModule(nn.Identity())
    [found] = trainer(tmp_path).test(model, pairs, verbose=False)
    assert list(model.test_scores) == [0, 1, 2, 3, 4]
    expected = [psnr(a.numpy(), 2 * a.numpy()) for a in x]
    assert found["test_psnr"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert found["test_si_psnr"] > 100


def test_the_input_is_not_scored_where_it_has_other_channels_than_the_target(
    tmp_path: Path,
) -> None:
    network = UNet(2, 1, dims=2, first_filters=2, independent_channels=False)
    source = data(
        train_data=np.stack(NOISY[:1] * 2),
        train_target=CLEAN[0][None],
        test_data=np.stack(NOISY[:1] * 2),
        test_target=CLEAN[0][None],
        axes="CYX",
    )
    model = CAREModule(network)
    trainer(tmp_path).test(model, datamodule=source, verbose=False)
    assert list(model.test_scores) == [0]
    assert model.test_scores_before == {}


@pytest.mark.parametrize("module", [CAREModule, N2VModule])
@pytest.mark.parametrize("channels", [1, 2])
def test_validation_logs_scores_of_restored_patches(
    tmp_path: Path, module: Any, channels: int
) -> None:
    noisy, clean = (np.stack([i[0], i[0][::-1] + 50][:channels]) for i in (NOISY, CLEAN))
    source = data(train_data=noisy, train_target=clean, axes="CYX", n_val_patches=3)
    model = module(Halve())
    [found] = trainer(tmp_path).validate(model, datamodule=source, verbose=False)
    expected = Scores(channels)
    for batch in source.val_dataloader():
        done = source.transform(batch)
        target = source.denormalize(done["target"])
        expected.add(target, source.denormalize(0.5 * done["image"], model.restores_to))
    for name, values in expected.as_dict().items():
        assert found[f"val_{name}"] == pytest.approx(np.mean(values), rel=1e-4)
        for channel, value in enumerate(values):
            key = f"val_{name}_{channel}"
            assert found.get(key) == (None if channels == 1 else pytest.approx(value, rel=1e-4))
    # One pass makes loss and patches; Noise2Void sees masked patches for its loss.
    passes = 1 if module is CAREModule else 2
    assert model.network.calls == passes * len(source.val_dataloader())


def test_validation_without_targets_has_a_loss_and_no_scores(tmp_path: Path) -> None:
    source = data(train_target=None, n_val_patches=3)
    [found] = trainer(tmp_path).validate(N2VModule(Halve()), datamodule=source, verbose=False)
    assert set(found) == {"val_loss"}


def test_scores_of_processes_are_merged_by_image() -> None:
    x, y = torch.randn(2, 6, 1, 8, 8)
    parts: list[dict[int, Scores]] = [{}, {}, {}]
    for part, (a, b), image in zip(parts, pairwise((0, 2, 4, 6)), (7, 2, 7), strict=True):
        part[image] = Scores(1)
        part[image].add(x[a:b], y[a:b])
    parts.append({})
    together = merged(parts)
    assert list(together) == [2, 7]
    both = Scores(1)
    both.add(x[[0, 1, 4, 5]], y[[0, 1, 4, 5]])
    assert together[7].as_dict()["psnr"] == pytest.approx(both.as_dict()["psnr"])
    means = mean_over_images(together)
    assert set(means) == set(NAMES) and not math.isnan(means["psnr"])
    assert mean_over_images({}) == {}


class Noting(CAREModule):
    """Each process writes what it knows when a test is over."""

    folder: Path

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        known = {
            "metrics": {k: v.item() for k, v in self.trainer.callback_metrics.items()},
            "scores": {k: v.as_dict() for k, v in self.test_scores.items()},
        }
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(known))


def test_processes_know_all_scores_even_one_that_has_no_image(tmp_path: Path) -> None:
    options = {"test_data": NOISY[0], "test_target": CLEAN[0]}
    model = Noting(Halve())
    model.folder = tmp_path
    run = trainer(tmp_path, strategy=DDPStrategy(start_method="forkserver"), devices=2)
    run.test(model, datamodule=data(**options), verbose=False)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    alone = CAREModule(Halve())
    [metrics] = trainer(tmp_path).test(alone, datamodule=data(**options), verbose=False)
    for known in found:
        assert known["scores"] == {"0": alone.test_scores[0].as_dict()}
    assert found[0]["metrics"] == pytest.approx(metrics, rel=1e-5)
