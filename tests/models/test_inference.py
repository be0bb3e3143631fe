"""Images of any size, in one orientation or in all."""

from __future__ import annotations

import warnings
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from modules import trainer
from torch import Tensor, nn
from torch.nn import functional as F

from careamics_dm.errors import DataError
from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.models.inference import mirror_up
from careamics_dm.models.masking import Masking
from careamics_dm.models.n2v import N2VModule
from careamics_dm.models.supervised import CAREModule
from careamics_dm.models.unet import UNet
from careamics_dm.prediction.stitching import stitch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class Ramp(nn.Module):
    """Adds what depends on the place, so that turned images are restored otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        y, z = (torch.arange(n, dtype=x.dtype) for n in x.shape[-2:])
        return x + y[:, None] + 10 * z


class Small(Ramp):
    """Has memory for some images only."""

    def __init__(self, most: int, error: Exception | None = None) -> None:
        super().__init__()
        self.most, self.sizes = most, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize("in_all_orientations", [False, True])
def test_batches_that_take_too_much_memory_are_restored_in_parts(in_all_orientations, capsys):
    batch = {"image": torch.rand(11, 1, 8, 8)}
    small, large = (CAREModule(Small(most)) for most in (3, 100))
    for model in (small, large):
        model.test_time_augmentation = model.uncertainty = in_all_orientations
    expected = large.predict_step(batch)
    for _ in range(2):
        found = small.predict_step(batch)
        assert found.keys() == expected.keys()
        for key, value in found.items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=0)
    every = 8 if in_all_orientations else 1
    tried, parts = [11, 5], [2] * 5 * every + [1] * every
    assert small.network.sizes == tried + parts + parts  # it is remembered
    said = "the GPU has too little memory for 5 tiles or images at once: continuing with 2\n"
    assert capsys.readouterr().out.endswith(said)
    other = {"image": torch.rand(3, 1, 8, 4)}  # has a number of its own
    assert len(small.predict_step(other)["prediction"]) == small.network.sizes[-1] == 3


@pytest.mark.parametrize(
    ("network", "message", "tried"),
    [
        (Small(0), r"too little memory for a single tile or image of \(8, 6\) pixels", [4, 2, 1]),
        (Small(0, RuntimeError("MPS backend out of memory")), "too little memory", [4, 2, 1]),
        (Small(0, RuntimeError("mat1 and mat2")), "mat1 and mat2", [4]),
    ],
)
def test_what_never_fits_is_an_error(network, message, tried):
    with pytest.raises((DataError, RuntimeError), match=message):
        CAREModule(network).predict_step({"image": torch.rand(4, 1, 8, 6)})
    assert network.sizes == tried


def all_turns(x: np.ndarray[Any, Any], count: int) -> list[Any]:
    """How to flip and turn, and how to undo it, by NumPy alone."""
    moves: list[Any] = []
    for mirrored in (False, True):
        for quarters in range(0, 4, 8 // count):

            def there(a: Any, m: bool = mirrored, q: int = quarters) -> Any:
                return np.rot90(np.flip(a, -1) if m else a, q, (-2, -1))

            def back(a: Any, m: bool = mirrored, q: int = quarters) -> Any:
                a = np.rot90(a, -q, (-2, -1))
                return np.flip(a, -1) if m else a

            moves.append((there, back))
    assert len(moves) == count
    return moves


def by_hand(network: Callable[[Tensor], Tensor], x: Tensor, count: int) -> list[Any]:
    def restored(a: Any) -> Any:
        return network(torch.from_numpy(np.ascontiguousarray(a))).numpy()

    results = [back(restored(there(x.numpy()))) for there, back in all_turns(x.numpy(), count)]
    return [np.mean(results, axis=0), np.std(results, axis=0)]


def test_mirror_is_that_of_torch() -> None:
    x = torch.randn(2, 1, 9, 6, 8)
    torch.testing.assert_close(mirror_up(x, 4), F.pad(x, (0, 0, 0, 2, 0, 3), mode="reflect"))
    assert (
        mirror_up(x[..., :3], 8)[0, 0, 0, 0].tolist()
        == x[0, 0, 0, 0][[0, 1, 2, 1, 0, 1, 2, 1]].tolist()
    )


@pytest.mark.parametrize("shape", [(2, 1, 6, 6), (1, 2, 5, 8), (2, 1, 3, 4, 7)])
def test_augmentation_changes_nothing_where_the_network_is_equivariant(
    shape: tuple[int, ...],
) -> None:
    model = CAREModule(nn.ReLU())
    x = torch.randn(shape)
    alone = model.predict_step(x)
    assert set(alone) == {"prediction"}
    model.test_time_augmentation = model.uncertainty = True
    result = model.predict_step(x)
    assert torch.equal(result["prediction"], alone["prediction"])
    assert torch.equal(result["uncertainty"], torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 1, 6, 6), (1, 2, 5, 8), (2, 1, 3, 4, 7)])
@pytest.mark.parametrize(
    ("masking", "count"),
    [
        (Masking(), 8),
        (Masking(struct_mask="cross"), 8),
        (Masking(struct_mask="horizontal"), 4),
        (Masking(struct_mask="vertical"), 4),
    ],
)
def test_prediction_and_uncertainty_are_mean_and_deviation_over_the_turns_allowed(
    shape: tuple[int, ...], masking: Masking, count: int
) -> None:
    network = Ramp()
    model = N2VModule(network, masking=masking)
    model.test_time_augmentation = model.uncertainty = True
    x = torch.randn(shape)
    mean, deviation = by_hand(network, x, count)
    result = model.predict_step(x)
    np.testing.assert_allclose(result["prediction"], mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result["uncertainty"], deviation, rtol=1e-4, atol=1e-5)
    assert result["uncertainty"].max() > 1
    model.uncertainty = False
    assert set(model.predict_step(x)) == {"prediction"}


def test_uncertainty_is_in_the_units_of_the_data(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(500, 20, (24, 16)).astype(np.float32)
    data = ArrayDataModule(train_data=image, predict_data=image, axes="YX", patch_size=(8, 8))
    model = N2VModule(Ramp())
    model.test_time_augmentation = model.uncertainty = True
    [result] = trainer(tmp_path).predict(model, datamodule=data) or []
    assert isinstance(result, dict)
    statistics = data.statistics["image"]
    normalised = torch.from_numpy((image - statistics.offset[0]) / statistics.scale[0])
    mean, deviation = by_hand(Ramp(), normalised[None, None], 8)
    expected = mean * statistics.scale[0] + statistics.offset[0]
    np.testing.assert_allclose(result["prediction"], expected, rtol=1e-5)
    np.testing.assert_allclose(result["uncertainty"], deviation * statistics.scale[0], rtol=1e-4)
    assert "region" in result


def test_uncertainty_needs_augmentation() -> None:
    model = N2VModule(nn.Identity())
    model.uncertainty = True
    with pytest.raises(ValueError, match="set test_time_augmentation=True, too"):
        model.predict_step(torch.zeros(1, 1, 4, 4))


def tiled_and_whole(model: CAREModule, image: Any, tile: Sequence[int], folder: Any) -> list[Any]:
    dims, results = len(tile), []
    for tile_size in (tile, None):
        options = {"tile_size": tile_size, "normalization": "none", "batch_size": 3}
        data = ArrayDataModule(
            predict_data=image, axes="ZYX"[-dims:], patch_size=(8,) * dims, **options
        )
        outputs = trainer(folder).predict(model, datamodule=data)
        results += stitch(outputs, data.predict_stacks)
    return results


def random_network(dims: int, depth: int, **options: Any) -> UNet:
    """Make one whose output varies as much as its input, as that of a trained network does."""
    torch.manual_seed(3)
    network = UNet(1, dims=dims, depth=depth, first_filters=4, **options)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight)
    return network


SHAPES = [(depth, dims) for depth in (1, 2, 3, 4) for dims in (2, 3) if (depth, dims) != (4, 3)]


@pytest.mark.parametrize(("depth", "dims"), SHAPES)
@settings(max_examples=3, deadline=None, phases=[Phase.generate])
@given(st.data())
def test_tiles_give_what_the_whole_image_does(depth: int, dims: int, data: st.DataObject) -> None:
    network = random_network(dims, depth, n2v2=data.draw(st.booleans()))
    long = network.reach[0] * 8 // 3 + data.draw(st.integers(1, 5))
    # Several tiles along one axis; along another, too, where these are small.
    tile = [*[network.size_divisor[0]] * (dims - 1), long]
    if depth == 1 or (depth, dims) == (2, 2):
        tile[0] = long
    size = [data.draw(st.integers(t, 3 * t if t == long else t)) for t in tile]
    model = CAREModule(network)
    model.test_time_augmentation = depth == 1 and dims == 2
    image = np.random.default_rng(0).normal(size=size).astype(np.float32)
    with TemporaryDirectory() as folder:
        tiled, whole = tiled_and_whole(model, image, tile, folder)
    assert whole.std() > 0.02  # not silent
    assert np.abs(tiled - whole).max() < 1e-4 * whole.std()


@pytest.mark.parametrize(("tile", "warns"), [((24, 24), True), ((30, 30), False)])
def test_tiles_that_are_small_for_the_network_are_warned_of(
    tmp_path: Path, tile: tuple[int, ...], warns: bool
) -> None:
    model, image = CAREModule(random_network(2, 1)), np.zeros((64, 64), np.float32)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        tiled_and_whole(model, image, tile, tmp_path)
    found = [str(w.message) for w in raised if "tile_size" in str(w.message)]
    assert bool(found) is warns
    if warns:
        assert found[0].startswith(
            "tile_size=(24, 24) is small for this network: tiles overlap by (18, 18) pixels, but "
            "should overlap by (20, 20)."
        )


@pytest.mark.parametrize(
    ("size", "tile"),
    [((5, 50), (16, 32)), ((50, 13), (32, 64)), ((3, 50, 7), (16, 32, 32)), ((1, 9), (32, 32))],
)
def test_axes_that_are_shorter_than_a_tile(
    tmp_path: Path, size: tuple[int, ...], tile: tuple[int, ...]
) -> None:
    model = CAREModule(random_network(len(size), 1))
    image = np.random.default_rng(0).normal(size=size).astype(np.float32)
    tiled, whole = tiled_and_whole(model, image, tile, tmp_path)
    assert whole.std() > 0.02
    assert np.abs(tiled - whole).max() < 1e-4 * whole.std()


@settings(max_examples=4, deadline=None, phases=[Phase.generate])
@given(st.lists(st.tuples(*[st.integers(1, 80)] * 2), min_size=2, max_size=4), st.integers(1, 2))
def test_tiles_give_what_each_whole_image_of_a_mixed_set_does(
    sizes: list[tuple[int, int]], depth: int
) -> None:
    model, rng = CAREModule(random_network(2, depth)), np.random.default_rng(0)
    images = [rng.normal(size=size).astype(np.float32) for size in sizes]
    tile = [model.network.reach[0] * 8 // 3 + 5] * 2  # type: ignore[index]
    with TemporaryDirectory() as folder:
        results = tiled_and_whole(model, images, tile, folder)
    for tiled, whole in zip(results[: len(sizes)], results[len(sizes) :], strict=True):
        assert np.abs(tiled - whole).max() < 1e-4 * max(whole.std(), 1)
