"""Predictions as TIFF files: names, layout, metadata, and what is there after a fault."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit

import numpy as np
import pytest
import tifffile
import torch
from modules import Identity, trainer

from careamics_dm import ArrayDataModule, NpyWriter, TiffDataModule, TiffWriter
from careamics_dm.errors import DataError
from careamics_dm.formats.tiff.datamodule import open_tiff
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.region import Region, read_region
from careamics_dm.prediction.mapped_file import reserve
from careamics_dm.prediction.result_file import to_dtype
from careamics_dm.prediction.result_paths import (
    check_case,
    check_windows_names,
    check_writable,
    result_paths,
)

pytestmark = pytest.mark.usefixtures("files_close")

rng = np.random.default_rng(0)


def noise(*shape, dtype=np.uint16):
    return rng.integers(0, 255, shape).astype(dtype)


def arrays(data, axes="YX", **options):
    options = {"normalization": "none", "patch_size": (8, 8), "tile_size": (16, 16)} | options
    return ArrayDataModule(predict_data=data, axes=axes, **options)


def tiffs(folder, **options):
    options = {"normalization": "none", "patch_size": (8, 8), "tile_size": (16, 16)} | options
    return TiffDataModule(predict_data=folder, **options)


def predict(data, writer, folder, model=None):
    run = trainer(folder, callbacks=[writer])
    return run.predict(model or Identity(), datamodule=data, return_predictions=False)


def written(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


class TestFiles:
    def test_names_and_sub_folders_are_those_of_the_inputs(self, tmp_path):
        names = ["a.tif", "b.TIFF", "sub/a.tif", "sub/deep/c d.tiff"]
        for name in names:
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "in" / name, noise(20, 30), metadata={"axes": "YX"})
        writer = TiffWriter(tmp_path / "out")
        predict(tiffs(tmp_path / "in"), writer, tmp_path)
        assert written(tmp_path / "out") == sorted(names)
        assert [p.exists() for p in writer.paths] == [True] * 4
        for name in names:
            one, other = (tifffile.imread(tmp_path / part / name) for part in ("in", "out"))
            assert np.array_equal(one, other)

    def test_every_image_of_a_file_is_given_back(self, tmp_path):
        stack = noise(6, 20, 30)
        (tmp_path / "in").mkdir()
        for page in stack:
            tifffile.imwrite(tmp_path / "in" / "appended.tif", page, append=True)
        with tifffile.TiffWriter(tmp_path / "in" / "images.ome.tif", ome=True) as file:
            for i, page in enumerate(stack[:3]):
                file.write(page, metadata={"axes": "YX", "Name": f"TR{i}"})
        predict(tiffs(tmp_path / "in"), TiffWriter(tmp_path / "out"), tmp_path)
        names = [f"images.ome/series_{i}.tif" for i in range(3)]
        assert written(tmp_path / "out") == ["appended.tif", *names]
        assert np.array_equal(tifffile.imread(tmp_path / "out" / "appended.tif"), stack)
        for i, (name, page) in enumerate(zip(names, stack, strict=False)):
            assert np.array_equal(tifffile.imread(tmp_path / "out" / name), page)
            with tifffile.TiffFile(tmp_path / "out" / name) as result:
                assert result.series[0].name == f"TR{i}"

    def test_other_files_and_arrays_become_tif(self, tmp_path):
        np.save(tmp_path / "a.b.npy", noise(20, 30))
        predict(arrays(tmp_path / "a.b.npy"), TiffWriter(tmp_path / "files"), tmp_path)
        assert written(tmp_path / "files") == ["a.b.tif"]
        predict(arrays([noise(20, 30)] * 2), TiffWriter(tmp_path / "arrays"), tmp_path)
        assert written(tmp_path / "arrays") == ["predict_data_0000.tif", "predict_data_0001.tif"]

    @pytest.mark.parametrize(
        ("sources", "results"),
        [
            (["a.czi"], ["a.tif"]),
            (["d/a.czi/scene_0", "d/a.czi/scene_1"], ["a/scene_0.tif", "a/scene_1.tif"]),
            (["d/a.czi/scene_1", "d/b.czi"], ["a/scene_1.tif", "b.tif"]),
            (["a.zarr", "b.ome.zarr", "c.zarr.zip"], ["a.tif", "b.ome.tif", "c.tif"]),
            (["p.zarr/A/1/0", "p.zarr/A/2/0"], ["p/A/1/0.tif", "p/A/2/0.tif"]),
            (["x.zarr/a.1", "x.zarr/a.2", "y.npy"], ["x/a.1.tif", "x/a.2.tif", "y.tif"]),
            (
                ["a.tif", "b.tif/series_0", "b.tif/series_1"],
                ["a.tif", "b/series_0.tif", "b/series_1.tif"],
            ),
            (["s3://b/x.zarr/0", "s3://b/y.zarr/0"], ["x/0.tif", "y/0.tif"]),
        ],
    )
    def test_containers_become_folders(self, tmp_path, sources, results):
        stacks = [ArrayStack(noise(2, 2), "YX", name) for name in sources]
        assert result_paths(stacks, tmp_path, TiffWriter(tmp_path).suffixes) == [
            tmp_path / name for name in results
        ]

    def test_two_results_of_one_name_are_told_before(self, tmp_path):
        stacks = [ArrayStack(noise(2, 2), "YX", name) for name in ("x/a.npy", "x/a.tif")]
        with pytest.raises(DataError, match=r"several images would be written to .*a\.tif"):
            result_paths(stacks, tmp_path, TiffWriter(tmp_path).suffixes)

    @pytest.mark.parametrize("existing", ["replace", "skip", "error"])
    def test_inputs_are_never_replaced(self, tmp_path, existing):
        image = noise(20, 30)
        tifffile.imwrite(tmp_path / "a.tif", image, metadata={"axes": "YX"})
        data = tiffs(tmp_path / "a.tif")
        with pytest.raises(DataError, match="would replace inputs"):
            predict(data, TiffWriter(tmp_path, existing=existing), tmp_path)
        assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), image)

    def test_whole_images_of_mixed_sizes(self, tmp_path):
        images = [noise(20, 30), noise(8, 9)]
        predict(arrays(images, tile_size=None), TiffWriter(tmp_path / "out"), tmp_path)
        for i, image in enumerate(images):
            result = tifffile.imread(tmp_path / "out" / f"predict_data_{i:04d}.tif")
            assert np.array_equal(result, image)


class TestLayout:
    @pytest.mark.parametrize(
        ("axes", "shape"),
        [
            ("YX", (20, 30)),
            ("XY", (20, 30)),
            ("CYX", (3, 20, 30)),
            ("YXC", (20, 30, 3)),
            ("XYC", (20, 30, 2)),
            ("TYX", (5, 20, 30)),
            ("STCYX", (2, 3, 2, 20, 30)),
            ("SYX", (1, 20, 30)),
            ("CYX", (1, 20, 30)),
            ("YX", (1, 30)),
            ("ZYX", (5, 20, 30)),
            ("CZYX", (2, 5, 20, 30)),
            ("TZCYX", (2, 5, 2, 20, 30)),
            ("YZXT", (20, 5, 30, 2)),
        ],
    )
    @pytest.mark.parametrize("dtype", ["float32", "source"])
    def test_axes_shape_and_pixels_are_those_of_the_input(self, tmp_path, axes, shape, dtype):
        image = noise(*shape)
        size = (4, 8, 8) if "Z" in axes else (8, 8)
        data = arrays(image, axes, patch_size=size, tile_size=size)
        predict(data, TiffWriter(tmp_path / "out", dtype=dtype), tmp_path)
        path = tmp_path / "out" / "predict_data.tif"
        if axes.endswith("YXC"):  # viewers want planes
            axes, shape = "CYX", (shape[2], *shape[:2])
        (back,) = open_tiff(path, axes)
        assert (back.original_axes, tuple(back.original_data_shape)) == (axes, shape)
        assert back.data_dtype == (np.float32 if dtype == "float32" else np.uint16)
        for sample in range(back.data_shape[0]):
            region = Region(0, sample, (0,) * len(size), tuple(back.data_shape[2:]))
            ours = read_region(data.predict_stacks[0], region, None)
            assert np.array_equal(read_region(back, region, None), ours)
        back.close()
        (by_itself,) = open_tiff(path)
        long = "".join(a for a, n in zip(axes, shape, strict=True) if n > 1 or a in "YX")
        assert set(long) <= set(by_itself.original_axes)
        assert tifffile.imread(path).shape == shape  # also axes of size 1
        by_itself.close()

    def test_the_number_of_channels_is_that_of_the_prediction(self, tmp_path):
        class Twice(Identity):
            def predict_step(self, batch, batch_idx):
                result = super().predict_step(batch, batch_idx)
                return result | {"prediction": result["prediction"].repeat(1, 2, 1, 1)}

        image = noise(20, 30)
        predict(arrays(image), TiffWriter(tmp_path / "out"), tmp_path, Twice())
        result = tifffile.imread(tmp_path / "out" / "predict_data.tif")
        assert np.array_equal(result, [image, image])

    @pytest.mark.parametrize(
        "dtype",
        ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "?", ">u2", ">f4"],
    )
    @pytest.mark.parametrize("suffix", ["tif", "ome.tif"])
    def test_any_dtype_of_the_source_can_be_asked_for(self, tmp_path, dtype, suffix):
        image = noise(20, 30).astype(dtype)
        stack = ArrayDataModule(predict_data=image, axes="YX", normalization="none")
        writer = TiffWriter(tmp_path / "out", dtype="source")
        stack.setup("predict")
        stack.predict_stacks[0].source = f"a.{suffix}"
        predict(stack, writer, tmp_path)
        result = tifffile.imread(tmp_path / "out" / f"a.{suffix}")
        stored = np.dtype(np.uint8) if dtype == "?" else np.dtype(dtype).newbyteorder("=")
        assert result.dtype == stored
        assert np.array_equal(result, image)
        with tifffile.TiffFile(tmp_path / "out" / f"a.{suffix}") as file:
            fits = stored in (np.uint8, np.uint16, np.float32)
            assert file.is_imagej == (suffix == "tif" and fits)


class TestDtypes:
    @pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i4", "i8", "u8"])
    def test_integers_are_rounded_and_clipped(self, dtype):
        info = np.iinfo(dtype)
        values = np.array([-np.inf, -1e30, 0.4, 0.6, 2.5, 1e30, np.inf], np.float32)
        result = to_dtype(values, np.dtype(dtype))
        assert result.dtype == dtype
        assert result[:5].tolist() == [info.min, info.min, 0, 1, 2]
        assert all(value >= info.max * (1 - 1e-15) for value in result[5:].tolist())

    def test_nan_has_no_integer(self):
        with pytest.raises(DataError, match="contains NaN, which uint8 cannot store"):
            to_dtype(np.array([np.nan, 1]), np.dtype("u1"))
        assert np.isnan(to_dtype(np.array([np.nan]), np.dtype("f4"))).all()

    def test_bool_is_a_threshold(self):
        assert to_dtype(np.array([0.2, 0.7]), np.dtype(bool)).tolist() == [False, True]


SCALE = {"Z": (0.5, "µm"), "Y": (0.1, "µm"), "X": (0.2, "µm")}


class TestMetadata:
    def source(self, path, kind, shape, axes):
        """A file with pixel sizes, as Fiji, OME or a plain TIFF says them."""
        image = noise(*shape)
        um = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm", "PhysicalSizeZUnit": "µm"}
        sizes = {"PhysicalSizeX": 0.2, "PhysicalSizeY": 0.1, "PhysicalSizeZ": 0.5}
        if kind == "ome":
            tifffile.imwrite(path, image, ome=True, metadata={"axes": axes} | sizes | um)
        elif kind == "imagej":
            metadata = {"axes": axes, "unit": "um", "spacing": 0.5}
            tifffile.imwrite(path, image, imagej=True, resolution=(5, 10), metadata=metadata)
        else:
            resolution = {"resolution": (50_000, 100_000), "resolutionunit": "CENTIMETER"}
            options = {"photometric": "minisblack", "metadata": {"axes": axes}}
            tifffile.imwrite(path, image, **options, **resolution)
        return image

    @pytest.mark.parametrize(
        ("kind", "name", "axes", "shape", "says"),
        [
            ("ome", "a.ome.tif", "CZYX", (2, 5, 20, 30), "is_ome"),
            ("ome", "a.ome.tif", "YX", (20, 30), "is_ome"),
            ("ome", "a.tif", "ZCYX", (5, 2, 20, 30), "is_imagej"),
            ("ome", "a.tif", "CZYX", (2, 5, 20, 30), "is_ome"),
            ("imagej", "a.tif", "ZYX", (5, 20, 30), "is_imagej"),
            ("imagej", "a.tif", "TCYX", (2, 3, 20, 30), "is_imagej"),
            ("plain", "a.tif", "TYX", (3, 20, 30), "is_imagej"),
            ("plain", "a.tif", "XYT", (20, 30, 3), "is_shaped"),
        ],
    )
    def test_axes_and_pixel_size_are_kept(self, tmp_path, kind, name, axes, shape, says):
        (tmp_path / "in").mkdir()
        image = self.source(tmp_path / "in" / name, kind, shape, axes)
        size = (4, 8, 8) if "Z" in axes else (8, 8)
        data = tiffs(tmp_path / "in", patch_size=size, tile_size=size)
        predict(data, TiffWriter(tmp_path / "out"), tmp_path)
        before, after = (open_tiff(tmp_path / part / name)[0] for part in ("in", "out"))
        assert after.original_axes == before.original_axes == axes
        assert tuple(after.original_data_shape) == shape
        expected = {a: SCALE[a] for a in axes if a in SCALE}
        for stack in (before, after):
            assert stack.scale.keys() == expected.keys()
            for axis, (value, unit) in stack.scale.items():
                assert (value, unit) == (pytest.approx(expected[axis][0]), expected[axis][1])
            stack.close()
        with tifffile.TiffFile(tmp_path / "out" / name) as file:
            assert getattr(file, says)
            assert np.array_equal(file.asarray(), image)

    def test_channel_names_are_kept_in_ome(self, tmp_path):
        (tmp_path / "in").mkdir()
        metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
        image = noise(2, 20, 30)
        tifffile.imwrite(tmp_path / "in" / "a.ome.tif", image, metadata=metadata)
        predict(tiffs(tmp_path / "in"), TiffWriter(tmp_path / "out"), tmp_path)
        (result,) = open_tiff(tmp_path / "out" / "a.ome.tif")
        assert result.channel_names == ("DAPI", "GFP")
        result.close()

    def test_selected_channels_have_their_names_and_labels(self, tmp_path):
        (tmp_path / "in").mkdir()
        names = {"axes": "TCYX", "Channel": {"Name": ["DAPI", "GFP"]}}
        tifffile.imwrite(tmp_path / "in" / "a.tif", noise(3, 2, 20, 30), ome=True, metadata=names)
        labels = {"axes": "TCYX", "Labels": [f"t{t} c{c}" for t in range(3) for c in range(2)]}
        image = noise(3, 2, 20, 30)
        tifffile.imwrite(tmp_path / "in" / "b.tif", image, imagej=True, metadata=labels)
        predict(tiffs(tmp_path / "in", channels=[1]), TiffWriter(tmp_path / "out"), tmp_path)
        (first,) = open_tiff(tmp_path / "out" / "a.tif", "TCYX")
        (second,) = open_tiff(tmp_path / "out" / "b.tif", "TCYX")
        assert (first.channel_names, second.labels) == (("GFP",), ("t0 c1", "t1 c1", "t2 c1"))
        assert np.array_equal(second.extract_patch(2, None, (0, 0), (20, 30)), image[2, 1:])
        first.close()
        second.close()

    def test_what_is_lost_is_said_once_for_all_images(self, tmp_path):
        (tmp_path / "in").mkdir()
        metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}, "PhysicalSizeX": 0.1}
        for name in ("a.tif", "b.tif"):
            tifffile.imwrite(tmp_path / "in" / name, noise(2, 20, 30), ome=True, metadata=metadata)
        with pytest.warns(UserWarning, match="pixel size, channel names") as warned:
            predict(tiffs(tmp_path / "in"), NpyWriter(tmp_path / "out"), tmp_path)
        assert sum("can't hold" in str(one.message) for one in warned) == 1
        predict(tiffs(tmp_path / "in"), TiffWriter(tmp_path / "tiffs"), tmp_path)


class TestExisting:
    def test_error_is_the_default_and_nothing_is_predicted(self, tmp_path):
        data = arrays(noise(20, 30))
        predict(data, TiffWriter(tmp_path / "out"), tmp_path)
        before = (tmp_path / "out" / "predict_data.tif").stat()
        with pytest.raises(DataError, match=r"1 result\(s\) exist already.*predict_data\.tif"):
            predict(data, TiffWriter(tmp_path / "out"), tmp_path)
        assert (tmp_path / "out" / "predict_data.tif").stat() == before

    # Lightning says so when there is nothing left to predict.
    @pytest.mark.filterwarnings("ignore:Total length of `PatchLoader` across ranks is zero")
    @pytest.mark.parametrize("there", [[0, 2], [0, 1, 2]])
    def test_skip_predicts_the_others_only(self, tmp_path, there):
        (tmp_path / "out").mkdir()
        for i in there:
            (tmp_path / "out" / f"predict_data_{i:04d}.tif").write_text("mine")
        data = arrays([noise(20, 30)] * 3)
        predict(data, TiffWriter(tmp_path / "out", existing="skip"), tmp_path)
        for i in range(3):
            path = tmp_path / "out" / f"predict_data_{i:04d}.tif"
            assert (path.read_bytes() == b"mine") is (i in there)
        # Later predictions have all images again.
        regions = torch.cat([batch["region"] for batch in data.predict_dataloader()])
        assert regions[:, 0].unique().tolist() == [0, 1, 2]

    def test_replace_replaces(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "predict_data.tif").write_text("old")
        image = noise(20, 30)
        predict(arrays(image), TiffWriter(tmp_path / "out", existing="replace"), tmp_path)
        assert np.array_equal(tifffile.imread(tmp_path / "out" / "predict_data.tif"), image)

    @pytest.mark.parametrize("options", [{"existing": "keep"}, {"dtype": "uint8"}])
    def test_settings_are_checked_at_once(self, tmp_path, options):
        with pytest.raises(DataError, match="choose"):
            TiffWriter(tmp_path, **options)


class Failing(Identity):
    """Predicts some tiles, then fails."""

    def __init__(self, fault, after=6):
        super().__init__()
        self.fault, self.left = fault, after

    def predict_step(self, batch, batch_idx):
        self.left -= 1
        if self.left < 0:
            raise self.fault
        return super().predict_step(batch, batch_idx)


class TestFaults:
    @pytest.mark.parametrize("fault", [RuntimeError("out of luck"), KeyboardInterrupt()], ids=repr)
    def test_only_complete_files_are_left(self, tmp_path, fault):
        images = [noise(40, 40), noise(40, 40)]
        data = arrays(images, tile_overlap=(0, 0), batch_size=2)  # 9 tiles each, 5 batches
        with pytest.raises((RuntimeError, SystemExit)):
            predict(data, TiffWriter(tmp_path / "out"), tmp_path, Failing(fault))
        assert written(tmp_path / "out") == ["predict_data_0000.tif"]
        result = tifffile.imread(tmp_path / "out" / "predict_data_0000.tif")
        assert np.array_equal(result, images[0])
        # The same again goes on with what is missing.
        predict(data, TiffWriter(tmp_path / "out", existing="skip"), tmp_path)
        assert len(written(tmp_path / "out")) == 2

    def test_a_folder_that_cannot_be_made_is_told_before_predicting(self, tmp_path):
        (tmp_path / "file").write_text("")
        model = Failing(AssertionError("predicted"), after=0)
        for folder in (tmp_path / "file" / "out", tmp_path / "file"):
            with pytest.raises(DataError, match=r"output folder .*can't be written to \("):
                predict(arrays(noise(20, 30)), TiffWriter(folder), tmp_path, model)

    def test_names_that_a_file_system_takes_for_one_are_refused(self):
        check_case([Path("a/x.tif"), Path("b/x.tif")])
        with pytest.raises(DataError, match=r"a.x\.tif and A.x\.tif would be the same file"):
            check_case([Path("a/x.tif"), Path("A/x.tif")])

    @pytest.mark.parametrize("bad", ["t=0:1.tif", "why?.tif", "CON.tif", "com1", "a./x.tif"])
    def test_names_that_windows_does_not_allow_are_refused(self, bad):
        check_windows_names([Path("console/.a b.tif.d/contact.tif")])
        with pytest.raises(DataError, match="as Windows does not allow"):
            check_windows_names([Path(bad)])

    def test_trying_to_write_leaves_nothing(self, tmp_path):
        check_writable(tmp_path / "new")
        assert written(tmp_path) == []

    def test_a_writer_without_our_data_module_says_so(self, tmp_path):
        with pytest.raises(DataError, match=r"needs a careamics_dm DataModule"):
            run = trainer(tmp_path, callbacks=[TiffWriter(tmp_path / "out")])
            run.predict(Identity(), [torch.zeros(1)])

    def test_predictions_without_place_say_what_is_needed(self, tmp_path):
        class Plain(Identity):
            def predict_step(self, batch, batch_idx):
                return batch["image"]

        with pytest.raises(DataError, match="let predict_step return a dict of prediction"):
            predict(arrays(noise(20, 30)), TiffWriter(tmp_path / "out"), tmp_path, Plain())

    def test_nan_in_a_result_of_integers_leaves_no_file(self, tmp_path):
        class Nan(Identity):
            def predict_step(self, batch, batch_idx):
                result = super().predict_step(batch, batch_idx)
                return result | {"prediction": result["prediction"] * np.nan}

        data, writer = arrays(noise(20, 30)), TiffWriter(tmp_path / "out", dtype="source")
        with pytest.raises(DataError, match="contains NaN"):
            predict(data, writer, tmp_path, Nan())
        assert written(tmp_path / "out") == []


class TestTwoPredictionsIntoOneFolder:
    """The second begins while the first is under way."""

    def begin(self, folder, value, existing):
        data = arrays(np.full((32, 32), value, np.uint16), tile_overlap=(0, 0), batch_size=1)
        data.setup("predict")
        writer = TiffWriter(folder, existing=existing)
        run = trainer(folder, callbacks=[writer])
        run.datamodule, run.strategy._lightning_module = data, Identity()
        data.trainer = run
        writer.setup(run, Identity(), "predict")
        return writer, run, list(data.predict_dataloader())

    def put(self, begun, n):
        writer, run, batches = begun
        for batch in batches[n]:
            outputs = {"prediction": batch["image"], "region": batch["region"]}
            writer.on_predict_batch_end(run, Identity(), outputs, batch, 0)

    def end(self, begun):
        writer, run, _ = begun
        try:
            writer.on_predict_end(run, Identity())
        finally:
            writer.teardown(run, Identity(), "predict")

    @pytest.mark.parametrize("existing", ["skip", "replace", "error"])
    def test_the_second_is_refused_and_the_first_is_whole(self, tmp_path, existing):
        first, second = (self.begin(tmp_path, value, existing) for value in (1, 2))
        self.put(first, slice(0, 3))
        first[0]._background.finish()
        self.put(second, slice(0, 1))
        with pytest.raises(DataError, match=r"another prediction is writing .*Wait until it ends"):
            self.end(second)
        self.put(first, slice(3, 4))
        self.end(first)
        (path,) = first[0].paths
        assert (tifffile.imread(path) == 1).all()
        assert written(tmp_path) == [path.name]

    @pytest.mark.parametrize(
        ("existing", "value", "fault"),
        [("skip", 1, None), ("replace", 2, None), ("error", 1, "another prediction has meanwhile")],
    )
    def test_the_first_ends_before_the_second_writes(self, tmp_path, existing, value, fault):
        first, second = (self.begin(tmp_path, value, existing) for value in (1, 2))
        self.put(first, slice(0, 4))
        self.end(first)
        self.put(second, slice(0, 4))
        with pytest.raises(DataError, match=fault) if fault else nullcontext():
            self.end(second)
        (path,) = first[0].paths
        assert (tifffile.imread(path) == value).all()
        assert written(tmp_path) == [path.name]


class TestSpace:
    def test_what_surely_does_not_fit_is_refused_before_the_first_tile(self, tmp_path):
        image = np.broadcast_to(np.uint8(0), (3_000_000, 3_000_000))
        with pytest.raises(DataError, match=r"take 34332275 MiB or more, but in .* MiB are free"):
            predict(arrays(image), TiffWriter(tmp_path / "out"), tmp_path)
        assert written(tmp_path) == []

    def test_a_full_disk_is_one_message_and_leaves_complete_files_only(self, tmp_path):
        data, limits = arrays([noise(20, 30), noise(200, 300)]), getrlimit(RLIMIT_FSIZE)
        setrlimit(RLIMIT_FSIZE, (100_000, limits[1]))  # as a quota would
        try:
            with pytest.raises(DataError, match=r"predict_data_0001.tif, of 0.2 MiB, can't be wr"):
                predict(data, TiffWriter(tmp_path / "out"), tmp_path)
        finally:
            setrlimit(RLIMIT_FSIZE, limits)
        assert written(tmp_path / "out") == ["predict_data_0000.tif"]

    @pytest.mark.parametrize("able", [True, False])
    def test_it_is_taken_before_the_first_tile(self, tmp_path, monkeypatch, able):
        if not able:
            monkeypatch.delattr(os, "posix_fallocate", raising=False)
        pixels = tifffile.memmap(tmp_path / "a.tif", shape=(500, 600), dtype="u2")
        reserve(tmp_path / "a.tif", pixels)
        assert (tmp_path / "a.tif").stat().st_blocks * 512 >= pixels.nbytes
        assert not tifffile.imread(tmp_path / "a.tif").any()


@pytest.mark.parametrize("folder", ["s3://bucket/out", "gs://bucket", "https://host/out"])
def test_a_url_is_no_folder_for_results(folder):
    with pytest.raises(DataError, match=f"folder={folder} is a URL, but results are writt"):
        TiffWriter(folder)


class TestSeveralOutputs:
    class Twice(Identity):
        def predict_step(self, batch, batch_idx):
            result = super().predict_step(batch, batch_idx)
            return result | {"twice": 2 * result["prediction"]}

    def test_each_writer_writes_one_and_skips_what_it_has(self, tmp_path):
        image = noise(20, 30)
        writers = [TiffWriter(tmp_path / "one"), TiffWriter(tmp_path / "two", output="twice")]
        data = arrays([image, image])
        run = trainer(tmp_path, callbacks=writers)
        run.predict(self.Twice(), datamodule=data, return_predictions=False)
        for path in writers[1].paths:
            np.testing.assert_array_equal(tifffile.imread(path), 2.0 * image)
        writers[1].paths[1].unlink()
        for path in writers[0].paths:
            path.write_bytes(b"mine")
        for writer in writers:
            writer.existing = "skip"
        run.predict(self.Twice(), datamodule=data, return_predictions=False)
        assert [path.read_bytes() for path in writers[0].paths] == [b"mine"] * 2
        np.testing.assert_array_equal(tifffile.imread(writers[1].paths[1]), 2.0 * image)

    def test_an_output_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(DataError, match=r"dict of\s+twice"):
            predict(arrays(noise(20, 30)), TiffWriter(tmp_path / "x", output="twice"), tmp_path)
