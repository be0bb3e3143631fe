"""Sweeps end with a comparison of their jobs: a table and a picture."""

import csv
import json
import pickle

import numpy as np
import pytest
from apps import SMALL, run, succeed, write_tiffs
from matplotlib.image import imread

from careamics_dm.cli.sweep import (
    Job,
    compare,
    note_job,
    over_folds,
    read_jobs,
    read_scenes,
)
from careamics_dm.evaluation.text_table import write_csv

SWEEP = ("-m", *SMALL, "hydra.sweep.dir=sweep")


@pytest.fixture
def images(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50), (33, 64)])
    return ("data=tiff", "data.train_data=images", "data.patches_per_epoch=4")


def table(folder):
    with (folder / "comparison.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def panels(path, rows=slice(60, 300)):
    """Count panels side by side in some rows of a picture, by the white between them."""
    filled = (imread(path)[rows, :, :3] < 0.9).any(axis=(0, 2))
    return int((np.diff(filled.astype(int)) == 1).sum() + filled[0])


def test_all_models_on_the_sample_side_by_side(tmp_path):
    """The whole way: five jobs, each with scores against the truth."""
    models = ["n2v", "n2v2", "structn2v", "care", "n2n"]
    done = succeed("train", tmp_path, *SWEEP, f"model={','.join(models)}")
    rows = table(tmp_path / "sweep")
    assert [row["model"] for row in rows] == models
    assert [row["job"] for row in rows] == list("01234")
    for row in rows:
        assert row["state"] == "done"
        assert 23 < float(row["psnr_noisy"]) < 25
        for name in ("train_loss", "val_loss", "psnr", "si_psnr", "ssim", "seconds"):
            assert np.isfinite(float(row[name]))
        assert row["folder"] == str(tmp_path / "sweep" / row["job"])
    assert {row["model"] for row in rows if row["val_psnr"]} == {"care", "n2n"}
    assert imread(tmp_path / "sweep/comparison.png").shape[0] > 1500  # two rows of panels
    text = done.out[done.out.rindex("job  model") :].splitlines()
    assert [line.split()[1] for line in text[1:6]] == models
    assert str(tmp_path / "sweep/comparison.png") in done.out


def test_a_sweep_without_truth_over_sizes(tmp_path, images):
    succeed("train", tmp_path, *SWEEP, *images, "data.patch_size=[16,16],[32,32]")
    rows = table(tmp_path / "sweep")
    assert [row["data.patch_size"] for row in rows] == ["[16,16]", "[32,32]"]
    assert "psnr" not in rows[0] and "model" not in rows[0]
    assert rows[0]["val_loss"] != rows[1]["val_loss"]
    assert panels(tmp_path / "sweep/comparison.png") == 3  # noisy, and one for each job


def test_jobs_that_fail_are_listed(tmp_path, images):
    done = run("train", tmp_path, *SWEEP, *images, "data.patch_size=[15,15],[16,16]")
    assert done.code == 1
    rows = table(tmp_path / "sweep")
    assert [row["state"] for row in rows] == ["failed", "done"]
    assert [row["val_loss"] == "" for row in rows] == [True, False]
    assert panels(tmp_path / "sweep/comparison.png") == 2
    assert "failed" in done.out


def test_a_sweep_of_which_all_jobs_fail_has_no_picture(tmp_path, images):
    done = run("train", tmp_path, *SWEEP, *images, "data.patch_size=[15,15],[17,17]")
    assert done.code == 1 and "Traceback" not in done.err
    assert [row["state"] for row in table(tmp_path / "sweep")] == ["failed", "failed"]
    assert not (tmp_path / "sweep/comparison.png").exists()


def test_a_lone_job(tmp_path, images):
    succeed("train", tmp_path, *SWEEP, *images)
    (row,) = table(tmp_path / "sweep")
    assert row["data.patches_per_epoch"] == "4" and row["state"] == "done"


def test_a_sweep_in_the_same_folder_forgets_the_one_before(tmp_path, images):
    succeed("train", tmp_path, *SWEEP, *images, "seed=1,2", "~logger")
    succeed("train", tmp_path, *SWEEP, *images, "seed=3", "~logger")
    (row,) = table(tmp_path / "sweep")
    assert row["seed"] == "3"


def test_folds_end_with_their_mean(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50)] * 4)
    data = ("data=tiff", "data.train_data=images", "data.patches_per_epoch=4")
    folds = ("data.n_folds=2", "data.n_val_patches=null", "data.fold=0,1")
    done = succeed("train", tmp_path, *SWEEP, *data, *folds)
    *rows, mean, deviation = table(tmp_path / "sweep")
    losses = [float(row["val_loss"]) for row in rows]
    assert len(rows) == 2 and [mean["job"], deviation["job"]] == ["mean", "standard deviation"]
    assert float(mean["val_loss"]) == pytest.approx(np.mean(losses))
    assert float(deviation["val_loss"]) == pytest.approx(np.std(losses, ddof=1))
    assert " ± " in done.out
    assert panels(tmp_path / "sweep/comparison.png") == 3  # noisy, and one for each fold


