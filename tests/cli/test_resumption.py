"""What a resumed run, or one that starts from weights, takes from a checkpoint; and its folder."""

import pytest
import tifffile
import torch
import yaml
from apps import SMALL, refuse, run, succeed, write_tiffs

from careamics_dm.cli import train
from careamics_dm.cli.resumption import find_checkpoint
from careamics_dm.cli.sweep import read_scores

ODD = ("model.optimizer.lr=0.003", "data.normalization=min_max", "seed=5", "data.batch_size=8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with many settings, whose folder also has other images, three times as bright."""
    folder = tmp_path_factory.mktemp("trained")
    write_tiffs(folder / "images", "YX", [(40, 50)])
    (folder / "others").mkdir()
    pixels = 3 * tifffile.imread(folder / "images/image_0.tif")
    tifffile.imwrite(folder / "others/a.tif", pixels, metadata={"axes": "YX"})
    data = ("data=tiff", "data.train_data=images", "callbacks=early_stopping")
    succeed("train", folder, *SMALL, *ODD, *data, folder="first")
    return folder


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def content(folder):
    return torch.load(folder / "model.ckpt", weights_only=True)


def test_a_resumed_run_takes_data_and_settings_from_its_checkpoint(trained):
    more = ("checkpoint=first/model.ckpt", "trainer.max_epochs=2", "model.optimizer.lr=0.001")
    done = succeed("train", trained, *more, folder="more")
    found, expected = config(done.folder), config(trained / "first")
    expected["trainer"]["max_epochs"] = 2
    expected["model"]["optimizer"]["lr"] = 0.001
    own = ("checkpoint", "overwrite")
    assert {k: v for k, v in found.items() if k not in own} == {
        k: v for k, v in expected.items() if k not in own
    }
    assert "except\n  model.optimizer.lr=0.001 (there: 0.003)" in done.out
    assert "  trainer.max_epochs=2 (there: 1)\n" in done.out
    assert content(done.folder)["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.001
    assert "simulated sample" not in done.out


def test_a_group_of_its_own_replaces_that_of_the_checkpoint(trained):
    more = ("checkpoint=first/model.ckpt", "trainer.max_epochs=2", "callbacks=default", "~logger")
    found = config(succeed("train", trained, *more, folder="group").folder)
    assert "early_stopping" not in found["callbacks"] and "logger" not in found


def test_another_normalization_is_told_and_holds(trained):
    more = ("checkpoint=first/model.ckpt", "trainer.max_epochs=2", "data.normalization=mean_std")
    with pytest.warns(UserWarning, match="measures its own statistics"):
        done = succeed("train", trained, *more, folder="normal")
    assert "data.normalization=mean_std (there: min_max)" in done.out
    statistics = content(done.folder)["TiffDataModule"]["statistics"]["image"]
    assert statistics["offset"][0] == pytest.approx(200, 0.02)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("data.n_val_patches=4", "data.n_val_patches=4: the run of the checkpoint had 2"),
        ("data.hold_out=samples", "data.hold_out=samples: the run of the checkpoint had None"),
        ("data=zarr", "data: the run of the checkpoint reads its images with TiffDataModule"),
        ("experiment=n2v_3d", "experiment: a resumed run has the settings"),
        ("weights=first/model.ckpt", "Leave one out"),
        ("statistics=weights", "statistics=weights needs weights=FILE"),
        ("model.network.first_filters=8", "is of another network"),
        ("overwrite=3", "overwrite=3: give true or false"),
    ],
)
def test_what_a_resumed_run_refuses(trained, argument, message):
    more = ("checkpoint=first/model.ckpt", "trainer.max_epochs=2", argument)
    assert message in refuse("train", trained, *more)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (["trainer.max_epochs=1"], "trained for 1 epochs, and trainer.max_epochs=1"),
        (["trainer.max_epochs=9", "+trainer.max_steps=2"], "2 steps, and trainer.max_steps=2"),
    ],
)
def test_nothing_left_to_do_leaves_all_as_it_is(trained, limit, message, monkeypatch):
    main, returned = train.main, []  # what a sweeper gets
    monkeypatch.setattr(train, "main", lambda *of: returned.append(main(*of)))
    before = {path: path.stat().st_mtime_ns for path in (trained / "first").glob("*.*")}
    more = ("checkpoint=first/model.ckpt", "objective=val_loss", *limit)
    done = succeed("train", trained, *more)
    assert message in done.out
    assert returned == [read_scores(trained / "first")["val_loss"]] and returned[0] > 0
    assert {path: path.stat().st_mtime_ns for path in (trained / "first").glob("*.*")} == before


def test_weights_start_a_new_run_on_other_images(trained):
    data = ("data=tiff", "data.train_data=others", *SMALL[:2], *SMALL[5:], "trainer.max_epochs=1")
    zero = ("model.optimizer.lr=0", "weights=first/model.ckpt")
    found = {}
    for name in ("new", "weights"):
        done = succeed("train", trained, *data, *zero, f"statistics={name}", folder=name)
        found[name] = content(done.folder)
        assert config(done.folder)["data"]["normalization"] == "min_max"
    offsets = [c["TiffDataModule"]["statistics"]["image"]["offset"][0] for c in found.values()]
    old = content(trained / "first")
    assert offsets[1] == old["TiffDataModule"]["statistics"]["image"]["offset"][0]
    assert offsets[0] == 3 * offsets[1]
    for name, weight in old["state_dict"].items():
        assert torch.equal(found["new"]["state_dict"][name], weight)
    assert found["new"]["global_step"] == 1
    both = (*zero, "statistics=weights", "data.normalization=mean_std")
    assert "leave one out" in refuse("train", trained, *data, *both)
    assert "choose new or weights" in refuse("train", trained, *data, *zero, "statistics=old")


