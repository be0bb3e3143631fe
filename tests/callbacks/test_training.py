"""The checkpoint that is kept, learning rates, pictures and the report of a test."""

import csv
import warnings
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from apps import CONF, SMALL, refuse, succeed, write_tiffs
from matplotlib.image import imread
from modules import Identity, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from careamics_dm import ArrayDataModule, N2VModule
from careamics_dm.callbacks import scores_report as report
from careamics_dm.callbacks.training import LearningRate, Pictures, SaveModel
from careamics_dm.cli.train import use_saved
from careamics_dm.errors import DataError
from careamics_dm.evaluation.metrics import psnr, scale_invariant_psnr, ssim
from careamics_dm.models.supervised import CAREModule
from careamics_dm.models.unet import UNet

rng = np.random.default_rng(0)
CLEAN = 100 + 50 * np.sin(np.add.outer(np.arange(48), np.arange(40)) / 5).astype(np.float32)
NOISY = CLEAN + rng.normal(0, 20, CLEAN.shape).astype(np.float32)
NET = partial(UNet, depth=1, first_filters=4)


def data_of(**options):
    settings = {"patch_size": (16, 16), "batch_size": 4, "patches_per_epoch": 8, "axes": "YX"}
    return ArrayDataModule(train_data=NOISY, **(settings | options))


class Scripted(Identity):
    """Reports the validation losses it is told, and knows by its weight how many epochs it saw."""

    keeps = "best"

    def __init__(self, losses):
        super().__init__()
        self.losses = losses

    def training_step(self, batch, batch_idx):
        self.log("train_loss", 1.0)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.losses[self.current_epoch])

    def on_train_epoch_end(self):
        torch.nn.init.constant_(self.weight, float(self.current_epoch))


def fit(folder, model, callback, data=None, **options):
    settings = {"callbacks": [callback], "enable_checkpointing": True, "num_sanity_val_steps": 0}
    run = trainer(folder, **(settings | options))
    run.fit(model, datamodule=data or data_of(n_val_patches=2))
    return run


def kept_epoch(path):
    content = torch.load(path, weights_only=True)
    return content["epoch"]


