"""Formats of one's own: a read function, an image stack loader, by name or themselves."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import sys
import textwrap
from collections import Counter
from contextlib import chdir
from functools import partial
from pathlib import Path
from threading import Lock
from time import sleep

import h5py
import lightning as L
import numpy as np
import pytest
import tifffile
from apps import SMALL, refuse, succeed
from modules import trainer
from stacks import RecordingStack

from careamics_dm.errors import DataError
from careamics_dm.formats.custom.datamodule import CustomDataModule
from careamics_dm.formats.custom.user_images import FILES, LOADED
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.models.n2v import N2VModule
from careamics_dm.models.unet import UNet
from careamics_dm.prediction.tiff_writer import TiffWriter
from careamics_dm.sources.import_path import check_travels, find_function
from careamics_dm.testing.datamodule_checks import check_datamodule, check_image_stack

pytestmark = pytest.mark.usefixtures("files_close")

rng = np.random.default_rng(0)
MODULE = textwrap.dedent(
    '''
    """HDF5 as CAREamics documents an image stack: six members, nothing inherited."""

    import h5py
    import numpy as np


    class HDF5Stack:
        def __init__(self, path, name):
            self.path, self.name = str(path), name
            with h5py.File(path) as file:
                shape, self.data_dtype = file[name].shape, file[name].dtype
            self.source = f"{path}/{name}"
            self.original_axes, self.original_data_shape = "SYX", shape
            self.data_shape = (shape[0], 1, *shape[1:])

        def extract_patch(self, sample_idx, channels, coords, patch_size):
            low = [max(c, 0) for c in coords]
            high = [min(c + p, n) for c, p, n in zip(coords, patch_size, self.data_shape[2:])]
            with h5py.File(self.path) as file:  # opened where it is read, in any process
                box = file[self.name][sample_idx, low[0] : high[0], low[1] : high[1]]
            before = [a - c for a, c in zip(low, coords)]
            after = [c + p - b for c, p, b in zip(coords, patch_size, high)]
            return np.pad(box, list(zip(before, after)))[None]


    def load(source, axes):
        with h5py.File(source) as file:
            return [HDF5Stack(source, name) for name in file]


    def read(path):
        return np.load(path)
    '''
)
calls: Counter = Counter()
lock = Lock()


def noise(*shape, dtype=np.uint16):
    return rng.integers(0, 1000, shape).astype(dtype)


def counted(path):
    """Read a file, slowly enough for other threads to come in between."""
    with lock:
        calls[Path(path).name] += 1
    sleep(0.01)
    return np.load(path)


@pytest.fixture(autouse=True)
def nothing_is_kept():
    calls.clear()
    yield
    FILES.close_all()


@pytest.fixture
def folder(tmp_path):
    """Three images in ``.npy`` files."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name, shape in {"a": (40, 30), "b": (33, 50), "sub/c": (24, 24)}.items():
        np.save(tmp_path / "in" / f"{name}.npy", noise(*shape))
    (tmp_path / "in" / "notes.md").write_text("other things")
    return tmp_path / "in"


