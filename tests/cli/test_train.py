"""`careamics-train`: from images to a model, denoised images and pictures, in one folder."""

import csv
import gc
import os
import socket
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
import torch
import yaml
from apps import SMALL, SMALL_3D, ended, noise, refuse, run, succeed, write_tiffs
from matplotlib.image import imread

import careamics_dm

BARE = {"model.ckpt", "config.yaml", "split.csv", "scores.csv", "denoised.png"}
RESULTS = BARE | {"logs/metrics.csv", "losses.png"}


@pytest.fixture
def images(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50), (33, 64)])
    return "data.train_data=images"


def types_in(value):
    yield type(value)
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, dict | list | tuple):
            yield from types_in(part)
        else:
            yield type(part)


def test_without_data_it_trains_on_the_sample_and_shows_what_it_did(tmp_path):
    done = succeed("train", tmp_path, *SMALL, "data.patches_per_epoch=32")
    assert done.files == RESULTS | {"denoised/predict_data.tif"}
    # Nothing is written elsewhere.
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    for name in ("model.ckpt", "losses.png", "denoised.png", "denoised"):
        assert str(done.folder / name) in done.out
    before, after = done.out.split("PSNR")[1].replace("dB", "").split("->")
    assert 23 < float(before) < 25
    assert 0 < float(after) < 40
    denoised = tifffile.imread(done.folder / "denoised/predict_data.tif")
    assert denoised.shape == (512, 512) and denoised.dtype == np.float32
    assert "using the simulated sample" in done.out
    for name in ("losses.png", "denoised.png"):
        picture = imread(done.folder / name)
        assert min(picture.shape[:2]) > 400
        assert picture[..., :3].std() > 0.02
    with (done.folder / "logs/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"train_loss", "val_loss", "epoch"} <= rows[0].keys()


def test_by_default_each_run_has_a_folder_of_its_own_by_date_and_time(tmp_path):
    succeed("train", tmp_path, *SMALL, "data.patches_per_epoch=8", folder=None)
    (model,) = tmp_path.rglob("model.ckpt")
    app, date, time, _ = model.relative_to(tmp_path / "outputs").parts
    assert app == "train"
    assert len(date.split("-")) == 3 and len(time.split("-")) == 4  # with microseconds


def test_the_configuration_that_is_left_is_complete_and_plain(tmp_path, images):
    done = succeed("train", tmp_path, *SMALL, "data=tiff", images)
    config = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert config["data"]["train_data"] == "images"
    assert config["data"]["patch_size"] == [16, 16]
    assert config["model"]["network"]["depth"] == 1
    assert "${" not in str(config) and "???" not in str(config)


def test_a_checkpoint_loads_with_weights_only_and_holds_plain_values(tmp_path, images):
    done = succeed("train", tmp_path, *SMALL, "data=tiff", images)
    content = torch.load(done.folder / "model.ckpt", weights_only=True)
    assert not [kind for kind in types_in(content) if "omegaconf" in kind.__module__]
    assert content["careamics_dm"] == yaml.safe_load((done.folder / "config.yaml").read_text())
    assert content["TiffDataModule"]["statistics"]["image"]["offset"][0] == pytest.approx(200, 0.02)


def test_without_images_to_predict_the_picture_shows_a_training_image(tmp_path, images):
    done = succeed("train", tmp_path, *SMALL, "data=tiff", images)
    assert done.files == RESULTS
    assert "PSNR" not in done.out


@pytest.mark.parametrize(
    ("axes", "shape", "patch"),
    [
        ("ZYX", (8, 20, 34), SMALL_3D),
        ("CYX", (3, 40, 50), SMALL),
        ("TYX", (3, 40, 50), SMALL),
        ("YXC", (40, 50, 2), SMALL),
        ("XYC", (50, 40, 2), SMALL),
        ("TZCYX", (2, 5, 2, 17, 33), SMALL_3D),
    ],
)
def test_any_axes_train_and_come_back_as_they_were(tmp_path, axes, shape, patch):
    other = tuple(n + (n > 10) for n in shape)
    write_tiffs(tmp_path / "images", axes, [shape, other])
    few = ("data.batch_size=4", "data.patches_per_epoch=8", f"data.axes={axes}")
    data = ("data=tiff", "data.train_data=images", "data.predict_data=images", *few)
    done = succeed("train", tmp_path, *patch, *data)
    assert done.files == RESULTS | {"denoised/image_0.tif", "denoised/image_1.tif"}
    for name, size in (("image_0", shape), ("image_1", other)):
        stack = careamics_dm.TiffDataModule(
            predict_data=done.folder / f"denoised/{name}.tif",
            patch_size=(4, 16, 16) if "Z" in axes else (16, 16),
        )
        stack.setup("predict")
        (denoised,) = stack.predict_stacks
        # Channels after columns are no image to other programs: they come first in results.
        order = "CYX" if axes == "YXC" else axes
        assert denoised.original_axes == order
        assert denoised.original_data_shape == tuple(size[axes.index(axis)] for axis in order)
        stack.teardown("predict")


def test_one_channel_of_several_can_be_chosen(tmp_path):
    write_tiffs(tmp_path / "images", "CYX", [(3, 40, 50)])
    data = ("data.train_data=images", "data.predict_data=images", "data.channels=[1]")
    done = succeed("train", tmp_path, *SMALL, "data=tiff", *data)
    assert tifffile.imread(done.folder / "denoised/image_0.tif").shape == (1, 40, 50)


def test_the_truth_gives_the_psnr_of_the_first_image(tmp_path, images):
    tifffile.imwrite(tmp_path / "clean.tif", np.tile(np.float32([150, 250]), (40, 25)))
    np.save(tmp_path / "clean.npy", tifffile.imread(tmp_path / "clean.tif"))
    data = ("data=tiff", images, "data.predict_data=images")
    psnr = {
        succeed("train", tmp_path, *SMALL, *data, f"truth={truth}", folder=truth[-3:])
        .out.split("PSNR")[1]
        .strip()
        for truth in ("clean.tif", "clean.npy")
    }
    noisy = tifffile.imread(tmp_path / "images/image_0.tif").astype(float)
    error = np.mean((noisy - tifffile.imread(tmp_path / "clean.tif")) ** 2)
    (line,) = psnr
    assert line.startswith(f"{10 * np.log10(100**2 / error):.2f} dB ->")


def test_resuming_goes_on_from_the_checkpoint(tmp_path, images):
    data = (*SMALL, "data=tiff", images)
    first = succeed("train", tmp_path, *data, folder="first")
    again = succeed("train", tmp_path, *data, "trainer.max_epochs=3", "checkpoint=first/model.ckpt")
    assert (first.folder / "model.ckpt").exists()
    contents = [torch.load(r.folder / "model.ckpt", weights_only=True) for r in (first, again)]
    assert [content["epoch"] for content in contents] == [0, 2]
    assert contents[1]["global_step"] == 3 * contents[0]["global_step"]
    with (again.folder / "logs/metrics.csv").open() as file:
        epochs = {int(row["epoch"]) for row in csv.DictReader(file) if row["epoch"]}
    assert epochs == {1, 2}
    straight = succeed("train", tmp_path, *data, "trainer.max_epochs=3", folder="straight")
    expected = torch.load(straight.folder / "model.ckpt", weights_only=True)
    assert contents[1]["TiffDataModule"] == expected["TiffDataModule"]


def test_the_same_seed_gives_the_same_model_and_another_another(tmp_path, images):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        done = succeed("train", tmp_path, *SMALL, "data=tiff", images, f"seed={seed}", folder=name)
        content = torch.load(done.folder / "model.ckpt", weights_only=True)
        weights.append(torch.cat([w.flatten().float() for w in content["state_dict"].values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_sweep_gives_each_combination_a_folder_and_leaves_nothing_behind(tmp_path, images):
    data = ("data=tiff", images, "data.n_val_patches=1", "data.patches_per_epoch=4")
    small = (*SMALL[:2], "model.network.first_filters=4")
    sweep = ("-m", *small, *data, "hydra.sweep.dir=sweep")
    choices = ("data.patch_size=[16,16],[32,32]", "model.network.depth=1,2")
    succeed("train", tmp_path, *sweep, "data.patch_size=[32,32]")
    process = psutil.Process()
    gc.collect()
    before = process.num_fds(), threading.active_count(), len(process.children(recursive=True))
    (tmp_path / "sweep").rename(tmp_path / "warm-up")
    succeed("train", tmp_path, *sweep, *choices)
    gc.collect()
    after = process.num_fds(), threading.active_count(), len(process.children(recursive=True))
    assert after == before
    found = set()
    for number in range(4):
        config = yaml.safe_load((tmp_path / f"sweep/{number}/config.yaml").read_text())
        assert (tmp_path / f"sweep/{number}/model.ckpt").exists()
        found.add((*config["data"]["patch_size"], config["model"]["network"]["depth"]))
    assert found == {(16, 16, 1), (16, 16, 2), (32, 32, 1), (32, 32, 2)}


def test_a_sweep_reports_the_jobs_that_fail_and_runs_the_others(tmp_path, images):
    sizes = "data.patch_size=[15,15],[16,16],[17,17]"
    done = run("train", tmp_path, "-m", *SMALL, "data=tiff", images, sizes, "hydra.sweep.dir=sweep")
    assert done.code == 1
    assert "Traceback" not in done.err
    for number, size in ((0, 15), (2, 17)):
        assert f"train, job {number} of the sweep: data.patch_size=({size}, {size})" in done.err
    assert [path.parent.name for path in tmp_path.rglob("model.ckpt")] == ["1"]


def test_logs_for_tensorboard(tmp_path, images):
    done = succeed("train", tmp_path, *SMALL, "data=tiff", images, "logger=tensorboard")
    (events,) = [name for name in done.files if "tfevents" in name]
    assert events.startswith("logs/")
    assert done.files == BARE | {"logs/hparams.yaml", events}


def test_a_run_without_a_logger(tmp_path, images):
    done = succeed("train", tmp_path, *SMALL, "data=tiff", images, "~logger")
    assert done.files == BARE


def test_more_callbacks_can_be_added(tmp_path, images):
    stop = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val_loss}"
    done = succeed("train", tmp_path, *SMALL, "data=tiff", images, f"+callbacks.stop={stop}")
    assert any("EarlyStopping" in key for key in load_callbacks(done.folder))


def load_callbacks(folder):
    return torch.load(folder / "model.ckpt", weights_only=True)["callbacks"]


def test_relative_paths_start_where_the_program_was_started(tmp_path, images):
    """As all other tests show, unless Hydra is told to go elsewhere; and even then."""
    done = succeed("train", tmp_path, *SMALL, "data=tiff", images, "hydra.job.chdir=true")
    assert done.files == RESULTS


NASTY = [
    "a=b.tif",
    "50% laser.tif",
    "x@y.tif",
    "one, two.tif",
    "[1] (2) {3}.tif",
    "it's 'quoted'.tif",
    'say "hi".tif',
    "dollar$HOME ${x}.tif",
    "µm – Größe.tif",
    "hash#semi;colon!.tif",
    "back\\slash.tif",
    "-dash.tif",
    "~tilde.tif",
    "star*question?.tif",
    " leading and trailing .tif",
    "two  spaces.tif",
    "plus+and&or|.tif",
    "a:b.tif",
    "null.tif",
    "日本語.tif",
]


@pytest.mark.parametrize("kind", ["csv", "txt"])
def test_a_manifest_takes_names_that_no_shell_would(tmp_path, kind):
    names = [name for name in NASTY if kind != "txt" or name == name.strip()]
    for name, path in zip(names, write_tiffs(tmp_path, "YX", [(16, 20)] * len(names)), strict=True):
        path.rename(tmp_path / name)
    manifest = tmp_path / f"images.{kind}"
    if kind == "csv":
        with manifest.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["input"], *([name] for name in names)])
    else:
        manifest.write_text("\n".join(names), encoding="utf-8")
    data = ("data=tiff", f"data.train_data=images.{kind}", f"data.predict_data=images.{kind}")
    done = succeed("train", tmp_path, *SMALL, *data)
    assert {p.name for p in (done.folder / "denoised").iterdir()} == set(names)


def quoted(path):
    """The rule that the README gives: double quotes, and a backslash before quotes inside."""
    text = str(path)
    return '"' + text.replace('"', '\\"') + '"'


@pytest.mark.parametrize("name", [name for name in NASTY if "\\" not in name and "${" not in name])
def test_a_nasty_name_in_quotes_reaches_the_data(tmp_path, name):
    message = refuse("train", tmp_path, "data=tiff", f"data.train_data={quoted('no/' + name)}")
    assert f"train_data: no/{name} does not exist" in message or "no file matches" in message


def test_a_run_in_a_folder_with_an_odd_name(tmp_path):
    odd = tmp_path / "µm = 50% [x], it's – ok"
    write_tiffs(odd / "images", "YX", [(40, 50)])
    data = ("data=tiff", "data.train_data=images", "data.predict_data=images")
    done = succeed("train", odd, *SMALL, *data)
    assert done.files == RESULTS | {"denoised/image_0.tif"}
    place = ("checkpoint=run/model.ckpt", "data.predict_data=images")
    assert "denoised/image_0.tif" in succeed("predict", odd, *place, folder="out").files


def test_what_would_fail_at_the_end_is_refused_at_the_start(tmp_path, images):
    data = ("data=tiff", images)
    tifffile.imwrite(tmp_path / "small.tif", noise((8, 8)))
    (tmp_path / "done").mkdir()
    (tmp_path / "done/image_0.tif").write_bytes(b"")
    (tmp_path / "file").write_text("")
    cases = {
        ("data.predict_data=nowhere",): "predict_data: nowhere does not exist",
        ("data.predict_data=images", "writer.folder=done"): "exist already",
        ("data.predict_data=images", "writer=npy"): "can't do so with NpyWriter",
        ("data.predict_data=images", "writer.folder=file/x"): "can't be written to",
        ("data.predict_data=images", "truth=small.tif"): "truth: its shape is (8, 8)",
        ("data.predict_data=images", "truth=nowhere.tif"): "truth: nowhere.tif can't be read",
        ("data.predict_data=images", "data.batch_format=tensor"): "batch_format=dict",
        ("checkpoint=nowhere.ckpt",): "checkpoint: nowhere.ckpt does not exist",
    }
    for arguments, expected in cases.items():
        assert expected in refuse("train", tmp_path, *SMALL, *data, *arguments)
    assert not list(tmp_path.rglob("model.ckpt"))


def test_array_files_and_functions_that_return_arrays(tmp_path):
    np.save(tmp_path / "noisy.npy", noise((40, 50)))
    data = ("data.train_data=noisy.npy", "data.predict_data=noisy.npy", "data.axes=YX")
    assert "denoised/noisy.tif" in succeed("train", tmp_path, *SMALL, *data).files
    function = "{_target_: careamics_dm.samples.noisy, name: nuclei, seed: 3}"
    data = (f"data.train_data={function}", "data.axes=YX", "data.patches_per_epoch=8")
    assert succeed("train", tmp_path, *SMALL, *data, folder="other").files == RESULTS


def test_other_batch_formats_train_too(tmp_path, images):
    data = ("data=tiff", images, "data.batch_format=tensor")
    assert succeed("train", tmp_path, *SMALL, *data).files == RESULTS


def test_settings_of_groups_can_be_mounted_in_the_data(tmp_path, images):
    groups = ("data/normalization=quantile", "data/augmentation=none")
    done = succeed("train", tmp_path, *SMALL, "data=tiff", images, *groups)
    config = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert config["data"]["normalization"]["low"] == 0.01
    assert config["data"]["augmentation"]["flip"] == ""


@pytest.mark.parametrize("model", ["n2v2", "structn2v"])
def test_the_other_models_train(tmp_path, images, model):
    done = succeed("train", tmp_path, *SMALL, "data=tiff", images, f"model={model}")
    assert done.files == RESULTS


def test_what_a_model_needs_of_the_data_gives_way_to_what_is_asked(tmp_path, images):
    """Of structN2V, no quarter turns; without flips they would be refused just the same."""
    found = []
    for name, setting in (("own", "seed=1"), ("off", "data.augmentation=false")):
        model = ("data=tiff", images, "model=structn2v", setting)
        done = succeed("train", tmp_path, *SMALL, *model, folder=name)
        found.append(yaml.safe_load((done.folder / "config.yaml").read_text())["data"])
    assert found[0]["augmentation"]["flip"] == "YX" and found[1]["augmentation"] is False
    turns = ("model=structn2v", "data.augmentation=true")
    assert "quarter turns" in refuse("train", tmp_path, *SMALL, "data=tiff", images, *turns)


@pytest.mark.parametrize(("model", "target"), [("care", "clean"), ("n2n", "noisy")])
def test_supervised_models_find_targets_in_the_sample(tmp_path, model, target):
    done = succeed("train", tmp_path, *SMALL, f"model={model}")
    config = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert config["data"]["train_target"]["_target_"] == f"careamics_dm.samples.{target}"
    extra = {"last.ckpt"} if model == "care" else set()
    assert done.files == RESULTS | {"denoised/predict_data.tif"} | extra


def test_supervised_models_learn_from_volumes_too(tmp_path):
    done = succeed("train", tmp_path, *SMALL_3D, "model=care", "data.patches_per_epoch=4")
    assert "filaments" in done.out and "PSNR" in done.out


def test_a_run_leaves_its_scores_and_its_split(tmp_path, images):
    done = succeed("train", tmp_path, *SMALL, "data=tiff", images)
    with (done.folder / "scores.csv").open() as file:
        (scores,) = csv.DictReader(file)
    assert scores.keys() == {"train_loss", "val_loss", "epoch", "seconds"}
    with (done.folder / "logs/metrics.csv").open() as file:
        losses = [row["val_loss"] for row in csv.DictReader(file) if row["val_loss"]]
    assert float(scores["val_loss"]) == pytest.approx(float(losses[-1]))
    with (done.folder / "split.csv").open() as file:
        assert {row["split"] for row in csv.DictReader(file)} == {"train", "val"}


def test_the_truth_gives_scores(tmp_path):
    done = succeed("train", tmp_path, *SMALL)
    with (done.folder / "scores.csv").open() as file:
        (scores,) = csv.DictReader(file)
    before, after = done.out.split("PSNR")[1].replace("dB", "").split("\n")[0].split("->")
    assert float(before) == pytest.approx(float(scores["psnr_noisy"]), abs=0.01)
    assert float(after) == pytest.approx(float(scores["psnr"]), abs=0.01)
    assert float(scores["si_psnr"]) >= float(scores["psnr"])
    assert 0 < float(scores["ssim"]) < 1


def test_a_truth_of_other_channels_than_the_targets_is_refused(tmp_path):
    write_tiffs(tmp_path / "images", "CYX", [(2, 40, 50)])
    write_tiffs(tmp_path / "targets", "CYX", [(1, 40, 50)])
    data = ("data=tiff", "data.train_data=images", "data.train_target=targets", "model=care")
    place = ("data.predict_data=images", "truth=images/image_0.tif")
    assert "has 1, as the targets" in refuse("train", tmp_path, *SMALL, *data, *place)


def test_a_truth_is_of_no_use_where_other_channels_of_the_images_are_restored(tmp_path):
    write_tiffs(tmp_path / "images", "CYX", [(2, 40, 50)])
    data = ("data=tiff", "data.train_data=images", "data.channels=[0]", "data.target_channels=[1]")
    place = ("model=care", "data.predict_data=images", "truth=images/image_0.tif")
    assert "data.test_data scores" in refuse("train", tmp_path, *SMALL, *data, *place)


def test_more_channels_come_out_than_went_in(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50)])
    write_tiffs(tmp_path / "targets", "CYX", [(2, 40, 50)])
    data = ("data=tiff", "data.train_data=images", "data.train_target=targets", "model=care")
    done = succeed("train", tmp_path, *SMALL, *data, "data.predict_data=images")
    assert tifffile.imread(done.folder / "denoised" / "image_0.tif").shape == (2, 40, 50)
    assert {"denoised.png", "scores.csv"} <= done.files
    assert "weights_only" not in done.out + done.err  # what Lightning asks is not for users
    assert "Predicting" not in done.out  # no progress bar, here either


