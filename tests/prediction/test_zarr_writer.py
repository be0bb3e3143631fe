"""Predictions as OME-Zarr: pixels, metadata, plates and collections, and what a fault leaves."""

from __future__ import annotations

import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import fsspec
import numcodecs
import numpy as np
import pytest
import yaozarrs
import zarr
from modules import Identity, trainer
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from careamics_dm import (
    ArrayDataModule,
    AutoWriter,
    TiffDataModule,
    TiffWriter,
    ZarrDataModule,
    ZarrWriter,
)
from careamics_dm.errors import DataError
from careamics_dm.formats.tiff.datamodule import open_tiff
from careamics_dm.formats.zarr.array import codec_of
from careamics_dm.images import tensorstore_array
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.axes import Layout
from careamics_dm.prediction import pyramid
from careamics_dm.prediction.pyramid import halve, plan_levels, shrink
from careamics_dm.prediction.result_paths import result_paths
from careamics_dm.prediction.zarr_file import compressor
from careamics_dm.prediction.zarr_layout import ZarrLayout
from careamics_dm.prediction.zarr_store import CODECS, Target

sys.path.append(str(Path(__file__).parents[1] / "formats"))
from zarr_files import (
    NAMES,
    SCALE,
    numbers,
    write_array,
    write_collection,
    write_image,
    write_plate,
)

pytestmark = pytest.mark.usefixtures("files_close")
VERSIONS = ["0.4", "0.5"]


def options(axes):
    size = (2, 16, 16) if "Z" in axes.upper() else (16, 16)
    return {"normalization": "none", "patch_size": size, "tile_size": size}


def zarrs(path, axes="auto", kind="YX", **more):
    return ZarrDataModule(predict_data=path, axes=axes, **(options(kind) | more))


def arrays(image, axes="YX", **more):
    return ArrayDataModule(predict_data=image, axes=axes, **(options(axes) | more))


def predict(data, writer, folder, model=None):
    run = trainer(folder, callbacks=[writer])
    run.predict(model or Identity(), datamodule=data, return_predictions=False)
    data.teardown("predict")


def opened(data):
    """The images of a module, and their pixels."""
    data.setup("predict")
    found = [(s, s.load().array) for s in data.predict_stacks]
    data.teardown("predict")
    return found


def content(path):
    """The OME metadata of a group; a store that is whole is valid, too."""
    attributes = zarr.open_group(path, mode="r").attrs.asdict()
    return attributes.get("ome", attributes)


