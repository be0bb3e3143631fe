"""Arrays in memory and .npy files: what is accepted, shared, streamed, and refused."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch

from careamics_dm import ArrayDataModule
from careamics_dm.errors import DataError
from careamics_dm.testing.datamodule_checks import check_datamodule, check_image_stack

pytestmark = pytest.mark.usefixtures("files_close")

rng = np.random.default_rng(0)


def noise(*shape, dtype=np.uint16):
    return rng.integers(0, 100, shape).astype(dtype)


def module(data, axes="YX", **options):
    return ArrayDataModule(train_data=data, axes=axes, patch_size=(8, 8), **options)


def stacks(data, axes="YX", role="train", **options):
    one = module(data, axes, **({"in_memory": False} | options))
    one.setup("fit")
    return one.images_of(role).stacks


class TestAccepted:
    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("dtype", ["u1", "i2", ">u2", "u4", "i8", "u8", "f2", ">f4", "f8", "?"])
    def test_files_of_any_real_dtype_and_order(self, tmp_path, dtype, order):
        array = np.asarray(noise(3, 20, 30).astype(dtype), order=order)
        np.save(tmp_path / "a.npy", array)
        (stack,) = stacks(tmp_path / "a.npy", "CYX")
        check_image_stack(stack, array[None])
        assert stack.data_dtype == dtype
        assert len(pickle.dumps(stack)) < 1000

    @pytest.mark.parametrize("dtype", ["u1", ">u2", "f8", "?"])
    def test_arrays_in_memory(self, dtype):
        array = noise(3, 20, 30).astype(dtype)
        (stack,) = stacks(array, "SYX")
        check_image_stack(stack, array[:, None])
        assert stack.array is array  # not copied

    def test_read_only_strided_and_negative_arrays(self):
        array = noise(40, 60)[::-2, ::2]
        array.flags.writeable = False
        (stack,) = stacks(array)
        check_image_stack(stack, array[None, None])

    @pytest.mark.parametrize("mode", ["r", "r+", "c"])
    def test_memory_maps(self, tmp_path, mode):
        array = noise(40, 60)
        np.save(tmp_path / "a.npy", array)
        mapped = np.load(tmp_path / "a.npy", mmap_mode=mode)
        (stack,) = stacks(mapped)
        assert stack.block_shape == (1, 1)
        patch = stack.extract_patch(0, None, (3, 4), (5, 6))
        assert np.array_equal(patch[0], array[3:8, 4:10])
        copy = pickle.loads(pickle.dumps(stack))
        assert np.array_equal(copy.extract_patch(0, None, (0, 0), (40, 60))[0], array)

    def test_several_arrays_have_names_and_shapes_of_their_own(self):
        found = stacks([noise(20, 30), noise(9, 8)])
        assert [s.source for s in found] == ["train_data_0000", "train_data_0001"]
        assert [s.data_shape for s in found] == [(1, 1, 20, 30), (1, 1, 9, 8)]

    def test_lists_folders_globs_and_manifests_of_files(self, tmp_path):
        paths = [tmp_path / "in" / name for name in ("a.npy", "sub/b.NPY")]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                np.save(file, noise(20, 30))
        (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
        (tmp_path / "in" / "notes.md").write_text("other things")
        for data in (paths, [str(p) for p in paths], tmp_path / "in", tmp_path / "list.txt"):
            assert [s.source for s in stacks(data)] == [str(p) for p in paths]
        assert [s.source for s in stacks(str(tmp_path / "in" / "*.npy"))] == [str(paths[0])]

    def test_targets_pair_by_name_or_order(self, tmp_path):
        images = {}
        for folder in ("noisy", "clean"):
            (tmp_path / folder).mkdir()
            for name in "abc":
                images[folder, name] = noise(16, 16)
                np.save(tmp_path / folder / f"{name}.npy", images[folder, name])
        pairs = {
            tuple(images["noisy", n].reshape(2, 8, 2, 8)[i, :, j].flat): images["clean", n].reshape(
                2, 8, 2, 8
            )[i, :, j]
            for n in "abc"
            for i in (0, 1)
            for j in (0, 1)
        }
        grid = module(
            tmp_path / "noisy", train_target=tmp_path / "clean", n_val_patches=0, sampling="grid"
        )
        for batch in grid.train_dataloader():
            for image, target in zip(batch["image"].numpy(), batch["target"].numpy(), strict=True):
                assert np.array_equal(target[0], pairs[tuple(image.flat)])

    def test_changes_of_an_array_are_seen_by_later_epochs(self):
        array = np.zeros((64, 64), np.float32)
        one = module(array, n_val_patches=0, normalization="none")
        loader = one.train_dataloader()
        assert not any(b["image"].any() for b in loader)
        array[:] = 1
        assert all(b["image"].all() for b in loader)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_module_of_files_keeps_the_promises(tmp_path, in_memory):
    np.save(tmp_path / "a.npy", noise(40, 30))
    np.save(tmp_path / "b.npy", noise(33, 50))
    check_datamodule(
        module(tmp_path, predict_data=tmp_path, tile_size=(16, 16), in_memory=in_memory)
    )


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "axes", "message"),
        [
            (noise(20, 30), "auto", r'axes="auto", but arrays do not say.*\(20, 30\).*axes="YX"'),
            (noise(3, 20, 30), "auto", 'axes="TYX" or "ZYX"'),
            (noise(20, 30), "CYX", "3 letters for 2 dimensions"),
            (noise(20, 30).astype(complex), "YX", "dtype complex128 is not a real number"),
            (np.array([["a", "b"]]), "YX", "is not a real number"),
            (np.array([[None, 1]]), "YX", "dtype object is not a real number"),
            (np.zeros((0, 30)), "YX", r"shape \(0, 30\) holds no pixel"),
            (np.ma.masked_less(noise(20, 30), 5), "YX", r"is a masked array. Fill it"),
            ([], "YX", "the list is empty"),
            ([noise(20, 30), "a.npy"], "YX", "arrays and str in one list"),
            (torch.zeros(20, 30), "YX", "Tensor is not a path"),
            ([[1, 2], [3, 4]], "YX", "list is not a path"),
            (5, "YX", "int is not a path"),
        ],
        ids=str,
    )
    def test_arrays(self, data, axes, message):
        with pytest.raises(DataError, match=f"train_data.*{message}"):
            module(data, axes).setup("fit")

    @pytest.mark.parametrize(
        ("name", "write", "message"),
        [
            ("text.npy", lambda p: p.write_text("no array"), "not a readable .npy file"),
            ("empty.npy", lambda p: p.touch(), "not a readable .npy file"),
            ("cut.npy", lambda p: p.write_bytes(whole()[:200]), "not a readable .npy file"),
            ("zip.npy", lambda p: p.write_bytes(zipped()), "holds no single array"),
            ("pickle.npy", lambda p: np.save(p, [{"a": 1}]), "not a readable .npy file"),
            ("complex.npy", lambda p: np.save(p, np.zeros((9, 9), complex)), "not a real number"),
        ],
    )
    def test_files(self, tmp_path, name, write, message):
        write(tmp_path / name)
        with pytest.raises(DataError, match=f"{name}.*{message}"):
            module(tmp_path / name).setup("fit")

    def test_a_pickle_in_a_file_is_never_executed(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return open, (str(tmp_path / "executed"), "w")

        np.save(tmp_path / "a.npy", np.array([Evil()], object), allow_pickle=True)
        with pytest.raises(DataError, match="not a readable"):
            module(tmp_path / "a.npy").setup("fit")
        assert not (tmp_path / "executed").exists()

    def test_a_missing_path_and_an_empty_folder(self, tmp_path):
        with pytest.raises(DataError, match=r"train_data: .*gone\.npy does not exist"):
            module(tmp_path / "gone.npy").setup("fit")
        with pytest.raises(DataError, match=r"has no file ending in \.npy"):
            module(tmp_path).setup("fit")

    def test_unpaired_targets(self, tmp_path):
        for folder, names in (("x", "ab"), ("y", "bc")):
            (tmp_path / folder).mkdir()
            for name in names:
                np.save(tmp_path / folder / f"{name}.npy", noise(16, 16))
        with pytest.raises(DataError, match=r"no partner: in .*x, a; in .*y, c"):
            module(tmp_path / "x", train_target=tmp_path / "y").setup("fit")


def whole():
    file = io.BytesIO()
    np.save(file, noise(20, 30))
    return file.getvalue()


def zipped():
    file = io.BytesIO()
    np.savez(file, a=noise(9, 9))
    return file.getvalue()


IMAGES = np.random.default_rng(0).integers(0, 99, (4, 24, 24)).astype(np.uint16)


class TestPixelsInTrainingAndValidation:
    @pytest.mark.parametrize(
        ("train", "val", "name"),
        [
            (IMAGES, IMAGES, "val_data has pixels of train_data"),
            (IMAGES, IMAGES[1:3], "val_data has pixels of train_data"),
            (IMAGES[:3], IMAGES[:, ::-1, 2:], "val_data has pixels of train_data"),
            ([*IMAGES], [IMAGES[2].T], "val_data_0000 has pixels of train_data_0002"),
        ],
    )
    def test_in_the_same_memory_are_an_error(self, train, val, name):
        axes = "YX" if isinstance(train, list) else "SYX"
        data = module(train, axes, val_data=val)
        with pytest.raises(DataError, match=f"{name}, in the same memory"):
            data.setup("fit")

    def test_so_are_those_of_the_same_map_of_a_file(self, tmp_path):
        np.save(tmp_path / "a.npy", IMAGES)
        mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
        with pytest.raises(DataError, match="val_data has pixels of train_data"):
            module(mapped, "SYX", val_data=mapped[2:]).setup("fit")

    def test_other_frames_of_an_array_and_copies_are_not(self):
        module(IMAGES[::2], "SYX", val_data=IMAGES[1::2]).setup("fit")
        module(IMAGES, "SYX", val_data=IMAGES.copy()).setup("fit")