@pytest.mark.parametrize("role", ["test", "predict"])
def test_a_model_of_others_that_lacks_a_step_is_refused_at_the_start(tmp_path, images, role):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: modules.Autoencoder\n")
    arguments = [text for text in SMALL if not text.startswith("model.")]
    place = ("hydra.searchpath=[file://conf]", "model=mine", f"data.{role}_data=images")
    message = refuse("train", tmp_path, *arguments, "data=tiff", images, *place)
    assert f"{role}_data: Autoencoder has no {role}_step" in message
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_model_that_optimizes_manually_trains_without_clipping(tmp_path, images):
    (tmp_path / "by_hand.py").write_text(
        "import torch, lightning as L\n"
        "class Model(L.LightningModule):\n"
        "    def __init__(self, **settings):\n"
        "        super().__init__()\n"
        "        self.net = torch.nn.Conv2d(1, 1, 1)\n"
        "        self.automatic_optimization = False\n"
        "    def training_step(self, batch, _):\n"
        "        loss = self.net(batch['image']).square().mean()\n"
        "        self.optimizers().zero_grad()\n"
        "        self.manual_backward(loss)\n"
        "        self.optimizers().step()\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.Adam(self.parameters())\n"
    )
    own = (*SMALL, "data=tiff", images, "model._target_=by_hand.Model")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with pytest.warns(UserWarning, match="no `validation_step`"):
            succeed("train", tmp_path, *own, folder="by_hand")
            message = refuse("train", tmp_path, *own, "trainer.gradient_clip_val=2")
    assert "gradient clipping is not supported for manual optimization" in message
    assert "gradient_clip_val" not in yaml.safe_load((tmp_path / "by_hand/config.yaml").read_text())


