"""Inputs and targets, in every way that they pair, in every format: right pairs, and mismatches."""

from __future__ import annotations

import numpy as np
import pytest
from formats.czi_files import Tile, write_czi
from formats.written import FORMATS, axes_of, module, write

from careamics_dm import ArrayDataModule
from careamics_dm.errors import DataError

IN_FOLDERS = [name for name in FORMATS if name != "czi"]  # its files are listed
APART = 1000
SMALL = {"patch_size": [16, 16], "batch_size": 4, "normalization": "none", "pool_mib": 1}
DEEP = {"patch_size": [4, 16, 16]}


def scene(seed, shape=(2, 1, 40, 48)):
    """Pixels that are all different, so that a place can be told by its value."""
    pixels = np.random.default_rng(seed).permutation(np.prod(shape)) % 30_000
    return pixels.reshape(shape).astype(np.uint16)


def batches(data, stages=("train", "val")):
    """What a model gets in training and validation, as integers."""
    data.setup("fit")
    for stage in stages:
        for batch in getattr(data, f"{stage}_dataloader")():
            done = data.transform(batch)
            yield done["image"].int(), done["target"].int()
    data.teardown("fit")


def check_apart(data, stages=("train", "val")):
    """Targets are the same places as images, and turned alike: `APART` above them."""
    count = 0
    for image, target in batches(data, stages):
        assert (target == image + APART).all()
        count += 1
    assert count > 1


def pairs(name, folder, n=3, shape=(2, 1, 40, 48)):
    """Write noisy and clean files of the same names."""
    found = []
    for i in range(n):
        pixels = scene(i, shape)
        found.append(
            (
                write(name, folder / "noisy" / f"image_{i}", pixels),
                write(name, folder / "clean" / f"image_{i}", pixels + APART),
            )
        )
    return found


def options(shape=(2, 1, 40, 48), **more):
    return SMALL | (DEEP if len(shape) == 5 else {}) | {"axes": axes_of(np.empty(shape))} | more