def valid(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yaozarrs.validate_zarr_store(str(path))
    return True


def written(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


class TestImages:
    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("source", VERSIONS)
    @pytest.mark.parametrize(
        ("axes", "shape"), [("yx", (40, 50)), ("tcyx", (2, 2, 40, 50)), ("czyx", (2, 3, 40, 50))]
    )
    def test_pixels_and_metadata_are_those_of_an_ome_zarr(
        self, tmp_path, axes, shape, source, version
    ):
        image = numbers(shape)
        write_image(tmp_path / "in" / "a.ome.zarr", image, axes, source, "ome-zarr")
        writer = ZarrWriter(tmp_path / "out", ngff_version=version, dtype="source")
        predict(zarrs(tmp_path / "in", kind=axes), writer, tmp_path)
        (path,) = writer.paths
        assert path == tmp_path / "out" / "a.ome.zarr" and valid(path)
        stored = zarr.open_array(path / "0", mode="r")
        assert (stored.dtype, stored.metadata.zarr_format) == ("u2", 2 if version == "0.4" else 3)
        np.testing.assert_array_equal(stored[:], image)
        (result, pixels), *_ = opened(zarrs(path, kind=axes))
        np.testing.assert_array_equal(pixels, image)
        assert result.original_axes == axes.upper()
        assert result.scale == {a: SCALE[a] for a in axes.upper() if a in SCALE}
        assert result.channel_names == (tuple(NAMES) if "c" in axes else None)
        ours, theirs = content(path), content(tmp_path / "in" / "a.ome.zarr")
        assert ours["multiscales"][0]["name"] == theirs["multiscales"][0]["name"]
        if "c" in axes:
            channel = ours["omero"]["channels"][1]
            assert channel["color"] == "00FF00"
            assert channel["window"] == {"start": 0, "end": 9, "min": 0, "max": 9}

    @pytest.mark.parametrize(
        ("axes", "shape", "result"),
        [
            ("YX", (40, 50), "YX"),
            ("XYC", (50, 40, 2), "CYX"),
            ("STCYX", (2, 3, 2, 40, 50), "TCYX"),
            ("SYX", (2, 40, 50), "TYX"),
            ("CTZYX", (2, 2, 3, 40, 50), "TCZYX"),
            ("ZXYT", (3, 50, 40, 2), "TZYX"),
        ],
    )
    def test_any_axes_come_in_the_order_of_ome_zarr(self, tmp_path, axes, shape, result):
        image = numbers(shape)
        writer = ZarrWriter(tmp_path / "out")
        lost = pytest.warns(UserWarning, match=r"can't hold .*axes of samples \(all are T\)\. W")
        with lost if axes == "STCYX" else nullcontext():
            predict(arrays(image, axes), writer, tmp_path)
        stored = zarr.open_array(writer.paths[0] / "0", mode="r")
        layout = Layout(axes, shape)
        assert [a["name"].upper() for a in content(writer.paths[0])["multiscales"][0]["axes"]] == [
            *result
        ]
        assert stored.dtype == np.float32 and valid(writer.paths[0])
        np.testing.assert_array_equal(stored[:].squeeze(), layout.to_canonical(image).squeeze())

    def test_planes_of_a_volume_are_a_volume_again(self, tmp_path):
        image = numbers((2, 3, 40, 50))
        writer = ZarrWriter(tmp_path / "out", dtype="source")
        predict(arrays(image, "TZYX", **options("YX"), z_as_samples=True), writer, tmp_path)
        stored = zarr.open_array(writer.paths[0] / "0", mode="r")
        assert (stored.chunks, stored.shards) == ((1, 1, 40, 50), None)
        np.testing.assert_array_equal(stored[:], image)

    def test_time_step_units_and_colours(self, tmp_path):
        data = arrays(numbers((2, 3, 40, 50)), "TCYX")
        data.setup("predict")
        stack = data.predict_stacks[0]
        stack.scale = {"T": (2.5, "ms"), "Y": (1.0, "Å"), "X": (0.5, "furlong")}
        stack.channel_names = ("a", "b", "c")
        writer = ZarrWriter(tmp_path / "out")
        predict(data, writer, tmp_path)
        found = content(writer.paths[0])
        (entry,) = found["multiscales"]
        assert [axis.get("unit") for axis in entry["axes"]] == [
            *("millisecond", None, "angstrom", "furlong")
        ]
        (scale,) = entry["datasets"][0]["coordinateTransformations"]
        assert scale["scale"] == [2.5, 1.0, 1.0, 0.5]
        channels = found["omero"]["channels"]
        assert [c["label"] for c in channels] == ["a", "b", "c"]
        assert [c["color"] for c in channels] == ["00FF00", "FF00FF", "00FFFF"]
        ((result, _),) = opened(zarrs(writer.paths[0]))
        assert result.scale == stack.scale and result.channel_names == ("a", "b", "c")
        values = zarr.open_array(writer.paths[0] / "0", mode="r")[1, 2]
        assert channels[2]["window"]["start"] == values.min()
        assert channels[2]["window"]["end"] == values.max()

    def test_origin_is_that_of_the_source_at_every_level(self, tmp_path):
        group = zarr.create_group(tmp_path / "a.zarr", zarr_format=3)
        group.create_array("0", data=numbers((600, 40)))
        group.create_array("1", data=numbers((300, 20)))
        steps = [
            [{"type": "scale", "scale": [2.0 * n, 3.0 * n]} for n in (1, 2)],
            [{"type": "translation", "translation": [10.0 + n, 20.0]} for n in (0, 1)],
        ]
        whole = [
            {"type": "scale", "scale": [0.5, 1]},
            {"type": "translation", "translation": [1, 0]},
        ]
        pyramid = {
            "axes": [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"],
            "datasets": [
                {"path": str(n), "coordinateTransformations": [*both]}
                for n, both in enumerate(zip(*steps, strict=True))
            ],
            "coordinateTransformations": whole,
        }
        group.attrs["ome"] = {"version": "0.5", "multiscales": [pyramid]}
        found = []
        for level in (0, 1):
            writer = ZarrWriter(tmp_path / f"out{level}")
            predict(zarrs(tmp_path / "a.zarr", level=level, **options("YX")), writer, tmp_path)
            (entry,) = content(writer.paths[0])["multiscales"]
            found += [
                [step[step["type"]] for step in dataset["coordinateTransformations"]]
                for dataset in entry["datasets"]
            ]
        # Twice as large pixels of level 0 begin half a pixel of 1 x 3 µm further.
        full, half = [[1.0, 3.0], [6.0, 20.0]], [[2.0, 6.0], [6.5, 21.5]]
        assert found == [full, half, [[2.0, 6.0], [6.5, 20.0]]]

    def test_colours_of_an_ome_zarr_are_those_of_a_tiff(self, tmp_path):
        write_image(tmp_path / "a.zarr", numbers((2, 40, 50)), "cyx", "0.5", "bioio")
        group = zarr.open_group(tmp_path / "a.zarr", mode="r+")
        attributes = group.attrs.asdict()
        channels = attributes.get("ome", attributes)["omero"]["channels"]
        channels[0]["color"], channels[1]["color"] = "FF8000", "00FF00"
        group.attrs.update(attributes)
        writer = TiffWriter(tmp_path / "out")
        predict(zarrs(tmp_path / "a.zarr"), writer, tmp_path)
        (result,) = open_tiff(writer.paths[0])
        result.close()
        assert result.channel_colors == ("FF8000", "00FF00")

    def test_a_selected_channel_keeps_its_name_and_display(self, tmp_path):
        image = numbers((2, 40, 50))
        write_image(tmp_path / "a.zarr", image, "cyx", "0.5", "bioio")
        writer = ZarrWriter(tmp_path / "out", dtype="source")
        predict(zarrs(tmp_path / "a.zarr", channels=["GFP"]), writer, tmp_path)
        (channel,) = content(writer.paths[0])["omero"]["channels"]
        theirs = content(tmp_path / "a.zarr")["omero"]["channels"][1]
        assert channel["label"] == "GFP" and channel["window"] == theirs["window"]
        stored = zarr.open_array(writer.paths[0] / "0", mode="r")
        np.testing.assert_array_equal(stored[:], image[1:])

    @pytest.mark.parametrize("engine", ["zarr", "tensorstore"])
    @pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64", ">u2"])
    def test_any_dtype_and_zeros(self, tmp_path, monkeypatch, dtype, engine):
        if engine == "zarr":
            monkeypatch.setattr(tensorstore_array, "find_spec", lambda name: None)
        image = np.zeros((40, 50)).astype(dtype)
        image[20:] = 1
        writer = ZarrWriter(tmp_path / "out", dtype="source")
        predict(arrays(image), writer, tmp_path)
        ((result, pixels),) = opened(zarrs(writer.paths[0]))  # no chunk of zeros is left out
        assert result.data_dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(pixels, image)

    @pytest.mark.parametrize(
        ("given", "fast"), [({}, True), ({"num_workers": 1}, False), ({"engine": "zarr"}, False)]
    )
    def test_tensorstore_writes_where_that_slows_no_reader(self, tmp_path, given, fast):
        write_array(tmp_path / "a.zarr", numbers((40, 50)))
        data = zarrs(tmp_path / "a.zarr", axes="YX", kind="YX", **given)
        writer = ZarrWriter(tmp_path / "out", dtype="source")
        data.setup("predict")
        writer.prepare(data)
        assert writer.target.fast is fast
        data.teardown("predict")

    def test_other_inputs_than_zarr(self, tmp_path):
        import tifffile

        (tmp_path / "in").mkdir()
        names = {"axes": "CYX", "Channel": {"Name": NAMES}, "PhysicalSizeX": 0.1}
        image = numbers((2, 40, 50))
        tifffile.imwrite(tmp_path / "in" / "a.ome.tif", image, metadata=names)
        writer = ZarrWriter(tmp_path / "out", dtype="source")
        data = TiffDataModule(predict_data=tmp_path / "in", **options("YX"))
        predict(data, writer, tmp_path)
        ((result, pixels),) = opened(zarrs(tmp_path / "out" / "a.ome.zarr"))
        np.testing.assert_array_equal(pixels, image)
        assert result.channel_names == tuple(NAMES)


class TestStores:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_plate_is_a_plate_of_what_was_predicted(self, tmp_path, version):
        fields = write_plate(tmp_path / "in" / "p.zarr", version, "ome-zarr")
        store = tmp_path / "out" / "p.zarr"

        def run(**chosen):
            writer = ZarrWriter(tmp_path / "out", ngff_version=version, existing="skip")
            predict(zarrs(tmp_path / "in" / "p.zarr", **chosen), writer, tmp_path)

        run(row="A", column=2)
        assert valid(store)
        assert [w["path"] for w in content(store)["plate"]["wells"]] == ["A/2"]
        assert content(store / "A" / "2")["well"]["images"] == [{"path": "0"}, {"path": "1"}]
        run(row="B", field=1)
        assert [w["path"] for w in content(store)["plate"]["wells"]] == ["A/2", "B/2"]
        (store / ("zarr.json" if version == "0.5" else ".zattrs")).unlink()  # killed before the end
        run()
        assert valid(store) and content(store)["plate"]["rows"] == [{"name": "A"}, {"name": "B"}]
        found = opened(zarrs(store))
        assert [s.source for s, _ in found] == [str(store / path) for path in fields]
        for (_, pixels), image in zip(found, fields.values(), strict=True):
            np.testing.assert_array_equal(pixels, image)

    @pytest.mark.parametrize("version", VERSIONS)
    def test_jobs_that_end_at_the_same_time_describe_all_that_is_there(self, tmp_path, version):
        fields = write_plate(tmp_path / "in" / "p.zarr", version, "ome-zarr")
        store = tmp_path / "out" / "p.zarr"

        def run(job, kind=Target):
            writer = ZarrWriter(tmp_path / "out", ngff_version=version)
            writer.target = kind(version, {})
            predict(zarrs(tmp_path / "in" / "p.zarr", shard=f"{job}/3"), writer, tmp_path)

        class Late(Target):
            """Another job ends after this one has looked what is there, and before it writes."""

            def describe(self, path, model, content):
                if model == "Plate" and not (store / "B" / "2" / "0").exists():
                    run(2)
                    run(3)
                return super().describe(path, model, content)

        run(1, Late)
        assert valid(store)
        assert [s.source for s, _ in opened(zarrs(store))] == [str(store / p) for p in fields]
        with pytest.raises(DataError, match=r"^\d result\(s\) exist already"):
            run(2)

    def test_a_field_that_is_named_itself_is_in_a_plate(self, tmp_path):
        write_plate(tmp_path / "in" / "p.zarr", "0.5", "ome-zarr")
        data = zarrs(f"file://{tmp_path}/in/p.zarr/B/2/0")
        predict(data, ZarrWriter(tmp_path / "out"), tmp_path)
        assert content(tmp_path / "out" / "p.zarr")["plate"]["wells"] == [
            {"path": "B/2", "rowIndex": 1, "columnIndex": 1}
        ]

    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_collection_stays_one(self, tmp_path, version):
        root = zarr.open_group(tmp_path / "in" / "c.zarr", mode="w")
        images = {name: numbers((40, 50), seed=int(name)) for name in ("10", "9")}
        for name, image in images.items():
            write_image(tmp_path / "in" / "c.zarr" / name, image, "yx", "0.5", "ome-zarr")
        root.attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
        root.create_group("OME", attributes={"ome": {"version": "0.5", "series": ["10", "9"]}})
        store = tmp_path / "out" / "c.zarr"
        writer = ZarrWriter(tmp_path / "out", ngff_version=version)
        predict(zarrs(tmp_path / "in" / "c.zarr"), writer, tmp_path)
        assert content(store)["bioformats2raw.layout"] == 3
        assert content(store / "OME")["series"] == ["10", "9"]
        xml = (store / "OME" / "METADATA.ome.xml").read_text("utf-8")
        assert xml.index('ID="Image:10"') < xml.index('ID="Image:9"')
        assert 'SizeX="50" SizeY="40"' in xml and 'Type="float"' in xml
        for (_, pixels), image in zip(opened(zarrs(store)), images.values(), strict=True):
            np.testing.assert_array_equal(pixels, image)

    def test_plain_arrays_of_a_store_become_a_collection(self, tmp_path):
        images = write_collection(tmp_path / "in.zarr")
        data = zarrs(list(images), axes="TYX")
        predict(data, ZarrWriter(tmp_path / "out"), tmp_path)
        store = tmp_path / "out" / "in.zarr"
        names = ["array_1", "array_2", "others/array_2", "others/array_3"]
        assert valid(store) and content(store / "OME")["series"] == names
        for (_, pixels), image in zip(opened(zarrs(store)), images.values(), strict=True):
            np.testing.assert_array_equal(pixels, image)

    @pytest.mark.parametrize(
        ("sources", "results"),
        [
            (["a.tif", "b.czi"], ["a.zarr", "b.zarr"]),
            (["d/a.czi/scene_0", "d/a.czi/scene_1"], ["a.zarr/scene_0", "a.zarr/scene_1"]),
            (["a.zarr", "b.ome.zarr", "c.zarr.zip"], ["a.zarr", "b.ome.zarr", "c.zarr"]),
            (["p.zarr/A/1/0", "p.zarr/A/2/0"], ["p.zarr/A/1/0", "p.zarr/A/2/0"]),
            (["x.zarr.zip/a.1", "b.ome.tif/series_0"], ["x.zarr/a.1", "b.ome.zarr/series_0"]),
            (["s3://b/x.zarr/0", "s3://b/y.zarr"], ["x.zarr/0", "y.zarr"]),
        ],
    )
    def test_names(self, tmp_path, sources, results):
        stacks = [ArrayStack(numbers((2, 2)), "YX", name) for name in sources]
        named = result_paths(stacks, tmp_path, ZarrWriter(tmp_path).suffixes)
        assert named == [tmp_path / name for name in results]

    def test_an_image_inside_another_is_refused(self, tmp_path):
        stacks = [ArrayStack(numbers((2, 2)), "YX", name) for name in ("a.tif", "a.czi/scene_0")]
        with pytest.raises(DataError, match=r"several images would be written to .*a\.zarr\."):
            result_paths(stacks, tmp_path, ZarrWriter(tmp_path).suffixes)


class TestExisting:
    def run(self, folder, value, **chosen):
        images = [np.full((40, 50), value + i, np.uint16) for i in range(2)]
        for i, image in enumerate(images):
            write_array(folder / "in" / "c.zarr" / str(i), image, overwrite=True)
        sources = [f"file://{folder}/in/c.zarr/{i}" for i in range(2)]
        data, writer = zarrs(sources, axes="YX"), ZarrWriter(folder / "out", **chosen)
        predict(data, writer, folder)

    def values(self, folder):
        return [
            zarr.open_array(folder / "out/c.zarr" / name / "0", mode="r")[0, 0] for name in "01"
        ]

    @pytest.mark.filterwarnings("ignore:Total length of `PatchLoader` across ranks is zero")
    def test_images_of_a_store_are_results_each(self, tmp_path):
        self.run(tmp_path, 1)
        with pytest.raises(DataError, match=r"2 result\(s\) exist already.*c\.zarr/0\. Write to"):
            self.run(tmp_path, 3)
        for path in sorted((tmp_path / "out/c.zarr/1").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        (tmp_path / "out/c.zarr/1").rmdir()
        self.run(tmp_path, 5, existing="skip")
        assert self.values(tmp_path) == [1, 6]
        self.run(tmp_path, 7, existing="skip")
        assert self.values(tmp_path) == [1, 6]
        self.run(tmp_path, 9, existing="replace")
        assert self.values(tmp_path) == [9, 10] and valid(tmp_path / "out" / "c.zarr")
        assert not [name for name in written(tmp_path / "out") if ".part" in name or ".old" in name]

    def test_what_is_no_result_is_never_replaced(self, tmp_path):
        image, out = numbers((40, 50)), tmp_path / "out"
        for made, named in (("a.zarr/x", "a.zarr"), ("a.zarr", "a.zarr/x")):
            write_array(out / made, image, overwrite=True)
            data = arrays(image)
            data.setup("predict")
            data.predict_stacks[0].source = named
            with pytest.raises(DataError, match="is there already and is something else"):
                predict(data, ZarrWriter(out, existing="replace"), tmp_path)
        np.testing.assert_array_equal(zarr.open_array(out / "a.zarr", mode="r")[:], image)

    def test_a_store_has_one_version(self, tmp_path):
        write_collection(tmp_path / "in.zarr")
        first, second = (zarrs(f"file://{tmp_path}/in.zarr/array_{i}", "TYX") for i in (1, 2))
        predict(first, ZarrWriter(tmp_path / "out"), tmp_path)
        with pytest.raises(DataError, match=r"in\.zarr is there already, but not in OME-Zarr 0\.4"):
            predict(second, ZarrWriter(tmp_path / "out", ngff_version="0.4"), tmp_path)

    def test_inputs_are_never_replaced(self, tmp_path):
        write_image(tmp_path / "a.zarr", numbers((40, 50)), "yx", "0.5", "ome-zarr")
        with pytest.raises(DataError, match=r"would replace inputs \(.*a\.zarr"):
            predict(zarrs(tmp_path / "a.zarr"), ZarrWriter(tmp_path, existing="replace"), tmp_path)


class Failing(Identity):
    """Predicts some tiles, then fails."""

    def __init__(self, fault, after):
        super().__init__()
        self.fault, self.left = fault, after

    def predict_step(self, batch, batch_idx):
        self.left -= 1
        if self.left < 0:
            raise self.fault
        return super().predict_step(batch, batch_idx)


class TestFaults:
    def test_what_a_killed_process_leaves_of_chunks_is_not_in_the_result(self, tmp_path):
        image, chunks = numbers((300, 200)), {"chunks": (32, 32), "shards": (32, 32)}
        writer = ZarrWriter(tmp_path / "out", **chunks)
        data = arrays(image, tile_size=(32, 32), batch_size=1)
        with pytest.raises(ValueError, match="stop"):
            predict(data, writer, tmp_path, Failing(ValueError("stop"), after=60))
        (part,) = (tmp_path / "out").glob(".*.part/0")
        (part / "0_7f.__lock").write_bytes(b"half of a chunk")
        predict(data, ZarrWriter(tmp_path / "out", **chunks), tmp_path)
        assert not [*(tmp_path / "out").rglob("*.__lock")]
        ((_, pixels),) = opened(zarrs(writer.paths[0]))
        np.testing.assert_array_equal(pixels, image)

    @pytest.mark.parametrize("folder", ["{}/out", "memory://faults/out"])
    def test_what_is_not_finished_is_no_image(self, tmp_path, folder):
        folder = folder.format(tmp_path)
        images = write_collection(tmp_path / "in.zarr")
        del images[list(images)[-1]]
        data = zarrs(list(images), axes="TYX", tile_overlap=(0, 0), batch_size=9)
        with pytest.raises(RuntimeError):  # in the third image, of 36 tiles each
            predict(data, ZarrWriter(folder), tmp_path, Failing(RuntimeError("no luck"), 10))
        system, path = fsspec.core.url_to_fs(folder)
        left = {name.split("in.zarr/")[-1].split("/")[0] for name in system.find(path)}
        series = zarr.open_group(f"{folder}/in.zarr/OME", mode="r").attrs["ome"]["series"]
        assert series in (["array_1"], ["array_1", "array_2"])
        assert {"zarr.json", "OME", *series} <= left
        predict(data, ZarrWriter(folder, existing="skip"), tmp_path)
        names = ["array_1", "array_2", "others/array_2"]
        for name, image in zip(names, images.values(), strict=True):
            found = zarr.open_array(f"{folder}/in.zarr/{name}/0", mode="r")
            np.testing.assert_array_equal(found[:], image)

    @pytest.mark.parametrize("existing", ["error", "skip", "replace"])
    def test_another_prediction_was_first(self, tmp_path, existing):
        data = arrays(np.full((40, 50), 2, np.uint16), tile_overlap=(0, 0), batch_size=1)

        class Other(Identity):
            """Is overtaken by another prediction into the same folder."""

            def on_predict_start(self):
                image = arrays(np.full((40, 50), 1, np.uint16))
                predict(image, ZarrWriter(tmp_path / "out"), tmp_path)

        fault = pytest.raises(DataError, match=r"another prediction has meanwhile written .*zarr")
        with fault if existing == "error" else nullcontext():
            predict(data, ZarrWriter(tmp_path / "out", existing=existing), tmp_path, Other())
        stored = zarr.open_array(tmp_path / "out" / "predict_data.zarr" / "0", mode="r")
        assert (stored[:] == (2 if existing == "replace" else 1)).all()
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["predict_data.zarr"]

    def test_what_a_killed_prediction_leaves_is_not_read(self, tmp_path):
        data = arrays(numbers((3, 40, 50)), axes="TYX", batch_size=1)
        fault = Failing(RuntimeError("killed"), 30)  # a plane has fewer tiles
        with pytest.raises(RuntimeError):
            predict(data, ZarrWriter(tmp_path / "out"), tmp_path, fault)
        assert written(tmp_path / "out")
        with pytest.raises(DataError, match="not a Zarr store"):
            opened(zarrs(tmp_path / "out"))

    def test_a_store_that_refuses_is_one_message(self, tmp_path):
        (tmp_path / "file").write_text("")
        for folder, message in (
            (tmp_path / "file", "output folder .*file can't be written to"),
            (
                "nothing://bucket/out",
                r"nothing://bucket/out/.* can't be written \(ValueError: Protoco",
            ),
        ):
            with pytest.raises(DataError, match=message):
                predict(arrays(numbers((40, 50))), ZarrWriter(folder), tmp_path)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"ngff_version": "0.3"}, "choose among 0.5, 0.4"),
            ({"storage_options": "key"}, "give names and values, or null"),
            ({"folder": "out.zip"}, r"is a zip file.*Give a folder, and set writer.zip=true"),
            ({"existing": "keep"}, "choose among error"),
            ({"zip": "yes"}, "writer.zip='yes': give true or false"),
            ({"zip": True, "ngff_version": "0.4"}, "zip files are of OME-Zarr 0.5 and in local"),
            ({"zip": True, "folder": "memory://out"}, "zip files are of OME-Zarr 0.5 and in local"),
            ({"chunks": 64}, r"writer\.chunks=64: give 2 numbers"),
            ({"chunks": [64]}, r"writer\.chunks=\[64\]: give 2 numbers"),
            ({"chunks": [0, 64]}, r"writer\.chunks=\(0, 64\): give whole numbers of pixels"),
            ({"shards": "big"}, r"writer\.shards='big': give 2 numbers"),
            ({"shards": [300, 512]}, r"shards=\[300, 512\]: give multiples .*, \[256, 256\]\."),
            (
                {"shards": [64, 64], "chunks": [4, 64, 64]},
                r"give multiples of writer\.chunks, \[4,",
            ),
            ({"shards": [512, 512], "ngff_version": 0.4}, "0.4 has no shards. Leave them out"),
            (
                {"shards": [64, 64], "chunks": "source"},
                "=source takes those of the source. Leave",
            ),
            ({"chunks": "sauce"}, r"writer\.chunks='sauce': give 2 numbers"),
            (
                {"compression": "zstdd"},
                "choose among blosc, zstd, gzip, source, None. Did you mean zstd",
            ),
        ],
    )
    def test_settings_are_checked_at_once(self, given, message):
        with pytest.raises(DataError, match=message):
            ZarrWriter(**({"folder": "out"} | given))