class TestSaveModel:
    @pytest.mark.parametrize(
        ("keeps", "keep", "epoch"),
        [
            ("best", None, 1),
            ("last", None, 3),
            ("best", "last", 3),
            ("last", "best", 1),
        ],
    )
    def test_it_keeps_what_the_model_says_unless_told_otherwise(self, tmp_path, keeps, keep, epoch):
        model, saved = Scripted([3.0, 1.0, 2.0, 1.5]), SaveModel(tmp_path, keep=keep)
        model.keeps = keeps
        fit(tmp_path, model, saved, max_epochs=4)
        assert kept_epoch(tmp_path / "model.ckpt") == epoch
        assert saved.kept_scores["epoch"] == epoch
        assert saved.kept_scores["val_loss"] == model.losses[epoch]
        names = {path.name for path in tmp_path.iterdir()}
        assert names == ({"model.ckpt", "last.ckpt"} if epoch == 1 else {"model.ckpt"})
        if epoch == 1:
            assert kept_epoch(tmp_path / "last.ckpt") == 3

    def test_a_model_that_says_nothing_keeps_the_last(self, tmp_path):
        fit(tmp_path, Identity(), SaveModel(tmp_path), max_epochs=2)
        assert kept_epoch(tmp_path / "model.ckpt") == 1

    def test_without_validation_the_best_is_the_last(self, tmp_path):
        data = data_of(n_val_patches=0)
        with pytest.warns(UserWarning, match="is zero"):
            fit(tmp_path, Scripted([]), SaveModel(tmp_path), data, max_epochs=2)
        assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]
        assert kept_epoch(tmp_path / "model.ckpt") == 1

    def test_between_validations_the_best_stays(self, tmp_path):
        saved, often = SaveModel(tmp_path), {"max_epochs": 5, "check_val_every_n_epoch": 2}
        fit(tmp_path, Scripted([9.0, 1.0, 9.0, 2.0, 9.0]), saved, **often)
        assert kept_epoch(tmp_path / "model.ckpt") == 1
        assert kept_epoch(tmp_path / "last.ckpt") == 4

    @pytest.mark.parametrize(("name", "first"), [("model.ckpt", 1), ("last.ckpt", 3)])
    @pytest.mark.parametrize(("losses", "epoch"), [([4.0, 6.0], 3), ([6.0, 7.0], 0)])
    def test_in_another_folder_the_best_of_all_epochs_is_kept(
        self, tmp_path, name, first, losses, epoch
    ):
        before, folder = tmp_path / "before", tmp_path / "after"
        fit(before, Scripted([5.0, 8.0, 9.0]), SaveModel(before), max_epochs=3)
        run = trainer(folder, callbacks=[SaveModel(folder)], enable_checkpointing=True)
        run.fit_loop.max_epochs = 5
        model = Scripted([9.0, 8.0, 9.0, *losses])
        run.fit(model, datamodule=data_of(n_val_patches=2), ckpt_path=before / name)
        assert len(model.seen) == 2 * (5 - first)
        assert kept_epoch(folder / "model.ckpt") == epoch
        assert kept_epoch(folder / "last.ckpt") == 4
        assert use_saved(run, model) == {
            "train_loss": 1.0,
            "val_loss": min(5.0, *losses),
            "epoch": epoch,
        }
        assert model.weight.item() == epoch
        assert kept_epoch(before / "model.ckpt") == 0  # as it was

    def test_the_best_of_a_checkpoint_without_scores_is_the_best(self, tmp_path):
        saved, again = SaveModel(tmp_path), SaveModel(tmp_path)
        fit(tmp_path, Scripted([5.0, 8.0]), saved, max_epochs=2)
        state = saved.state_dict()
        again.load_state_dict({key: state[key] for key in state if key != "kept_scores"})
        assert again.best_model_score == saved.best_model_score == 5.0

    def test_the_best_is_found_where_the_folder_has_moved(self, tmp_path):
        fit(tmp_path / "old", Scripted([5.0, 8.0]), SaveModel(tmp_path / "old"), max_epochs=2)
        folder = (tmp_path / "old").rename(tmp_path / "new")
        run = trainer(folder, callbacks=[SaveModel(folder)], enable_checkpointing=True)
        run.fit_loop.max_epochs = 3
        with pytest.warns(UserWarning, match="not empty"):
            model = Scripted([9.0, 9.0, 6.0])
            run.fit(model, datamodule=data_of(n_val_patches=2), ckpt_path=folder / "last.ckpt")
        assert kept_epoch(folder / "model.ckpt") == 0
        assert use_saved(run, model)["val_loss"] == 5.0

    def test_a_model_that_was_only_validated_is_not_taken_for_that_of_the_run(self, tmp_path):
        before, folder = tmp_path / "before", tmp_path / "after"
        fit(before, Scripted([5.0, 8.0]), SaveModel(before), max_epochs=2)
        run = trainer(folder, callbacks=[SaveModel(folder)], enable_checkpointing=True)
        run.fit_loop.max_epochs = 2
        model, data = Scripted([9.0, 7.0]), data_of(n_val_patches=2)
        run.validate(model, datamodule=data, ckpt_path=before / "last.ckpt", verbose=False)
        run.fit(model, datamodule=data)
        assert use_saved(run, model)["val_loss"] == 7.0

    @pytest.mark.parametrize("elsewhere", [False, True])
    def test_the_last_model_of_a_run_is_not_taken_for_its_best(self, tmp_path, elsewhere):
        before = tmp_path / "before"
        fit(before, Scripted([5.0, 8.0]), SaveModel(before), max_epochs=2)
        for keep, losses, folder in (
            ("last", [7.0], before),
            ("best", [6.0, 6.5], tmp_path / "after" if elsewhere else before),
        ):
            run = trainer(
                folder, callbacks=[SaveModel(folder, keep=keep)], enable_checkpointing=True
            )
            run.fit_loop.max_epochs = 3 if keep == "last" else 5
            model = Scripted([9.0] * (run.max_epochs - len(losses)) + losses)
            ckpt = before / ("last.ckpt" if keep == "last" else "model.ckpt")
            with warnings.catch_warnings(action="ignore"):
                run.fit(model, datamodule=data_of(n_val_patches=2), ckpt_path=ckpt)
        assert use_saved(run, model)["val_loss"] == 6.0
        assert kept_epoch(folder / "model.ckpt") == 3

    @pytest.mark.parametrize("instead", ["nothing", "damaged", "another run"])
    def test_a_best_that_is_gone_is_said_and_none_is_made_up(self, tmp_path, instead):
        before, folder = tmp_path / "before", tmp_path / "after"
        fit(before, Scripted([5.0, 8.0]), SaveModel(before), max_epochs=2)
        (before / "model.ckpt").unlink()
        if instead == "damaged":
            (before / "model.ckpt").write_bytes(b"PK no checkpoint")
        elif instead == "another run":
            other = tmp_path / "other"
            fit(other, Scripted([4.0]), SaveModel(other), max_epochs=1)
            (other / "model.ckpt").rename(before / "model.ckpt")
        run = trainer(folder, callbacks=[SaveModel(folder)], enable_checkpointing=True)
        run.fit_loop.max_epochs = 4
        with pytest.warns(UserWarning, match=r"lowest val_loss so far \(5\) can't be read"):
            run.fit(
                Scripted([9.0, 9.0, 7.0, 6.0]),
                datamodule=data_of(n_val_patches=2),
                ckpt_path=before / "last.ckpt",
            )
        assert kept_epoch(folder / "model.ckpt") == 3

    def test_in_the_same_folder_the_best_of_both_runs_stays(self, tmp_path):
        fit(tmp_path, Scripted([1.0, 2.0]), SaveModel(tmp_path), max_epochs=2)
        run = trainer(tmp_path, callbacks=[SaveModel(tmp_path)], enable_checkpointing=True)
        run.fit_loop.max_epochs = 3
        with pytest.warns(UserWarning, match="not empty"):
            model = Scripted([9.0, 9.0, 1.5])
            run.fit(model, datamodule=data_of(n_val_patches=2), ckpt_path=tmp_path / "last.ckpt")
        assert kept_epoch(tmp_path / "model.ckpt") == 0

    @pytest.mark.parametrize(("name", "max_epochs"), [("last.ckpt", 3), ("model.ckpt", 2)])
    def test_a_run_that_goes_on_in_the_same_folder_knows_what_is_kept(
        self, tmp_path, name, max_epochs
    ):
        fit(tmp_path, Scripted([1.0, 2.0]), SaveModel(tmp_path), max_epochs=2)
        run = trainer(tmp_path, callbacks=[SaveModel(tmp_path)], enable_checkpointing=True)
        run.fit_loop.max_epochs = max_epochs
        with pytest.warns(UserWarning, match="not empty"):
            model = Scripted([9.0, 9.0, 1.5])
            run.fit(model, datamodule=data_of(n_val_patches=2), ckpt_path=tmp_path / name)
        assert use_saved(run, model)["val_loss"] == 1.0
        assert kept_epoch(tmp_path / "model.ckpt") == 0
        assert model.weight.item() == 0.0

    def test_other_choices_are_refused(self):
        with pytest.raises(DataError, match="keep='first': choose best or last"):
            SaveModel(keep="first")