@pytest.fixture
def mystacks(tmp_path, monkeypatch):
    """A user's module, importable; and an HDF5 file of two stacks."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "mystacks", raising=False)
    (tmp_path / "mystacks.py").write_text(MODULE)
    pixels = {"one": noise(3, 40, 50), "two": noise(2, 33, 64)}
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for name, array in pixels.items():
            file[name] = array
    return pixels


def reading(data, axes="YX", **options):
    options = {"read_func": counted, "extension": ".npy", "in_memory": False} | options
    return CustomDataModule(train_data=data, axes=axes, patch_size=(8, 8), **options)


def loading(loader, data="nothing", **options):
    return CustomDataModule(
        image_stack_loader=loader, train_data=data, **({"patch_size": (8, 8)} | options)
    )


def stacks(module):
    module.setup("fit")
    return module.images_of("train").stacks


class TestReadFunction:
    def test_lists_folders_globs_and_manifests_of_files(self, folder, tmp_path):
        paths = sorted(folder.rglob("*.npy"))
        (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
        for data in (paths, [str(p) for p in paths], folder, str(folder), tmp_path / "list.txt"):
            assert [s.source for s in stacks(reading(data))] == [str(p) for p in paths]
        found = stacks(reading(str(folder / "*.npy"), extension=None))
        assert [s.source for s in found] == [str(p) for p in paths[:2]]
        assert [s.source for s in stacks(reading(paths[0], extension=None))] == [str(paths[0])]

    @pytest.mark.parametrize("extension", [".npy", "npy", "*.npy", ".NPY"])
    def test_extensions_as_people_write_them(self, folder, extension):
        assert len(stacks(reading(folder, extension=extension))) == 3

    @pytest.mark.parametrize("axes", ["SCYX", "XYTC", "CZYX"])
    @pytest.mark.parametrize("dtype", [">u2", "f4", "?"])
    def test_any_axes_and_dtype(self, tmp_path, axes, dtype):
        array = noise(4, 6, 12, 10).astype(dtype)
        np.save(tmp_path / "a.npy", array)
        patch = (4, 8, 8) if "Z" in axes else (4, 4)
        one = CustomDataModule(
            read_func=np.load,
            train_data=tmp_path / "a.npy",
            axes=axes,
            patch_size=patch,
            in_memory=False,
            n_val_patches=0,
        )
        (stack,) = stacks(one)
        check_image_stack(stack, ArrayStack(array, axes, "a").layout.to_canonical(array))
        assert stack.block_shape == stack.data_shape[2:]
        assert len(pickle.dumps(stack)) < 1000

    @pytest.mark.parametrize("in_memory", [True, False])
    def test_a_module_keeps_the_promises(self, folder, in_memory, tmp_path):
        check_datamodule(
            reading(
                folder,
                in_memory=in_memory,
                predict_data=folder,
                tile_size=(16, 16),
                val_data=shutil.copy(folder / "a.npy", tmp_path),
            )
        )

    @pytest.mark.parametrize("in_memory", ["auto", True])
    def test_what_fits_memory_is_read_once(self, folder, in_memory, monkeypatch):
        monkeypatch.setattr(FILES, "most", 100)  # too little for any of them
        one = reading(folder, in_memory=in_memory)
        assert all(stack.in_memory for stack in stacks(one))
        list(one.train_dataloader())
        assert set(calls.values()) == {1} and not len(FILES)

    def test_a_file_of_many_samples_is_decoded_once_per_pass(self, tmp_path, monkeypatch):
        for name in "abcd":
            np.save(tmp_path / f"{name}.npy", noise(10, 200, 200))
        monkeypatch.setattr(FILES, "most", 1_000_000)  # one of them is 800 000
        one = reading(tmp_path, "TYX", pool_mib=1, n_val_patches=0, normalization="none")
        stacks(one)
        assert calls == dict.fromkeys(["a.npy", "b.npy", "c.npy", "d.npy"], 1)
        loader = one.train_dataloader()
        calls.clear()
        patches = sum(len(batch["image"]) for batch in loader)
        assert patches == 4 * 10 * 25 * 25
        assert max(calls.values()) == 1
        one.teardown("fit")
        assert not len(FILES)

    def test_a_set_beyond_every_budget_is_covered(self, tmp_path, monkeypatch):
        for i in range(20):
            np.save(tmp_path / f"{i:02d}.npy", np.full((320, 320), i, np.uint16))
        monkeypatch.setattr(FILES, "most", 2**18)  # one file
        one = reading(tmp_path, pool_mib=1, sampling="grid", n_val_patches=0, augmentation=False)
        stacks(one)
        loader = one.train_dataloader()
        calls.clear()
        seen = Counter(int(image.int().max()) for batch in loader for image in batch["image"])
        assert seen == dict.fromkeys(range(20), 1600)
        assert max(calls.values()) == 1

    def test_targets_pair_by_name_and_may_have_axes_of_their_own(self, tmp_path):
        for name in "ab":
            for place in ("noisy", "clean"):
                (tmp_path / place).mkdir(exist_ok=True)
            image = noise(16, 20)
            np.save(tmp_path / "noisy" / f"{name}.npy", image)
            np.save(tmp_path / "clean" / f"{name}.npy", image.T + 5)
        one = reading(
            tmp_path / "noisy",
            train_target=tmp_path / "clean",
            target_axes="XY",
            sampling="grid",
            n_val_patches=0,
        )
        for batch in one.train_dataloader():
            assert (batch["target"].int() == batch["image"].int() + 5).all()

    def test_views_and_memory_maps_hold_no_more_than_their_pixels(self, tmp_path):
        np.save(tmp_path / "a.npy", noise(4, 50, 50))
        for read in (lambda path: np.load(path)[0], lambda path: np.load(path, mmap_mode="r")[0]):
            (stack,) = stacks(reading(tmp_path / "a.npy", read_func=read))
            with FILES.use(stack.array) as pixels:
                assert type(pixels) is np.ndarray and pixels.base is None
            FILES.close_all()

    def test_processes_read_for_themselves(self, folder):
        one = reading(folder, num_workers=1, start_method="fork", n_val_patches=0)
        stacks(one)
        assert sum(len(batch["image"]) for batch in one.train_dataloader()) > 40
        one.teardown("fit")


class TestReadFunctionRefused:
    @pytest.mark.parametrize(
        ("result", "message"),
        [
            (None, "returned a NoneType, not a NumPy array.*numpy.asarray"),
            ([[1, 2], [3, 4]], "returned a list, not a NumPy array"),
            ((noise(20, 20), {}), "returned a tuple, not"),
            (np.uint16(5), "returned a uint16, not"),
            (np.ma.masked_less(noise(20, 20), 5), "returned a masked array"),
            (noise(3, 20, 20), "2 letters for 3 dimensions"),
            (noise(20, 20).astype(complex), "complex128 is not a real number"),
            (np.array([["a", "b"]]), "is not a real number"),
            (np.zeros((0, 20)), "holds no pixel"),
            (noise(5, 20), r"size \(5, 20\) is smaller than patch_size"),
        ],
        ids=str,
    )
    def test_what_is_no_image(self, folder, result, message):
        def mine(path):
            return result

        with pytest.raises(DataError, match=rf"train_data: .*a\.npy: .*{message}"):
            reading(folder / "a.npy", read_func=mine).setup("fit")

    def test_a_function_that_fails(self, folder):
        (folder / "a.npy").write_text("no array")
        with pytest.raises(
            DataError, match=r"2 problems(.|\n)*a.npy: <lambda> failed: KeyError: 'x'"
        ):
            reading(folder, read_func=lambda path: mine(path)).setup("fit")

    def test_axes_auto_says_the_shape(self, folder):
        match = r'train_data: axes="auto", but a read function.*a\.npy .shape \(40, 30\).*2 letters'
        with pytest.raises(DataError, match=match):
            reading(folder, "auto").setup("fit")
        assert calls == {"a.npy": 1}

    def test_a_folder_without_extension(self, folder, tmp_path):
        with pytest.raises(DataError, match=r"train_data: .* is a folder. Say which"):
            reading(folder, extension=None).setup("fit")
        with pytest.raises(DataError, match=r"no file ending in \.xyz \(found: \.md, \.npy\)"):
            reading(folder, extension="xyz").setup("fit")
        with pytest.raises(DataError, match=r"gone\.npy does not exist"):
            reading(tmp_path / "gone.npy").setup("fit")

    @pytest.mark.parametrize("extension", ["", ".", "*", 5, "a/b"])
    def test_extensions_that_are_none(self, extension):
        with pytest.raises(DataError, match=r"extension=.*the end of file names"):
            reading("a.npy", extension=extension)

    def test_a_file_that_changes_shape_meanwhile(self, folder):
        (stack,) = stacks(reading(folder / "a.npy"))
        stack.close()
        np.save(folder / "a.npy", noise(9, 9))
        with pytest.raises(DataError, match=r"now returns shape \(9, 9\).*it was \(40, 30\)"):
            stack.extract_patch(0, None, (0, 0), (4, 4))

    def test_both_or_neither_of_the_functions(self):
        with pytest.raises(DataError, match="neither is given"):
            CustomDataModule(train_data="a.npy")
        with pytest.raises(DataError, match="both are given"):
            reading("a.npy", image_stack_loader=np.load)
        with pytest.raises(DataError, match=r"extension=\.npy: goes with read_func"):
            loading(np.load, extension=".npy")


def mine(path):
    return {}["x"] if path.name in ("a.npy", "b.npy") else np.load(path)


class Floating(RecordingStack):
    """As CAREamics' own: patches are float32 whatever is stored, the source is a path."""

    def __init__(self, pixels, source="a/b.xyz"):
        super().__init__(pixels, Path(source))
        self.data_dtype = "uint16"
        self.data_shape = list(pixels.shape)
        self.original_axes = "scyx"

    def extract_patch(self, *where):
        return super().extract_patch(*where).astype(np.float32)