def test_a_checkpoint_of_another_network_is_refused_in_one_message(tmp_path, images):
    done = succeed("train", tmp_path, *SMALL, "data=tiff", images)
    another = (f"checkpoint={done.folder}/model.ckpt", "model.network.first_filters=8")
    more = ("trainer.max_epochs=2", "hydra.run.dir=b")
    message = refuse("train", tmp_path, *SMALL, "data=tiff", images, *another, *more)
    assert "is of another network" in message


def test_early_stopping_without_validation_is_one_message(tmp_path, images):
    stop = ("callbacks=early_stopping", "data.n_val_patches=0")
    message = refuse("train", tmp_path, *SMALL, "data=tiff", images, *stop)
    assert "val_loss" in message and "train_loss" in message


def test_the_sample_with_noise_along_rows(tmp_path):
    done = succeed("train", tmp_path, *SMALL, "experiment=rows", "model=structn2v")
    assert 23 < float(done.out.split("PSNR")[1].split("dB")[0]) < 25


def test_an_experiment_is_a_difference_from_the_defaults(tmp_path):
    np.save(tmp_path / "volume.npy", noise((16, 64, 192)))
    data = ("data.train_data=volume.npy", "data.axes=ZYX", "data.n_val_patches=1")
    small = (*SMALL[:2], "model.network.depth=1", "model.network.first_filters=2")
    done = succeed("train", tmp_path, "experiment=n2v_3d", *data, *small)
    config = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert config["data"]["patch_size"] == [16, 64, 64]