class TestLearningRate:
    def test_it_logs_each_epoch_and_without_a_logger_nothing(self, tmp_path):
        logger = L.pytorch.loggers.CSVLogger(tmp_path, name="", version="logs")
        scheduler = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
        for used in (logger, False):
            model = N2VModule(NET, scheduler=scheduler)
            options = {"logger": used, "max_epochs": 3, "log_every_n_steps": 1}
            fit(tmp_path, model, LearningRate(), **(options | {"enable_checkpointing": False}))
        with (tmp_path / "logs/metrics.csv").open() as file:
            rates = [float(row["lr-Adam"]) for row in csv.DictReader(file) if row["lr-Adam"]]
        assert rates == pytest.approx([1e-3, 5e-4, 2.5e-4])


class TestPictures:
    def test_every_few_epochs_the_same_place_with_the_target(self, tmp_path):
        data = data_of(train_target=CLEAN, n_val_patches=2)
        off = {"max_epochs": 5, "enable_checkpointing": False}
        torch.manual_seed(0)  # other weights may be dead from the start
        fit(tmp_path, CAREModule(NET), Pictures(2), data, **off)
        names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
        assert names == ["epoch_0002.png", "epoch_0004.png"]
        one, other = (imread(tmp_path / "pictures" / name) for name in names)
        third = one.shape[1] // 3
        # Three panels: the first and the last stay, the one between changes.
        np.testing.assert_array_equal(one[60:, : third - 9], other[60:, : third - 9])
        np.testing.assert_array_equal(one[60:, -third + 9 :], other[60:, -third + 9 :])
        assert not np.array_equal(one[60:, third:-third], other[60:, third:-third])

    @pytest.mark.filterwarnings("ignore:val_data. intensities are")
    def test_of_the_validation_images_where_there_are_any(self, tmp_path):
        dark = np.zeros_like(NOISY)
        data = data_of(val_data=dark)
        off = {"max_epochs": 1, "enable_checkpointing": False}
        fit(tmp_path, N2VModule(NET), Pictures(1), data, **off)
        blue = imread(tmp_path / "pictures/epoch_0001.png")[..., 2]  # the frame of the zoom is red
        assert blue[100:200, 100:200].max() < 0.3

    def test_training_is_the_same_with_and_without(self, tmp_path):
        results = []
        for callback in (Pictures(1), LearningRate()):
            torch.manual_seed(0)
            model = N2VModule(partial(NET, batch_norm=True))
            options = {"max_epochs": 3, "enable_checkpointing": False}
            run = fit(tmp_path, model, callback, **options)
            losses = [float(run.callback_metrics[name]) for name in ("train_loss", "val_loss")]
            results.append((losses, [w.clone() for w in model.state_dict().values()], model))
        (one, weights, model), (other, expected, _) = results
        assert one == other
        assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
        assert len(list((tmp_path / "pictures").iterdir())) == 3

    def test_the_model_trains_on_afterwards(self, tmp_path):
        found = set()

        class Modes(L.Callback):
            def on_train_start(self, trainer, module):
                module.frozen.eval()

            def on_train_batch_start(self, trainer, module, batch, batch_idx):
                found.add((module.network.training, module.frozen.training))

        model = N2VModule(NET)
        model.frozen = torch.nn.Dropout()
        options = {"max_epochs": 2, "enable_checkpointing": False}
        fit(tmp_path, model, Pictures(1), **(options | {"callbacks": [Pictures(1), Modes()]}))
        assert found == {(True, False)}

    def test_nothing_of_models_of_others(self, tmp_path):
        fit(tmp_path, Identity(), Pictures(1), max_epochs=1, enable_checkpointing=False)
        assert not list(tmp_path.rglob("*.png"))

    @pytest.mark.parametrize("n", [0, 2.5, True])
    def test_odd_intervals_are_refused(self, n):
        with pytest.raises(DataError, match="every_n_epochs"):
            Pictures(n)

    def test_tensorboard_shows_them(self, tmp_path):
        write_tiffs(tmp_path / "images", "YX", [(40, 50)])
        often = ("logger=tensorboard", "callbacks.pictures.every_n_epochs=1")
        data = ("data=tiff", "data.train_data=images")
        done = succeed("train", tmp_path, *SMALL, *data, *often)
        assert "pictures/epoch_0001.png" in done.files
        events = EventAccumulator(str(done.folder / "logs"))
        events.Reload()
        (picture,) = events.Images("picture")
        assert picture.height == imread(done.folder / "pictures/epoch_0001.png").shape[0]