class TestLoader:
    def test_the_documented_class_trains_and_predicts(self, mystacks, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        import mystacks as mine

        path = tmp_path / "data.h5"
        for stack in mine.load(path, "SYX"):
            check_image_stack(stack, mystacks[stack.name][:, None])
        one = loading(mine.load, path, predict_data=path, patch_size=(16, 16), tile_size=(32, 32))
        L.seed_everything(0, verbose=False)
        model = N2VModule(UNet(in_channels=1, dims=2, depth=1, first_filters=4))
        fit = trainer(tmp_path, max_epochs=1)
        fit.fit(model, datamodule=one)
        assert fit.callback_metrics["train_loss"] > 0
        writer = TiffWriter(tmp_path / "out")
        trainer(tmp_path, callbacks=[writer]).predict(
            model, datamodule=one, return_predictions=False
        )
        shapes = [tifffile.imread(path).shape for path in writer.paths]
        assert shapes == [pixels.shape for pixels in mystacks.values()]

    def test_a_module_keeps_the_promises(self, mystacks, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        path = tmp_path / "data.h5"
        options = {"predict_data": path, "tile_size": (16, 16), "val_data": path}
        check_datamodule(loading("mystacks:load", path, **options))

    def test_source_and_axes_are_passed_on_as_they_are(self):
        asked = []

        def load(source, axes):
            asked.append((source, axes))
            return (ArrayStack(noise(20, 30), "YX", "a"),)

        query = {"plate": 5, "wells": [1, 2]}
        assert loading(load, query).setup("fit") is None
        loading(load, ["a", query], axes="YX").setup("fit")
        loading(load, query, train_target="b", axes="CYX", target_axes="YX").setup("fit")
        assert asked == [
            (query, "auto"),
            (["a", query], "YX"),
            (query, "CYX"),
            ("b", "YX"),
        ]
        assert asked[0][0] is query

    def test_a_class_written_for_careamics(self):
        pixels = noise(2, 3, 20, 30)
        (stack,) = stacks(loading(lambda *_: [Floating(pixels)]))
        assert stack.source == "a/b.xyz" and stack.data_shape == (2, 3, 20, 30)
        assert stack.data_dtype == np.float32 and stack.original_axes == "SCYX"
        assert np.array_equal(
            stack.extract_patch(1, [2], (3, 4), (5, 6))[0], pixels[1, 2, 3:8, 4:10]
        )

    def test_blocks_are_read_once_where_a_class_says_them(self):
        stack = RecordingStack(noise(1, 1, 256, 256), block=(64, 64))
        one = loading(lambda *_: [stack], n_val_patches=0, normalization="none", pool_mib=1)
        found = stacks(one)[0]
        assert found.block_shape == (64, 64) and not hasattr(found, "scale")
        assert stack.closed == 1
        stack.reads.clear()
        list(one.train_dataloader())
        assert len(stack.reads) <= 16
        one.teardown("fit")
        assert stack.closed > 1

    def test_stacks_of_arrays_are_loaded(self, folder):
        def load(source, axes):
            array = np.load(source, mmap_mode="r")
            return [ArrayStack(array, axes, source, block_shape=(1, 1))]

        data = str(folder / "a.npy")
        assert stacks(loading(load, data, axes="YX", in_memory=True))[0].in_memory


class Unnamed(RecordingStack):
    """An array in memory, of which CAREamics does not say a name."""

    def __init__(self, pixels):
        super().__init__(pixels, source="array")


class Loadable(RecordingStack):
    """A file that CAREamics loads as a whole before it is read."""

    is_loaded, loads = False, 0

    def load(self):
        self.is_loaded, self.loads = True, self.loads + 1

    def close(self):
        self.is_loaded = False

    def extract_patch(self, *where):
        if not self.is_loaded:
            raise ValueError("load must be called first")
        return super().extract_patch(*where)


class TestStacksOfCareamics:
    def test_sources_may_be_a_list_of_dicts(self):
        pixels = noise(4, 1, 20, 30)

        def load(source, axes, *, factor):
            return [Unnamed(factor * pixels[one["frames"]]) for one in source]

        data = [{"frames": [0, 1], "note": {"dye": "GFP"}}, {"frames": [3]}]
        module = loading(partial(load, factor=2), data, val_data=[{"frames": [2]}])
        assert [stack.source for stack in stacks(module)] == ["array_0000", "array_0001"]
        assert [stack.data_shape[0] for stack in stacks(module)] == [2, 1]
        patch = stacks(module)[1].extract_patch(0, None, (0, 0), (20, 30))
        assert np.array_equal(patch, 2 * pixels[3])

    def test_files_are_loaded_while_they_are_read(self):
        found = [Loadable(noise(2, 1, 20, 30), f"{i}.tif") for i in range(2)]
        module = loading(lambda source, axes: found, in_memory=False, patches_per_epoch=32)
        stacks(module)
        assert [(stack.loads, stack.is_loaded) for stack in found] == [(1, False)] * 2
        assert len(list(module.train_dataloader())) == 2
        assert [stack.loads for stack in found] == [2, 2]
        module.teardown("fit")
        assert not any(stack.is_loaded for stack in found)

    def test_few_files_are_loaded_at_once(self, monkeypatch):
        monkeypatch.setattr(LOADED, "most", 2 * 20 * 30 * 4)
        found = [Loadable(noise(2, 1, 20, 30), f"{i}.tif") for i in range(3)]
        for stack in stacks(loading(lambda source, axes: found)):
            stack.extract_patch(0, None, (0, 0), (8, 8))
        assert [stack.is_loaded for stack in found] == [False, False, True]


class Broken(RecordingStack):
    def __init__(self, patch=None, **members):
        super().__init__(noise(2, 3, 20, 30))
        self.patch = patch
        vars(self).update(members)

    def extract_patch(self, *where):
        found = super().extract_patch(*where)
        return found if self.patch is None else self.patch(found, *where)


class TestLoaderRefused:
    @pytest.mark.parametrize(
        ("result", "message"),
        [
            (Broken(), "load returned a Broken. Let it return a list"),
            (None, "load returned a NoneType. Let it"),
            (iter([Broken()]), "returned a list_iterator"),
            ([], r"load\('query', 'auto'\) returned no image stack"),
            ([noise(20, 30)], "image stack 0, a ndarray, has no source, data_shape"),
            ([Broken(source="")], "source=''. Name the image"),
            ([Broken(source=5)], "source=5. Name the image"),
            ([Broken(source="x"), Broken(source="x")], "x: several image stacks have this source"),
            ([Broken(data_shape=(20, 30))], r"data_shape=\(20, 30\). Give the sizes of S C Y X"),
            ([Broken(data_shape=(2, 3, 0, 30))], "Give the sizes of"),
            ([Broken(data_dtype="colour")], "data_dtype='colour' is not a NumPy dtype"),
            ([Broken(data_dtype=np.complex64)], "complex64 is not a real number"),
            ([Broken(original_axes="CYX")], "original_axes='CYX'.*Give a letter per dimension"),
            ([Broken(original_axes="SCYY")], "Give a letter per dimension"),
            ([Broken(original_data_shape=(2, 3, 30, 20))], "holds other pixels than data_shape"),
            ([Broken(lambda p, *_: p[0])], r"gave shape \(8, 8\) instead of \(3, 8, 8\)"),
            ([Broken(lambda p, *_: list(p))], "gave a list. Let it give a NumPy array"),
            ([Broken(lambda p, *_: p.astype(float))], "gave float64, but data_dtype is uint16"),
            ([Broken(lambda *_: 1 / 0)], "failed: ZeroDivisionError.*correct either"),
            (
                [Broken(data_shape=(3, 2, 30, 20), original_data_shape=(3, 2, 30, 20))],
                r"extract_patch\(0, None, \[0, 0\], \[8, 8\]\) gave shape \(3, 8, 8\)",
            ),
            (
                [Broken(data_shape=(4, 3, 10, 30), original_data_shape=(4, 3, 10, 30))],
                r"extract_patch\(3, \[2\], \[2, 22\], \[8, 8\]\) failed: IndexError",
            ),
        ],
        ids=range(21),
    )
    def test_what_is_no_list_of_stacks(self, result, message):
        def load(source, axes):
            return result

        with pytest.raises(DataError, match=f"^train_data.*{message}"):
            loading(load, "query").setup("fit")

    def test_all_faults_come_at_once(self):
        some = [Broken(source=""), Broken(), Broken(data_dtype="colour")]
        with pytest.raises(DataError, match=r"source=''(.|\n)*data_dtype='colour'"):
            loading(lambda *_: some).setup("fit")

    def test_a_loader_that_fails(self):
        def load(source, axes):
            raise KeyError("exposure")

        match = r"load\(\{'a': 1\}, 'auto'\) failed: KeyError: 'exposure'. Does it work"
        with pytest.raises(DataError, match=match):
            loading(load, {"a": 1}).setup("fit")

    def test_another_number_of_dimensions_than_the_patch(self):
        with pytest.raises(DataError, match="without Z, so patch_size needs 2 numbers"):
            loading(lambda *_: [Broken()], patch_size=(4, 8, 8)).setup("fit")

    def test_stacks_are_not_loaded(self):
        with pytest.raises(DataError, match="in_memory=true, but an image stack of your own"):
            loading(lambda *_: [Broken()], in_memory=True).setup("fit")

    def test_a_dtype_that_changes(self):
        def later(patch, sample, channels, coords, size):
            return patch.astype(np.int32) if coords[0] == 4 else patch

        (stack,) = stacks(loading(lambda *_: [Broken(later)]))
        with pytest.raises(DataError, match="this patch is int32, others are uint16"):
            stack.extract_patch(0, None, [4, 0], [8, 8])


class TestImportPaths:
    @pytest.mark.parametrize("path", ["numpy.load", "numpy:load", "os.path.join", "os.path:join"])
    def test_functions_of_packages(self, path):
        assert find_function("read_func", path).__name__ in ("load", "join")

    def test_methods(self):
        found = find_function("read_func", "careamics_dm.images.array_stack.ArrayStack.load")
        assert found is ArrayStack.load

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("numpy", "is not an import path. Write module and function"),
            ("numpy load", "is not an import path"),
            ("", "is not an import path"),
            (".load", "is not an import path"),
            ("numpyy.load", r"there is no module numpyy. Install it, or put it in the folder"),
            ("numpy.nothing.here:load", r"numpy \(.*__init__.py\) has no nothing"),
            ("numpy.laod", r"numpy \(.*__init__.py\) has no laod. Did you mean load"),
            ("sys.qqqqqqq", r"sys \(built in\) has no qqqqqqq. Check the name"),
            ("numpy.pi", "read_func=numpy.pi: a float can't be called"),
            ("broken.read", "importing broken failed: ZeroDivisionError"),
            ("needy.read", "importing needy failed: ModuleNotFoundError: No module named 'qqqq'"),
            (5, "read_func: a int can't be called"),
        ],
    )
    def test_what_is_none(self, path, message, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.delitem(sys.modules, "broken", raising=False)  # of another test
        (tmp_path / "broken.py").write_text("1 / 0")
        (tmp_path / "needy.py").write_text("import qqqq")
        with chdir(tmp_path), pytest.raises(DataError, match=message):
            find_function("read_func", path)

    def test_a_module_beside_the_data_is_found_last_and_by_spawned_processes(
        self, mystacks, tmp_path
    ):
        (tmp_path / "numpy.py").write_text("1 / 0")
        with chdir(tmp_path):
            read = find_function("read_func", "mystacks.read")
            assert find_function("read_func", "numpy.load") is np.load
        assert sys.path[-1] == str(tmp_path)
        np.save(tmp_path / "a.npy", noise(4, 4))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(read, (tmp_path / "a.npy",)).shape == (4, 4)

    def test_what_can_not_travel_to_processes(self, folder):
        check_travels(lambda: 0, "read_func", "fork")
        check_travels(np.load, "read_func", "spawn")
        options = {"num_workers": 1, "start_method": "spawn"}
        with pytest.raises(DataError, match="read_func can't be sent to worker processes"):
            reading(folder, read_func=lambda path: np.load(path), **options).setup("fit")
        stack = Broken(lambda patch, *_: patch)
        with pytest.raises(DataError, match=r"recording can't be sent .*num_workers=0"):
            loading(lambda *_: [stack], **options).setup("fit")


class TestCommandLine:
    def test_a_read_function(self, folder):
        data = ("data=custom", "data.read_func=numpy.load", "data.extension=.npy", "data.axes=YX")
        succeed("train", folder.parent, *SMALL, *data, "data.train_data=in", folder="trained")
        place = ("checkpoint=trained/model.ckpt", *data[:3], "data.predict_data=in")
        done = succeed("predict", folder.parent, *place)
        for path in folder.rglob("*.npy"):
            result = done.folder / "denoised" / path.relative_to(folder).with_suffix(".tif")
            assert tifffile.imread(result).shape == np.load(path).shape

    def test_a_loader_of_ones_own(self, mystacks, tmp_path):
        data = ("data=custom", "data.image_stack_loader=mystacks:load")
        succeed("train", tmp_path, *SMALL, *data, "data.train_data=data.h5", folder="trained")
        place = ("checkpoint=trained/model.ckpt", *data, "data.predict_data=data.h5")
        done = succeed("predict", tmp_path, *place)
        results = [tifffile.imread(path) for path in sorted((done.folder / "denoised").rglob("*"))]
        assert [r.shape for r in results] == [pixels.shape for pixels in mystacks.values()]

    def test_mistakes_are_told(self, tmp_path):
        (tmp_path / "in").mkdir()
        message = refuse("train", tmp_path, "data=custom", "data.train_data=in")
        assert "read_func, image_stack_loader: neither is given" in message
        data = ("data=custom", "data.train_data=in", "data.read_func=nothing.here")
        assert "there is no module nothing." in refuse("train", tmp_path, *data)


def test_a_function_that_does_not_travel_is_told_once(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.zeros((32, 32), np.uint16))
    data = CustomDataModule(
        read_func=lambda path: np.load(path),
        extension=".npy",
        axes="YX",
        train_data=tmp_path,
        patch_size=(8, 8),
        num_workers=1,
        start_method="spawn",
    )
    with pytest.raises(DataError) as error:
        data.setup("fit")
    assert str(error.value).count("can't be sent to worker processes") == 1