def test_several_processes_train_as_one_and_tell_once(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(32, 32)] * 3)
    places = [f"data.{role}=images" for role in ("train_data", "train_target")]
    alone = ("test_data", "test_target", "predict_data")  # the second process has none
    places += [f"data.{role}=images/image_0.tif" for role in alone]
    together = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp")
    program = ("hydra.run.dir=run", "data=tiff", "model=care", *SMALL, *places, *together)
    done = ended("train", tmp_path, *program, MASTER_PORT=str(free_port()))
    assert done.code == 0, done.err
    assert "Starting with 2 processes" in done.err
    for line in ("model  ", "losses  ", "test  ", "mean  ", "denoised images  ", "picture  "):
        assert sum(text.startswith(line) for text in done.out.splitlines()) == 1, line
    names = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*.*")}
    assert names >= RESULTS | {
        "test.csv",
        "test.png",
        "denoised/image_0.tif",
    }
    assert not [name for name in names if name.endswith(".part")]


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def test_the_environment_is_left_as_it_was(tmp_path, images):
    before, here = dict(os.environ), Path.cwd()
    succeed("train", tmp_path, *SMALL, "data=tiff", images, folder="first")
    refuse("train", tmp_path, *SMALL, "data=tiff", images, "data.patch_size=[15,15]")
    assert dict(os.environ) == before
    assert Path.cwd() == here