def test_early_stopping_is_the_default_set_and_an_end():
    default, early = (
        yaml.safe_load((CONF / "callbacks" / f"{name}.yaml").read_text(encoding="utf-8"))
        for name in ("default", "early_stopping")
    )
    stop = early.pop("early_stopping")
    assert early == {"defaults": [*default["defaults"], "_self_"]}
    assert (stop["monitor"], stop["patience"], stop["check_finite"]) == ("val_loss", 20, True)


def test_early_stopping_stops(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50)])
    data = ("data=tiff", "data.train_data=images", "trainer.max_epochs=50")
    early = ("callbacks=early_stopping", "callbacks.early_stopping.patience=2")
    small = (*SMALL[1:], "callbacks.early_stopping.min_delta=9", "data.patches_per_epoch=4")
    done = succeed("train", tmp_path, *data, *small, *early)
    assert kept_epoch(done.folder / "model.ckpt") == 2


# ------------------------------------------------------------------------------ TestReport


def table(folder):
    with (folder / "test.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class TestTest:
    def test_scores_are_those_of_whole_images(self, tmp_path):
        """Of two images, whole; against the metrics of this package on what is predicted."""
        noisy, clean = [NOISY, NOISY[:32] + 5], [CLEAN, CLEAN[:32]]
        data = data_of(train_target=CLEAN, test_data=noisy, test_target=clean, predict_data=noisy)
        model = CAREModule(NET)
        run = trainer(tmp_path, max_epochs=1, callbacks=[report.TestReport(tmp_path / "new")])
        run.fit(model, datamodule=data)
        run.test(model, datamodule=data, verbose=False)
        predictions = run.predict(model, datamodule=data)
        rows = table(tmp_path / "new")
        assert [row["image"] for row in rows] == ["test_data_0000", "test_data_0001", "mean"]
        for row, before, truth, output in zip(rows, noisy, clean, predictions, strict=False):
            after = output["prediction"][0, 0].numpy()
            for name, score in (
                ("psnr", psnr),
                ("si_psnr", scale_invariant_psnr),
                ("ssim", ssim),
            ):
                assert float(row[name]) == pytest.approx(score(truth, after), rel=1e-3)
                assert float(row[f"{name}_noisy"]) == pytest.approx(score(truth, before), rel=1e-3)
        means = [np.mean([float(row["psnr"]) for row in rows[:2]]), float(rows[2]["psnr"])]
        assert means[0] == pytest.approx(means[1])

    def test_a_constant_target_has_no_score_and_spoils_no_mean(self, tmp_path):
        noisy, clean = [NOISY, NOISY, NOISY], [CLEAN, np.full_like(CLEAN, 7), CLEAN * 2]
        data = data_of(train_target=CLEAN, test_data=noisy, test_target=clean)
        model = CAREModule(NET)
        run = trainer(tmp_path, max_epochs=1, callbacks=[report.TestReport(tmp_path)])
        run.fit(model, datamodule=data)
        with pytest.warns(UserWarning, match=r"1 image\(s\) have a target .* test_data_0001\."):
            [found] = run.test(model, datamodule=data, verbose=False)
        first, flat, third, mean = table(tmp_path)
        assert {flat[column] for column in report.COLUMNS} == {""}
        for column in report.COLUMNS:
            expected = np.mean([float(first[column]), float(third[column])])
            assert float(mean[column]) == pytest.approx(expected)
        assert found["test_psnr"] == pytest.approx(float(mean["psnr"]), rel=1e-4)

    def test_the_picture_is_the_same_with_and_without_tiles(self, tmp_path):
        """The noisy and the target panels are equal, pixel by pixel."""
        pictures = []
        for tile_size in (None, (16, 24)):
            options = {"test_data": NOISY, "test_target": CLEAN, "tile_size": tile_size}
            data = data_of(
                train_target=CLEAN, tile_overlap=(8, 8) if tile_size else None, **options
            )
            model, written = CAREModule(NET), report.TestReport(tmp_path / str(tile_size))
            run = trainer(tmp_path, max_epochs=1, callbacks=[written])
            run.fit(model, datamodule=data)
            run.test(model, datamodule=data, verbose=False)
            picture = imread(tmp_path / str(tile_size) / "test.png")
            third = picture.shape[1] // 3
            pictures.append((picture[:, : third - 9], picture[:, -third + 9 :]))
        for whole, tiled in zip(*pictures, strict=True):
            np.testing.assert_array_equal(whole, tiled)

    def test_volumes_show_their_middle(self, tmp_path):
        noisy, clean = np.stack([NOISY] * 9), np.stack([CLEAN * z for z in range(9)])
        options = {"patch_size": (4, 16, 16), "axes": "ZYX", "test_data": noisy}
        data = ArrayDataModule(
            train_data=noisy,
            train_target=clean,
            test_target=clean,
            patches_per_epoch=4,
            tile_size=(4, 24, 24),
            tile_overlap=(2, 8, 8),
            **options,
        )
        written = report.TestReport(tmp_path)
        run = trainer(tmp_path, max_epochs=1, callbacks=[written])
        run.fit(model := CAREModule(NET), datamodule=data)
        run.test(model, datamodule=data, verbose=False)
        assert imread(tmp_path / "test.png").std() > 0.1
        np.testing.assert_allclose(written.planes["target"], 4 * CLEAN, rtol=1e-5)

    def test_after_training_the_program_tests_and_prints_the_table(self, tmp_path):
        for name in ("images", "targets"):
            write_tiffs(tmp_path / name, "YX", [(40, 50), (33, 64)])
        data = ("data=tiff", "data.train_data=images", "data.train_target=targets", "model=care")
        pairs = ("data.test_data=images", "data.test_target=targets")
        done = succeed("train", tmp_path, *SMALL, *data, *pairs)
        assert {"test.csv", "test.png"} <= done.files
        assert str(done.folder / "test.csv") in done.out
        assert "psnr_noisy" in done.out and "image_1.tif" in done.out
        rows = table(done.folder)
        with (done.folder / "scores.csv").open() as file:
            (scores,) = csv.DictReader(file)
        assert float(scores["test_psnr"]) == pytest.approx(float(rows[-1]["psnr"]), rel=1e-4)

    def test_without_targets_there_is_the_loss_where_a_model_has_one(self, tmp_path):
        write_tiffs(tmp_path / "images", "YX", [(40, 50)])
        data = ("data=tiff", "data.train_data=images", "data.test_data=images")
        done = succeed("train", tmp_path, *SMALL, *data)
        assert "no data.test_target" in done.out
        assert not {"test.csv", "test.png"} & done.files
        supervised = ("data.train_target=images", "model=care")
        message = refuse("train", tmp_path, *SMALL, *data, *supervised)
        assert "Give test_target" in message

    def test_bad_test_data_are_refused_before_training(self, tmp_path):
        write_tiffs(tmp_path / "images", "YX", [(40, 50)])
        data = ("data=tiff", "data.train_data=images", "hydra.run.dir=bad")
        message = refuse("train", tmp_path, *SMALL, *data, "data.test_data=nowhere")
        assert "test_data: nowhere does not exist" in message
        message = refuse(
            "train", tmp_path, *SMALL, *data, "data.test_data=images", "data.batch_format=tuple"
        )
        assert "test_data: needs data.batch_format=dict" in message
        assert not list(tmp_path.rglob("*.ckpt"))


def test_the_weights_that_are_kept_make_the_pictures_and_the_scores(tmp_path):
    """With a huge learning rate that stays, the last epoch is worse than the best."""
    write_tiffs(tmp_path / "images", "YX", [(40, 50)])
    data = ("data=tiff", "data.train_data=images", "data.train_target=images", "model=care")
    more = ("trainer.max_epochs=6", "model.optimizer.lr=0.3", "model.scheduler=null")
    done = succeed("train", tmp_path, *SMALL, *data, *more, "data.predict_data=images")
    with (done.folder / "scores.csv").open() as file:
        (scores,) = csv.DictReader(file)
    with (done.folder / "logs/metrics.csv").open() as file:
        losses = {
            int(r["epoch"]): float(r["val_loss"]) for r in csv.DictReader(file) if r["val_loss"]
        }
    best = min(losses, key=losses.get)
    assert best != 5 and float(scores["epoch"]) == best
    assert float(scores["val_loss"]) == pytest.approx(losses[best])
    place = (f"checkpoint={done.folder}/model.ckpt", "data.predict_data=images")
    again = succeed("predict", tmp_path, *place, folder="again")
    name = "denoised/image_0.tif"
    assert (again.folder / name).read_bytes() == (done.folder / name).read_bytes()
    assert yaml.safe_load((done.folder / "config.yaml").read_text())["callbacks"]["checkpoint"]