class TestUrls:
    def test_images_go_behind_a_url(self, tmp_path):
        fields = write_plate(tmp_path / "p.zarr", "0.5", "ome-zarr", fields=1)
        writer = ZarrWriter("memory://urls/out")
        predict(zarrs(tmp_path / "p.zarr"), writer, tmp_path)
        group = zarr.open_group("memory://urls/out/p.zarr", mode="r")
        assert [w["path"] for w in group.attrs["ome"]["plate"]["wells"]] == ["A/1", "A/2", "B/2"]
        for path, image in fields.items():
            np.testing.assert_array_equal(group[f"{path}/0"][:], image)
        with pytest.raises(DataError, match=r"the first is memory://urls/out/p\.zarr/A/1/0\."):
            predict(zarrs(tmp_path / "p.zarr"), writer, tmp_path)
        replacing = ZarrWriter("memory://urls/out", existing="replace", dtype="source")
        predict(zarrs(tmp_path / "p.zarr", row="B"), replacing, tmp_path)
        group = zarr.open_group("memory://urls/out/p.zarr", mode="r")
        assert [group[f"{path}/0"].dtype for path in fields] == ["f4", "f4", "u2"]

    def test_a_file_url_is_a_folder(self, tmp_path):
        writer = ZarrWriter(f"file://{tmp_path}/out")
        predict(arrays(numbers((40, 50))), writer, tmp_path)
        assert writer.paths == [tmp_path / "out" / "predict_data.zarr"] and valid(writer.paths[0])

    def test_inputs_behind_urls_are_not_replaced(self, tmp_path):
        stacks = [ArrayStack(numbers((2, 2)), "YX", "memory://urls/in/a.zarr")]
        writer = ZarrWriter("memory://urls/in")
        with pytest.raises(DataError, match=r"replace inputs \(memory://urls/in/a\.zarr\)"):
            result_paths(stacks, writer.folder, writer.suffixes)