def test_a_folder_belongs_to_one_run(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50)])
    data = (*SMALL, "data=tiff", "data.train_data=images", "data.predict_data=images")
    care = ("model=care", "data.train_target=images", "callbacks.pictures.every_n_epochs=1")
    first = succeed("train", tmp_path, *data, *care)
    assert {"last.ckpt", "pictures/epoch_0001.png"} <= first.files
    (first.folder / "notes.txt").write_text("mine")
    before = {name: (first.folder / name).stat().st_mtime_ns for name in first.files}
    message = refuse("train", tmp_path, *data, "overwrite=false")
    assert "run has the results of another training (model.ckpt)" in message
    assert {name: (first.folder / name).stat().st_mtime_ns for name in first.files} == before
    second = succeed("train", tmp_path, *data, "overwrite=true")
    assert not {"last.ckpt", "pictures/epoch_0001.png"} & second.files
    assert {"notes.txt", "model.ckpt", "denoised/image_0.tif"} <= second.files


@pytest.mark.parametrize(
    ("data", "fault", "message"),
    [
        ("train_data", "data.train_data=broken.tif", "broken.tif"),
        ("predict_data", "data.predict_data=broken.tif", "broken.tif"),
        ("writer", "writer=npy", "can't do so with NpyWriter"),  # found once "denoised" is made
    ],
)
def test_a_run_that_failed_before_it_trained_leaves_its_folder_free(trained, data, fault, message):
    given = "data=tiff", "data.train_data=images", "data.predict_data=images", "overwrite=false"
    command = ("train", trained, *SMALL, *given)
    (trained / "broken.tif").touch()
    failed = run(*command, fault, folder=data)
    assert failed.code == 1 and message in failed.err
    assert not {"config.yaml", "split.csv"} & failed.files
    assert not (failed.folder / "denoised").exists()
    (failed.folder / "config.yaml").write_text("mine: 1")
    assert "another training (config.yaml)" in run(*command, folder=data).err
    (failed.folder / "config.yaml").unlink()
    assert "model.ckpt" in succeed(*command, folder=data).files


def test_a_run_goes_on_in_its_own_folder_and_loses_no_log(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50)])
    data = (*SMALL, "data=tiff", "data.train_data=images")
    succeed("train", tmp_path, *data)
    own = ("checkpoint=run/model.ckpt", "overwrite=false")
    done = succeed("train", tmp_path, *own, "trainer.max_epochs=2")
    assert {"logs/metrics.csv", "logs/metrics_of_part_1.csv"} <= done.files
    assert content(done.folder)["epoch"] == 1


def test_the_same_command_goes_on_with_what_its_folder_has(tmp_path, monkeypatch):
    write_tiffs(tmp_path / "images", "YX", [(40, 50)] * 2)
    data = (*SMALL, "data=tiff", "data.train_data=images", "data.predict_data=images")
    command = (*data, "experiment=none", "checkpoint=auto", "overwrite=false")
    message = refuse("train", tmp_path, *command, "overwrite=true")
    assert "checkpoint=auto goes on, overwrite=true begins anew" in message
    begun = succeed("train", tmp_path, *command, "data.predict_data=null")
    assert content(begun.folder)["epoch"] == 0
    # Stopped while it predicted: without scores.csv, the run has not ended.
    (begun.folder / "scores.csv").unlink()
    result = begun.folder / "denoised/image_0.tif"
    write_tiffs(begun.folder / "denoised", "YX", [(40, 50)])
    before = result.read_bytes()
    went_on = succeed("train", tmp_path, *command)
    assert {"scores.csv", "denoised/image_1.tif", "denoised.png"} <= went_on.files
    assert result.read_bytes() == before
    # A scheduler starts the command that the run began with, though it has no checkpoint=auto.
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert "nothing left to do" in succeed("train", tmp_path, *data).out


@pytest.mark.parametrize("asked", [None, "auto", "another.ckpt"])
def test_a_run_that_is_started_again_goes_on_with_its_own_checkpoint(tmp_path, monkeypatch, asked):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    config = {"checkpoint": asked, "overwrite": False}
    assert not find_checkpoint(config, tmp_path)
    assert config["checkpoint"] == (None if asked == "auto" else asked)
    (tmp_path / "last.ckpt").touch()
    config["checkpoint"] = asked
    assert find_checkpoint(config, tmp_path)
    assert config["checkpoint"] == str(tmp_path / "last.ckpt")


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path):
    done = [run("train", tmp_path, "--cfg=hydra", folder=None).out for _ in range(2)]
    folders = [yaml.safe_load(text)["hydra"]["run"]["dir"] for text in done]
    assert folders[0] != folders[1] or "%f" in folders[0]