def test_a_single_run_compares_nothing(tmp_path, images):
    done = succeed("train", tmp_path, *SMALL, *images)
    assert not list(tmp_path.rglob("comparison*")) and not list(tmp_path.rglob("planes.npz"))
    assert "comparison" not in done.out


def job(number, scores, **overrides):
    settings = {key.replace("__", "."): value for key, value in overrides.items()}
    return Job(number, settings, None, "done", scores)


def test_means_are_of_jobs_that_differ_in_the_fold_alone():
    jobs = [
        job(0, {"val_loss": 1.0, "psnr": 20.0}, data__fold="0", model="n2v"),
        job(1, {"val_loss": 3.0}, data__fold="1", model="n2v"),
        job(2, {"val_loss": 9.0}, data__fold="0", model="care"),
        job(3, {}, data__fold="1", model="care"),  # failed
    ]
    mean, deviation = over_folds(jobs, ["data.fold", "model"])
    assert mean == {"job": "mean", "model": "n2v", "val_loss": 2.0}
    assert deviation["val_loss"] == pytest.approx(2**0.5)
    assert over_folds(jobs, ["model"]) == []


def test_only_files_count(tmp_path):
    """As left by jobs on other machines; notes are plain JSON."""
    for number, state in ((10, "done"), (2, "unfinished")):
        folder = tmp_path / str(number)
        folder.mkdir()
        note_job(tmp_path, Job(number, {"seed": str(number)}, folder, state))
        write_csv(folder / "scores.csv", ["val_loss"], [{"val_loss": float(number)}])
    assert json.loads((tmp_path / ".jobs/2.json").read_text())["state"] == "unfinished"
    jobs = read_jobs(tmp_path)
    assert [one.number for one in jobs] == [2, 10]
    assert [one.scores for one in jobs] == [{}, {"val_loss": 10.0}]
    assert pickle.loads(pickle.dumps(jobs)) == jobs
    text = compare(tmp_path)
    assert "unfinished" in text and "10.00" in text
    assert compare(tmp_path / "10") == ""


def test_the_same_image_is_one_row_of_panels(tmp_path):
    noisy = np.random.default_rng(0).normal(100, 9, (2, 64, 64)).astype(np.float32)
    for number in range(4):
        folder = tmp_path / str(number)
        (folder / ".hydra").mkdir(parents=True)
        note_job(tmp_path, Job(number, {"seed": str(number)}, folder, "done"))
        image = noisy[number // 2]
        planes = {"noisy": image, "denoised": image + number}
        np.savez(folder / ".hydra/planes.npz", **planes | ({"clean": image} if number < 2 else {}))
    compare(tmp_path)
    assert panels(tmp_path / "comparison.png") == 4  # noisy, two jobs, clean
    assert panels(tmp_path / "comparison.png", slice(-300, None)) == 3


def test_long_settings_break_into_lines_above_their_panel(tmp_path):
    keys = {"data.normalization": "quantile", "callbacks": "early_stopping", "x": "y" * 99}
    job = Job(0, keys, tmp_path, "done", {"psnr": 20.0})
    (tmp_path / ".hydra").mkdir()
    np.savez(tmp_path / ".hydra" / "planes.npz", noisy=np.eye(3), denoised=np.eye(3))
    _, titles = read_scenes([job], list(keys))
    first, *lines, last = titles["0"].split("\n")
    assert first == "normalization=quantile," and lines[0].startswith("callbacks=early_stopping,")
    assert max(map(len, lines)) <= 40 and len(lines) == 2 and last == "20.00 dB"