@pytest.mark.parametrize("streamed", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize("shape", [(2, 1, 40, 48), (1, 2, 8, 32, 40)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("name", FORMATS)
class TestRightPairs:
    def test_lists_by_order(self, name, shape, streamed, tmp_path):
        inputs, targets = zip(*pairs(name, tmp_path, shape=shape), strict=True)
        paths = {"train_data": [*inputs], "train_target": [*targets]}
        check_apart(module(name, **paths, **options(shape, in_memory=not streamed)))

    def test_channels_of_the_same_file(self, name, shape, streamed, tmp_path):
        pixels = scene(0, shape)[:, :1]
        both = np.concatenate([pixels + APART, pixels * 0, pixels], axis=1)
        path = write(name, tmp_path / "both", both)
        more = {"channels": [2], "target_channels": [0], "in_memory": not streamed}
        check_apart(module(name, train_data=path, **options(shape, **more)))

    def test_every_second_sample_of_the_same_file(self, name, shape, streamed, tmp_path):
        pixels = np.concatenate([scene(0, shape), scene(1, shape)])
        frames = np.stack([pixels, pixels + APART], axis=1).reshape(-1, *shape[1:])
        path = write(name, tmp_path / "frames", frames)
        more = {"repeats": "S", "in_memory": not streamed}
        check_apart(module(name, train_data=path, **options(shape, **more)))


@pytest.mark.parametrize("name", IN_FOLDERS)
def test_folders_pair_by_name(name, tmp_path):
    pairs(name, tmp_path)
    paths = {"train_data": str(tmp_path / "noisy"), "train_target": str(tmp_path / "clean")}
    check_apart(module(name, **paths, **options()))


@pytest.mark.parametrize("name", FORMATS)
def test_a_manifest_pairs_by_row(name, tmp_path):
    rows = ["input,target,split"]
    for i, (noisy, clean) in enumerate(pairs(name, tmp_path)):
        rows.append(f"{noisy},{clean},{'val' if i == 1 else 'train'}")
    (tmp_path / "all.csv").write_text("\n".join(rows))
    both = dict.fromkeys(("train_data", "val_data"), str(tmp_path / "all.csv"))
    check_apart(module(name, **both, **options()))


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_of_a_manifest_names_the_channels_of_input_and_target(name, tmp_path):
    one, two = scene(0), scene(1)
    paths = [
        write(name, tmp_path / "a", np.concatenate([one, one + APART], axis=1)),
        write(name, tmp_path / "b", np.concatenate([two + APART, two], axis=1)),
    ]
    rows = ["input,channel,target_channel", f"{paths[0]},0,1", f"{paths[1]},1,0"]
    (tmp_path / "all.csv").write_text("\n".join(rows))
    check_apart(module(name, train_data=str(tmp_path / "all.csv"), **options()))


@pytest.mark.parametrize("name", FORMATS)
def test_validation_and_test_pair_like_training(name, tmp_path):
    files = pairs(name, tmp_path)
    paths = {}
    for role, (noisy, clean) in zip(("train", "val", "test"), files, strict=True):
        paths |= {f"{role}_data": noisy, f"{role}_target": clean}
    data = module(name, **paths, **options())
    check_apart(data)
    assert data.has_target("train") and data.has_target("val")
    data.setup("test")
    assert data.has_target("test")
    for batch in data.test_dataloader():
        assert (batch["target"].int() == batch["image"].int() + APART).all()
    data.teardown("test")


@pytest.mark.parametrize("name", FORMATS)
class TestMismatches:
    def faults(self, name, **more):
        with pytest.raises(DataError) as caught:
            module(name, **options(**more)).setup("fit")
        return str(caught.value)

    def test_in_number(self, name, tmp_path):
        files = pairs(name, tmp_path)
        inputs, targets = [noisy for noisy, _ in files], [clean for _, clean in files[:2]]
        message = self.faults(name, train_data=inputs, train_target=targets)
        assert "train_target: 3 input(s) but 2 of these" in message

    def test_in_samples_and_in_size_all_at_once(self, name, tmp_path):
        inputs, targets = [], []
        for i, shape in enumerate([(2, 1, 40, 48), (1, 1, 40, 48), (2, 1, 40, 32)]):
            inputs.append(write(name, tmp_path / f"noisy_{i}", scene(0)))
            targets.append(write(name, tmp_path / f"clean_{i}", scene(i, shape)))
        message = self.faults(name, train_data=inputs, train_target=targets)
        assert "2 problems" in message
        assert "(2, 40, 48), its target" in message
        assert "clean_1" in message and "(1, 40, 48)" in message
        assert "clean_2" in message and "(2, 40, 32)" in message
        assert "clean_0" not in message

    def test_in_channels_that_would_be_input_and_target(self, name, tmp_path):
        path = write(name, tmp_path / "a", scene(0, (1, 2, 40, 48)))
        message = self.faults(name, train_data=path, target_channels=[1])
        assert "channel(s) 1 would be both input and target" in message

    def test_in_channels_that_a_file_does_not_have(self, name, tmp_path):
        path = write(name, tmp_path / "a", scene(0, (1, 2, 40, 48)))
        message = self.faults(name, train_data=path, channels=[0], target_channels=[2])
        assert "channel 2 does not exist" in message

    def test_in_frames(self, name, tmp_path):
        path = write(name, tmp_path / "a", scene(0, (1, 1, 40, 48)))
        message = self.faults(name, train_data=path, repeats="S")
        assert "there is a single frame along S" in message

    def test_in_the_axis_of_frames(self, name, tmp_path):
        path = write(name, tmp_path / "a", scene(0))
        message = self.faults(name, train_data=path, repeats="T")
        assert "repeats=T, but its axes are SCYX" in message


@pytest.mark.parametrize("name", IN_FOLDERS)
def test_names_without_partner_are_all_listed(name, tmp_path):
    for i in range(3):
        write(name, tmp_path / "noisy" / f"image_{i}", scene(i))
        write(name, tmp_path / "clean" / f"image_{i + 2}", scene(i))
    paths = {"train_data": str(tmp_path / "noisy"), "train_target": str(tmp_path / "clean")}
    with pytest.raises(DataError) as caught:
        module(name, **paths, **options()).setup("fit")
    message = str(caught.value)
    assert f"in {tmp_path / 'noisy'}, image_0, image_1;" in message
    assert f"in {tmp_path / 'clean'}, image_3, image_4." in message
    assert "image_2" not in message


@pytest.mark.parametrize("scenes", [(0, 1), (1, 2)])
def test_scenes_of_two_files_pair_by_name(scenes, tmp_path):
    for name, present, value in (("noisy", (0, 1), 0), ("clean", scenes, APART)):
        planes = [
            Tile(np.full((40, 48), value + n, np.uint16), {"S": n, "C": 0, "T": 0}, (100 * n, 0))
            for n in present
        ]
        write_czi(tmp_path / f"{name}.czi", planes)
    paths = {"train_data": str(tmp_path / "noisy.czi"), "train_target": str(tmp_path / "clean.czi")}
    data = module("czi", **paths, **options())
    if scenes == (0, 1):
        check_apart(data)
    else:
        with pytest.raises(DataError, match=r"have no target, .*: scene_0, scene_2"):
            data.setup("fit")


@pytest.mark.parametrize("again", ["a.npy,0", "other/../a.npy,"])
def test_an_image_that_is_listed_in_two_ways_is_found(again, tmp_path):
    np.save(tmp_path / "a.npy", scene(0, (40, 48)))
    (tmp_path / "other").mkdir()
    (tmp_path / "all.csv").write_text(f"input,channel\na.npy,\n{again}\n")
    data = ArrayDataModule(train_data=tmp_path / "all.csv", axes="YX", patch_size=(16, 16))
    with pytest.raises(DataError, match=r"a\.npy is listed 2 times"):
        data.setup("fit")
