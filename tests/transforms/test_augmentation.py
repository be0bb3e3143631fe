"""Flips and turns: which there are, how they are applied, how often each comes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from careamics_dm import ArrayDataModule, Augmentation
from careamics_dm.errors import DataError
from careamics_dm.transforms.augmentation import _turn_on_device, orient, turn, turn_back

SETTINGS = [
    (flip, turns)
    for n in range(4)
    for flip in itertools.combinations("ZYX", n)
    for turns in (False, True)
]


def turned(image, orientations):
    """An image, ``(C) (Z) Y X``, in every orientation."""
    x = torch.from_numpy(np.stack([image] * len(orientations)))
    return list(orient(x, orientations, [1] * len(orientations)).numpy())


def intended(image, flip, turns):
    """The group that flips and turns make, by repeating them until nothing new comes."""
    axes = {"Z": -3, "Y": -2, "X": -1}
    moves = [lambda a, d=axes[f]: np.flip(a, d) for f in flip]
    moves += [lambda a: np.rot90(a, 1, (-2, -1))] * turns
    found = [image]
    for member in found:
        for move in moves:
            new = move(member)
            if not any(np.array_equal(new, other) for other in found):
                found.append(new)
    return found


@pytest.mark.parametrize(("flip", "turns"), SETTINGS)
def test_orientations_are_exactly_the_group_of_the_flips_and_turns(flip, turns):
    image = np.arange(2 * 3 * 5 * 5, dtype=np.float32).reshape(2, 3, 5, 5)
    orientations = Augmentation("".join(flip), turns).orientations((3, 5, 5))
    found = turned(image, orientations)
    expected = intended(image, flip, turns)
    assert np.array_equal(found[0], image)
    assert len(found) == len(expected)
    for member in expected:
        assert sum(np.array_equal(member, other) for other in found) == 1


@pytest.mark.parametrize(
    ("flip", "turns", "n"), [("YX", True, 8), ("", True, 4), ("X", False, 2), ("", False, 1)]
)
def test_in_2d_there_are_so_many(flip, turns, n):
    assert len(Augmentation(flip, turns).orientations((8, 8))) == n


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_numpy_and_torch_turn_alike(data):
    flip = data.draw(st.sampled_from(["", "X", "Y", "YX", "ZYX", "Z"]))
    turns = data.draw(st.booleans())
    side = data.draw(st.integers(1, 6))
    depth = [data.draw(st.integers(1, 4))] if "Z" in flip or data.draw(st.booleans()) else []
    size = (*depth, side, side if turns else data.draw(st.integers(1, 6)))
    orientations = Augmentation(flip, turns).orientations(size)
    counts = [data.draw(st.integers(0, 3)) for _ in orientations]
    dtype = data.draw(st.sampled_from(["u1", "u2", "i2", "f2", "f4"]))
    shape = (sum(counts), data.draw(st.integers(1, 2)), *size)
    x = torch.from_numpy(np.arange(np.prod(shape)).reshape(shape).astype(dtype))
    ours = orient(x, orientations, counts)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, _turn_on_device(x.to(torch.float32), orientations, counts))


def test_turning_back_undoes_turning_whatever_the_shape():
    x = torch.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    for orientation in Augmentation("ZYX").orientations((3, 8, 8)):
        turned = turn(x, orientation)
        assert turned.shape[-2:] == ((5, 4) if orientation.transpose else (4, 5))
        assert torch.equal(turn_back(turned, orientation), x)


def test_the_batch_that_is_turned_stays_as_it_was():
    x = torch.arange(32.0).reshape(2, 1, 4, 4)
    before = x.clone()
    orientations = Augmentation().orientations((4, 4))
    for apply in (orient, _turn_on_device):
        apply(x, orientations, [0, 1, 0, 0, 1, 0, 0, 0])
        assert torch.equal(x, before)


def module(seed=0, **options):
    """Images whose target is the image plus one, and which no turn leaves as they are."""
    image = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    return ArrayDataModule(
        train_data=image,
        train_target=image + 1,
        axes="YX",
        patch_size=(8, 8),
        batch_size=24,
        patches_per_epoch=600,
        normalization="none",
        seed=seed,
        **options,
    )


def orientation_of(patch):
    """Steps along X and along Y tell how a patch of `module` was turned."""
    return (float(patch[0, 1] - patch[0, 0]), float(patch[1, 0] - patch[0, 0]))


def test_image_and_target_turn_together_and_every_orientation_is_equally_likely():
    data = module()
    loader = data.train_dataloader()
    counts: dict[tuple[float, float], int] = {}
    for _ in range(4):
        for batch in loader:
            done = data.transform(batch)
            assert torch.equal(done["target"], done["image"] + 1)
            for patch in done["image"][:, 0]:
                key = orientation_of(patch)
                counts[key] = counts.get(key, 0) + 1
    assert set(counts) == {
        *itertools.product((1, -1), (64, -64)),
        *itertools.product((64, -64), (1, -1)),
    }
    # 2400 in 8: 300 each, standard deviation 16.
    assert all(abs(n - 300) < 80 for n in counts.values())


def test_a_seed_repeats_the_turns():
    def first(seed):
        data = module(seed)
        return data.transform(next(iter(data.train_dataloader())))["image"]

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_validation_is_not_turned():
    data = module()
    for batch in data.val_dataloader():
        assert {orientation_of(p) for p in data.transform(batch)["image"][:, 0]} == {(1, 64)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": "XT"}, 'flip="XT"; give axes among Z, Y and X'),
        ({"flip": None}, 'flip="None"; give axes'),
        ({"flip": ["X"]}, "give axes among Z, Y and X"),
        ({"quarter_turns": 4}, "quarter_turns=4; give true or false"),
    ],
)
def test_settings_out_of_range_are_said_at_once(options, message):
    with pytest.raises(DataError, match=message):
        Augmentation(**options)


def test_lower_case_axes_will_do():
    assert Augmentation("yx") == Augmentation("YX")


def test_quarter_turns_need_square_patches():
    with pytest.raises(DataError, match=r"square patches, but patch_size is \(16, 32\)"):
        Augmentation().orientations((16, 32))
    assert len(Augmentation(quarter_turns=False).orientations((16, 32))) == 4


def test_flipping_z_needs_depth():
    with pytest.raises(DataError, match=r"patch_size \(16, 16\) has no Z"):
        Augmentation("ZYX").orientations((16, 16))


@pytest.mark.parametrize("counts", [[1, 0, 0, 0, 0, 0, 0, 0], [4], [2] * 8])
def test_a_part_of_a_batch_cannot_be_turned(counts):
    with pytest.raises(ValueError, match=r"4 patches cannot get 8 orientations.*whole batches"):
        orient(torch.zeros(4, 1, 8, 8), Augmentation().orientations((8, 8)), counts)
