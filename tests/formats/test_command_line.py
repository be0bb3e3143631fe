"""Formats from the command line: what each may be told, from training to files."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tifffile
import zarr
from apps import SMALL, SMALL_3D, noise, refuse, succeed
from czi_files import Tile, write_czi
from zarr_files import numbers, write_image

from careamics_dm.samples.formats import write

T, Z = 3, 5


@pytest.fixture
def czi(tmp_path):
    """T and Z that begin at other numbers than 0, and a negative origin."""
    tiles = [
        Tile(noise((40, 36), t * Z + z), {"T": t + 2, "Z": z + 3, "C": 0}, (-500, 70))
        for t in range(T)
        for z in range(Z)
    ]
    return write_czi(tmp_path / "stack.czi", tiles)


@pytest.mark.parametrize(
    ("axes", "options", "shape", "in_memory"),
    [
        ("SCYX", SMALL, (T * Z, 1, 40, 36), True),
        ("SCYX", SMALL, (T * Z, 1, 40, 36), False),
        ("SCZYX", SMALL_3D, (T, 1, Z, 40, 36), False),
        ("SCTYX", (*SMALL, "data.patch_size=[2,16,16]"), (Z, 1, T, 40, 36), True),
    ],
)
def test_each_axes_of_czi_trains_and_predicts(czi, tmp_path, axes, options, shape, in_memory):
    data = ("data=czi", f"data.axes={axes}", f"data.in_memory={in_memory}")
    names = (f"data.train_data={czi.name}", f"data.predict_data={czi.name}")
    trained = succeed("train", tmp_path, *options, *data, *names)
    assert {"model.ckpt", "denoised.png", "denoised/stack.tif"} <= trained.files
    size, overlap = ("20,24", "8,8") if len(shape) == 4 else ("2,20,24", "0,8,8")
    tiles = (f"data.tile_size=[{size}]", f"data.tile_overlap=[{overlap}]")
    again = ("checkpoint=run/model.ckpt", f"data.predict_data={czi.name}", "writer.folder=tiled")
    succeed("predict", tmp_path, *data, *again, *tiles, folder="second")
    for path in (trained.folder / "denoised" / "stack.tif", tmp_path / "tiled" / "stack.tif"):
        denoised = tifffile.imread(path)
        assert denoised.shape == tuple(n for n in shape if n > 1)
        assert denoised.dtype == np.float32
        assert np.isfinite(denoised).all()


def test_a_model_of_one_format_is_for_all(czi, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise((40, 36)), metadata={"axes": "YX"})
    succeed("train", tmp_path, *SMALL, "data=tiff", "data.train_data=a.tif", folder="trained")
    place = ("checkpoint=trained/model.ckpt", "writer.folder=results", "data.axes=SCYX")
    succeed("predict", tmp_path, "data=czi", f"data.predict_data={czi.name}", *place)
    assert tifffile.imread(tmp_path / "results" / "stack.tif").shape == (T * Z, 40, 36)


@pytest.fixture
def store(tmp_path):
    """The store of CAREamics' data preparation guide."""
    group = zarr.open_group(tmp_path / "store.zarr", mode="w")
    for name in ("array_1", "array_2", "others/array_2", "others/array_3"):
        group.create_array(name, data=noise((64, 64)), chunks=(32, 32))
    return group


def test_what_zarr_prints_names_stores_groups_and_arrays(store, tmp_path):
    uris = [str(store[name].store_path) for name in ("array_1", "others/array_2", "array_2")]
    uris.append(str(store["others/array_3"].store_path))
    choices = [("store.zarr", 2), (str(store["others"].store_path), 2), (uris[1], 1)]
    for named, n in [*choices, (f"[{','.join(uris)}]", 4)]:
        overrides = (f"data.train_data={named}", "data.axes=YX", "data.patch_size=[16,16]")
        done = succeed("preview", tmp_path, "data=zarr", *overrides)
        assert f"{n} image(s) YX, {n} sample(s) of 64×64" in done.out
    trained = succeed("train", tmp_path, *SMALL, "data=zarr", *overrides, folder="trained")
    assert "model.ckpt" in trained.files
    (tmp_path / "list.txt").write_text("\n".join(uris))
    done = succeed("preview", tmp_path, "data=zarr", "data.train_data=list.txt", *overrides[1:])
    assert "4 image(s)" in done.out


def test_a_mix_of_stores_and_uris_is_refused(store, tmp_path):
    uri = store["array_1"].store_path
    mixed = f"data.train_data=[store.zarr,{uri}]"
    message = refuse("train", tmp_path, "data=zarr", mixed, "data.axes=YX")
    assert "train_data: the list mixes URIs" in message


def test_the_same_image_gives_the_same_losses_in_every_format(tmp_path):
    write(tmp_path / "formats")
    formats = ("tiff", "zarr", "czi", "custom", "array")
    small = [text for text in SMALL if not text.startswith("data.n_val")]
    sweep = ("-m", *small, f"data={','.join(formats)}", "experiment=formats")
    succeed("train", tmp_path, *sweep, "hydra.sweep.dir=sweep", folder=None)
    sweep = ("-m", f"data={','.join(formats)}", "experiment=formats", "hydra.sweep.dir=seen")
    done = succeed("preview", tmp_path, *sweep, folder=None)
    summaries = [line for line in done.out.splitlines() if line.startswith("train    ")]
    assert len(summaries) == len(formats)
    assert len(set(summaries)) == 1
    losses = []
    for number in range(len(formats)):
        with (tmp_path / "sweep" / str(number) / "logs" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        found = {key: float(row[key]) for row in rows for key in row if row[key] and "loss" in key}
        assert {"train_loss", "val_loss"} <= found.keys()
        losses.append([found["train_loss"], found["val_loss"]])
    np.testing.assert_allclose(losses, [losses[0]] * len(formats), rtol=1e-6)


def test_results_of_ome_zarr_are_ome_zarr(tmp_path):
    image = numbers((2, 60, 70))
    write_image(tmp_path / "a.zarr", image, "tyx", "0.4", "ome-zarr")
    data = ("data=zarr", "data.train_data=a.zarr", "data.predict_data=a.zarr")
    trained = succeed("train", tmp_path, *SMALL, *data, folder="trained")
    assert (trained.folder / "denoised.png").exists()
    denoised = zarr.open_group(trained.folder / "denoised" / "a.zarr", mode="r")
    assert denoised["0"].shape == image.shape and "ome" in denoised.attrs
    again = ("checkpoint=trained/model.ckpt", "data=zarr", "data.predict_data=a.zarr")
    older = ("writer=zarr", "writer.ngff_version=0.4", "uncertainty=true")
    done = succeed("predict", tmp_path, *again, *older, folder="again")
    for name in ("denoised", "uncertainty"):
        result = zarr.open_group(done.folder / name / "a.zarr", mode="r")
        assert result["0"].shape == image.shape and "multiscales" in result.attrs