class TestPyramid:
    @pytest.mark.parametrize(
        ("axes", "shape", "lengths", "factors"),
        [
            ("YX", (512, 512), (1, 1), [(1, 1)]),
            ("YX", (513, 3), (1, 1), [(1, 1), (2, 2)]),
            ("YX", (1, 3000), (1, 1), [(1, 1), (1, 2), (1, 4), (1, 8)]),
            ("CZYX", (2, 9, 600, 600), (1, 1, 1, 1), [(1, 1, 1, 1), (1, 2, 2, 2)]),
            ("ZYX", (9, 1100, 9), (3, 1, 1), [(1, 1, 1), (1, 2, 2), (1, 4, 4)]),
            ("ZYX", (9, 1100, 9), (2, 1, 1), [(1, 1, 1), (1, 2, 2), (2, 4, 4)]),
        ],
    )
    def test_levels(self, axes, shape, lengths, factors):
        assert plan_levels(axes, shape, lengths) == factors

    def test_values_are_means(self):
        image = np.arange(15, dtype=np.uint8).reshape(3, 5)
        assert halve(image, (2, 2)).tolist() == [[3, 5, 6.5], [10.5, 12.5, 14]]
        large = np.array([[2**62, 2**62 + 2**20]])
        assert halve(large, (1, 2)).tolist() == [[2**62 + 2**19]]
        target = np.zeros((2, 3), np.uint8)
        shrink(image, target, (1, 2))
        assert target.tolist() == [[3, 5, 6], [10, 12, 14]]
        target = np.zeros((2, 3), bool)
        shrink(image > 6, target, (2, 2))
        assert target.tolist() == [[False, True, True], [True, True, True]]

    def test_strips_change_nothing(self, monkeypatch):
        image = numbers((9, 7, 5))
        monkeypatch.setattr(pyramid, "STRIP", 1)
        for steps in ((2, 2, 2), (1, 2, 2), (2, 2, 1)):
            target = np.zeros([-(-n // s) for n, s in zip(image.shape, steps, strict=True)], "f4")
            shrink(image, target, (3, 2, 4))
            np.testing.assert_array_equal(target, halve(image, steps))

    def test_a_fault_ends_it(self):
        class Damaged:
            shape = (4, 1030)

            def __getitem__(self, box):
                raise OSError("no such chunk")

        with pytest.raises(OSError, match="no such chunk"):
            shrink(Damaged(), np.zeros((2, 515)), (1, 16))

    @pytest.mark.parametrize("version", VERSIONS)
    def test_smaller_levels_of_a_result(self, tmp_path, version):
        image = numbers((2, 2, 1030))
        data = arrays(image, "CYX", patch_size=(2, 2), tile_size=(2, 512), tile_overlap=(0, 0))
        data.setup("predict")
        data.predict_stacks[0].scale = {"Y": (0.2, "µm"), "X": (0.1, "µm")}
        writer = ZarrWriter(tmp_path / "out", ngff_version=version)
        predict(data, writer, tmp_path)
        (entry,) = content(writer.paths[0])["multiscales"]
        steps = [level["coordinateTransformations"] for level in entry["datasets"]]
        assert [s[0]["scale"] for s in steps] == [[1, 0.2, 0.1], [1, 0.4, 0.2], [1, 0.4, 0.4]]
        assert steps[2][1]["translation"] == pytest.approx([0, 0.1, 0.15])
        half = image.reshape(2, 1, 2, 515, 2).mean((2, 4))
        quarter = half[..., :514].reshape(2, 1, 257, 2).mean(-1)
        levels = [zarr.open_array(writer.paths[0] / n, mode="r")[:] for n in "012"]
        np.testing.assert_array_equal(levels[0], image)
        np.testing.assert_allclose(levels[1], half)
        np.testing.assert_allclose(levels[2][..., :257], quarter)
        np.testing.assert_allclose(levels[2][..., 257], half[..., 514])


class TestChunks:
    @pytest.mark.parametrize(
        ("axes", "shape", "version", "chunk", "block"),
        [
            ("TCYX", (9, 2, 4000, 3000), "0.5", (256, 256), (1024, 1024)),
            ("TCYX", (9, 2, 4000, 3000), "0.4", (512, 512), (1024, 1024)),
            ("ZYX", (200, 4000, 3000), "0.5", (16, 128, 128), (64, 256, 256)),
            ("YX", (300, 20), "0.5", (256, 20), (300, 20)),
        ],
    )
    def test_blocks_are_whole_chunks(self, tmp_path, axes, shape, version, chunk, block):
        stack = ArrayStack(np.broadcast_to(np.uint8(0), shape), axes, "a")
        writer = ZarrWriter(tmp_path, ngff_version=version)
        assert writer.block_shape(stack) == block
        auto = [AutoWriter(tmp_path, max_tiff_gib=most).block_shape(stack) for most in (0, 99)]
        assert auto == [ZarrWriter(tmp_path).block_shape(stack), (1,) * len(block)]
        layout = ZarrLayout(Layout(axes, shape), "Z" in axes)
        found = layout.parts(layout.shape, 2 if version == "0.4" else 3)
        single = (1,) * (len(shape) - len(chunk))
        assert found.chunk == single + chunk
        assert all(b % c == 0 for b, c in zip(found.block, found.chunk, strict=True))

    @pytest.mark.parametrize(
        ("axes", "version", "stored", "chunks", "shards", "codecs"),
        [
            ("YX", "0.5", {"chunks": [30, 64]}, (30, 64), (90, 128), "BloscCodec"),
            ("YX", "0.4", {"chunks": [30, 64], "compression": "zstd"}, (30, 64), None, "Zstd"),
            ("CYX", "0.5", {"compression": "zstd"}, (1, 66, 100), None, "ZstdCodec"),
            ("CYX", "0.4", {"compression": None}, (1, 66, 100), None, ""),
            (
                *("TZYX", "0.5", {"chunks": [2, 16, 20], "shards": [4, 32, 60]}),
                *((1, 2, 16, 20), (1, 4, 32, 60), "BloscCodec"),
            ),
            (
                *("TZYX", "0.5", {"chunks": [5, 40, 50], "shards": [5, 40, 50]}),
                *((1, 5, 40, 50), None, "BloscCodec"),
            ),
            (
                *("CZYX", "0.5", {"chunks": [9, 999, 999], "compression": None}),
                *((1, 6, 66, 100), None, ""),
            ),
            (
                *("CZYX", "0.4", {"chunks": [3, 66, 99], "compression": "gzip"}),
                *((1, 3, 66, 99), None, "GZip"),
            ),
        ],
    )
    def test_chunks_and_codec_are_the_users(
        self, tmp_path, axes, version, stored, chunks, shards, codecs
    ):
        sizes = {"Z": 6, "Y": 66, "X": 100}
        image = numbers(tuple(sizes.get(axis, 2) for axis in axes))
        writer = ZarrWriter(tmp_path / "out", ngff_version=version, dtype="source", **stored)
        predict(arrays(image, axes), writer, tmp_path)
        (path,) = writer.paths
        found = zarr.open_array(path / "0", mode="r")
        assert (found.chunks, found.shards) == (chunks, shards) and valid(path)
        assert "".join(type(codec).__name__ for codec in found.compressors) == codecs
        (node, *_) = Reader(parse_url(path))()
        for pixels in (found[:], np.asarray(node.data[0])):
            np.testing.assert_array_equal(pixels, image)
        ((_, again),) = opened(zarrs(path, kind=axes))
        np.testing.assert_array_equal(again, image)

    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("shards", [None, (1, 6, 32, 60)])
    @pytest.mark.parametrize("planes", [False, True])
    def test_chunks_can_be_those_of_the_source(self, tmp_path, version, shards, planes):
        image = numbers((2, 6, 66, 100))
        write_array(tmp_path / "a.zarr", image, chunks=(1, 3, 16, 20), shards=shards)
        writer = ZarrWriter(tmp_path / "out", ngff_version=version, chunks="source")
        kind = {"kind": "YX", "z_as_samples": True} if planes else {"kind": "ZYX"}
        predict(zarrs(tmp_path / "a.zarr", axes="TZYX", **kind), writer, tmp_path)
        found = zarr.open_array(writer.paths[0] / "0", mode="r")
        depth, whole = (1, (1, 1, 32, 60)) if planes else (3, shards)
        assert found.chunks == (1, depth, 16, 20)
        assert found.shards == (whole if shards and version == "0.5" else None)
        np.testing.assert_array_equal(found[:], image)
        writer = ZarrWriter(tmp_path / "other", chunks="source")
        predict(arrays(image, "TZYX"), writer, tmp_path)  # an input that has no chunks
        assert zarr.open_array(writer.paths[0] / "0", mode="r").chunks == (1, 6, 66, 100)

    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("source_format", [2, 3])
    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("blosc", {"cname": "lz4", "clevel": 7, "shuffle": "bitshuffle"}),
            ("blosc", {"cname": "zstd", "clevel": 1, "shuffle": "noshuffle"}),
            ("zstd", {"level": 9}),
            ("gzip", {"level": 2}),
            ("none", {}),
        ],
    )
    def test_compression_can_be_that_of_the_source(
        self, tmp_path, name, settings, source_format, version
    ):
        image = numbers((2, 3, 40, 50))
        shards = (1, 2, 32, 32) if source_format == 3 else None
        codecs = compressor((name, settings), source_format)
        how = {"zarr_format": source_format, "shards": shards, "compressors": codecs}
        write_array(tmp_path / "a.zarr", image, chunks=(1, 2, 16, 16), **how)
        writer = ZarrWriter(tmp_path / "out", ngff_version=version, compression="source")
        predict(zarrs(tmp_path / "a.zarr", axes="TZYX", kind="ZYX"), writer, tmp_path)
        found = zarr.open_array(writer.paths[0] / "0", mode="r")
        assert codec_of(found) == (name, settings)
        np.testing.assert_array_equal(found[:], image)

    def test_compression_of_a_source_that_has_none_or_another_one(self, tmp_path):
        image = numbers((40, 50))
        writer = ZarrWriter(tmp_path / "out", compression="source")
        predict(arrays(image), writer, tmp_path)  # no Zarr
        usual = zarr.open_array(writer.paths[0] / "0", mode="r")
        assert codec_of(usual) == CODECS["blosc"]
        for codec in (numcodecs.LZMA(preset=1), numcodecs.GZip(-1), numcodecs.Blosc(shuffle=-1)):
            how = {"zarr_format": 2, "compressors": codec, "overwrite": True}
            write_array(tmp_path / "a.zarr", image, **how)
            data = zarrs(tmp_path / "a.zarr", axes="YX", kind="YX")
            writer = ZarrWriter(tmp_path / codec.codec_id, compression="source")
            if codec.codec_id != "blosc":
                with pytest.raises(
                    DataError, match=r"a\.zarr is compressed by (lzma|gzip, level -1), .* Choose"
                ):
                    predict(data, writer, tmp_path)
            else:
                predict(data, writer, tmp_path)
                found = zarr.open_array(writer.paths[0] / "0", mode="r")
                expected = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle"}
                assert codec_of(found) == ("blosc", expected)

    @pytest.mark.parametrize(
        ("axes", "shape", "stored", "message"),
        [
            ("YX", (40, 50), {"chunks": [4, 16, 16]}, r"as planes, so give 2 numbers \(Y X\)"),
            ("ZYX", (4, 40, 50), {"shards": [256, 256]}, r"as volumes, so give 3 .*\(Z Y X\)"),
            ("YX", (2**14, 2**14), {"chunks": [2**20] * 2}, "268435456 pixels .* Give smaller"),
        ],
    )
    def test_chunks_that_do_not_suit_an_image_are_refused(
        self, tmp_path, axes, shape, stored, message
    ):
        image = np.broadcast_to(np.uint8(1), shape)
        with pytest.raises(DataError, match=message):
            predict(arrays(image, axes), ZarrWriter(tmp_path / "out", **stored), tmp_path)


class TestAuto:
    def test_each_image_gets_the_file_that_suits_it(self, tmp_path):
        write_image(tmp_path / "a.zarr", numbers((40, 50)), "yx", "0.5", "ome-zarr")
        writer = AutoWriter(tmp_path / "zarr")
        predict(zarrs(tmp_path / "a.zarr"), writer, tmp_path)
        assert writer.paths == [tmp_path / "zarr" / "a.zarr"] and valid(writer.paths[0])
        limit = 40 * 50 * 4 / 2**30
        writer = AutoWriter(tmp_path / "mixed", max_tiff_gib=limit)
        predict(arrays([numbers((40, 50)), numbers((41, 50))]), writer, tmp_path)
        assert [p.name for p in writer.paths] == ["predict_data_0000.tif", "predict_data_0001.zarr"]
        assert writer.paths[0].is_file() and valid(writer.paths[1])
        with pytest.raises(DataError, match=r"2 result\(s\) exist already"):
            predict(arrays([numbers((40, 50)), numbers((41, 50))]), writer, tmp_path)

    def test_a_plate_stays_one(self, tmp_path):
        write_plate(tmp_path / "p.zarr", "0.5", "ome-zarr", fields=1)
        predict(zarrs(tmp_path / "p.zarr"), AutoWriter(tmp_path / "out"), tmp_path)
        assert valid(tmp_path / "out" / "p.zarr")

    def test_behind_a_url_all_is_zarr(self, tmp_path):
        writer = AutoWriter("memory://auto/out")
        predict(arrays(numbers((40, 50))), writer, tmp_path)
        assert zarr.open_array("memory://auto/out/predict_data.zarr/0", mode="r").shape == (40, 50)

    @pytest.mark.parametrize("value", ["4", -1, float("nan"), None])
    def test_the_limit_is_a_number(self, tmp_path, value):
        with pytest.raises(DataError, match=r"max_tiff_gib=.*: give a number of GiB"):
            AutoWriter(tmp_path, max_tiff_gib=value)
