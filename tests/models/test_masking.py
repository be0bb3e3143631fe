from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from careamics_dm.models.masking import Masking

if TYPE_CHECKING:
    from collections.abc import Iterator

PATCHES = st.sampled_from(
    [(2, 1, 23, 40), (1, 3, 64, 64), (3, 2, 7, 9, 12), (1, 1, 1, 16, 20), (2, 1, 30, 5)]
)
few = settings(max_examples=15, deadline=None)


def unique(shape: tuple[int, ...]) -> torch.Tensor:
    """Each pixel its own flat index, in shuffled places: values tell where they come from."""
    return torch.randperm(math.prod(shape)).double().view(shape)


def windows(x: torch.Tensor, mask: torch.Tensor, roi: int) -> Iterator[tuple[Any, torch.Tensor]]:
    """Yield each spot's index and its neighbourhood inside the patch, one by one."""
    for index in mask.nonzero().tolist():
        n, c, *place = index
        slices = [slice(max(p - roi // 2, 0), p + roi // 2 + 1) for p in place]
        yield tuple(index), x[(n, c, *slices)]


def line_through(index: tuple[int, ...], axis: str, span: int) -> tuple[int | slice, ...]:
    """Return the index of the pixels that structN2V hides."""
    line: list[int | slice] = list(index)
    dim = "ZYX".index(axis) - 3
    line[dim] = slice(max(index[dim] - span // 2, 0), index[dim] + span // 2 + 1)
    return tuple(line)


@few
@given(
    shape=PATCHES,
    strategy=st.sampled_from(["uniform", "median"]),
    percentage=st.sampled_from([0.2, 1.0, 5.0]),
    axis=st.sampled_from([None, "X", "Y"]),
    seed=st.integers(0, 1000),
)
def test_promises(
    shape: tuple[int, ...], strategy: Any, percentage: float, axis: Any, seed: int
) -> None:
    x = torch.randn(shape)
    before = x.clone()
    masking = Masking(strategy=strategy, masked_pixel_percentage=percentage, struct_axis=axis)
    masked, mask = masking(x, torch.Generator().manual_seed(seed))
    assert torch.equal(x, before)
    assert masked.shape == mask.shape == x.shape
    assert masked.dtype == x.dtype and mask.dtype == torch.bool
    assert masked.is_contiguous() and mask.is_contiguous()
    again = masking(x, torch.Generator().manual_seed(seed))
    assert torch.equal(masked, again[0]) and torch.equal(mask, again[1])

    allowed = mask.clone()  # blind spots, and in structN2V two pixels on each side
    if axis is not None:
        dim = {"X": -1, "Y": -2}[axis]
        size = x.shape[dim]
        for step in range(-2, 3):
            keep = max(size - abs(step), 0)
            source, target = (0, step) if step > 0 else (-step, 0)
            if keep:
                allowed.narrow(dim, target, keep).logical_or_(mask.narrow(dim, source, keep))
    assert torch.equal(masked[~allowed], x[~allowed])
    lines = allowed & ~mask
    if axis is not None and mask.any():
        assert (masked[lines] != x[lines]).float().mean() > 0.9
        assert masked.amin() >= x.amin() and masked.amax() <= x.amax()


@few
@given(shape=PATCHES, percentage=st.sampled_from([0.5, 2.0, 10.0, 50.0]))
def test_one_spot_in_each_full_cell(shape: tuple[int, ...], percentage: float) -> None:
    masking = Masking(masked_pixel_percentage=percentage)
    _, mask = masking(torch.randn(shape))
    cell = masking.cell_size(len(shape) - 2)
    grid = mask.float()
    for axis, edge in enumerate(cell, start=2):
        grid = grid.unfold(axis, edge, edge) if grid.shape[axis] >= edge else grid[..., :0]
    if grid.numel():
        assert (grid.flatten(len(shape)).sum(-1) == 1).all()
    assert max(cell) - min(cell) <= 1


@pytest.mark.parametrize("percentage", [0.05, 0.2, 1, 5, 10])
@pytest.mark.parametrize("shape", [(200, 1, 64, 50), (20, 1, 13, 40, 50)])
def test_share_of_masked_pixels(shape: tuple[int, ...], percentage: float) -> None:
    masking = Masking(masked_pixel_percentage=percentage)
    _, mask = masking(torch.zeros(shape), torch.Generator().manual_seed(0))
    expected = 100 / math.prod(masking.cell_size(len(shape) - 2))
    assert expected == pytest.approx(percentage, rel=0.2)
    spots = expected / 100 * mask.numel()
    assert abs(mask.sum().item() - spots) < 5 * math.sqrt(spots)


def test_spots_are_uniform_up_to_the_border() -> None:
    """Chi-square over all pixels: no border, corner or cell edge is favoured."""
    masking = Masking(masked_pixel_percentage=5)
    _, mask = masking(torch.zeros(6000, 1, 17, 22), torch.Generator().manual_seed(1))
    seen = mask.sum((0, 1)).double()
    expected = 6000 / math.prod(masking.cell_size(2))
    chi2 = ((seen - expected) ** 2 / (expected * (1 - expected / 6000))).sum().item()
    free = seen.numel()
    assert abs(chi2 - free) < 5 * math.sqrt(2 * free)
    for part in (seen[0], seen[-1], seen[:, 0], seen[:, -1]):
        assert part.mean() == pytest.approx(expected, rel=0.05)


def test_patches_and_channels_are_independent() -> None:
    _, mask = Masking()(torch.zeros(4, 4, 64, 64), torch.Generator().manual_seed(0))
    assert len({tuple(m.flatten().nonzero().flatten().tolist()) for m in mask.flatten(0, 1)}) == 16


@pytest.mark.parametrize("axis", [None, "X", "Y", "Z"])
@pytest.mark.parametrize("shape", [(2, 2, 20, 24), (2, 1, 5, 12, 14)])
def test_replacement_is_a_neighbour(shape: tuple[int, ...], axis: Any) -> None:
    if axis == "Z" and len(shape) == 4:
        return
    x = unique(shape)
    roi, span = 5, 3
    masking = Masking(masked_pixel_percentage=5, roi_size=roi, struct_axis=axis, struct_span=span)
    masked, mask = masking(x)
    for index, window in windows(x, mask, roi):
        assert masked[index] in window
        assert masked[index] != x[index]
        if axis is not None:
            assert masked[index] not in x[line_through(index, axis, span)]


def test_neighbours_are_equally_likely() -> None:
    x = torch.zeros(3000, 1, 3, 3)
    x[:] = torch.arange(9).view(3, 3)
    generator = torch.Generator().manual_seed(0)
    for remove, choices in ((True, 8), (False, 9)):
        masking = Masking(masked_pixel_percentage=50, roi_size=5, remove_center=remove)
        masked, mask = masking(x, generator)
        centre = mask[:, 0, 1, 1]
        drawn = torch.bincount(masked[centre][:, 0, 1, 1].long(), minlength=9).double()
        assert (drawn[4] == 0) == remove
        expected = centre.sum().item() / choices
        chi2 = ((drawn[drawn > 0] - expected) ** 2 / expected).sum()
        assert chi2 < choices + 5 * math.sqrt(2 * choices)


@pytest.mark.parametrize("axis", [None, "X", "Y", "Z"])
@pytest.mark.parametrize("shape", [(2, 2, 20, 24), (2, 1, 4, 12, 14), (1, 1, 3, 90)])
def test_median_is_that_of_numpy(shape: tuple[int, ...], axis: Any) -> None:
    if axis == "Z" and len(shape) == 4:
        return
    x = unique(shape)
    roi, span = 7, 5
    masking = Masking(
        masked_pixel_percentage=4,
        roi_size=roi,
        strategy="median",
        struct_axis=axis,
        struct_span=span,
    )
    masked, mask = masking(x)
    assert mask.any()
    for index, window in windows(x, mask, roi):
        line = index if axis is None else line_through(index, axis, span)
        hidden = x[line].flatten().tolist()
        seen = [v for v in window.flatten().tolist() if v not in hidden]
        assert masked[index].item() == np.median(seen)


def test_line_longer_than_the_window() -> None:
    x = unique((2, 1, 12, 30))
    strategies: list[Any] = ["uniform", "median"]
    for strategy in strategies:
        masking = Masking(strategy=strategy, roi_size=3, struct_axis="X", struct_span=9)
        masked, mask = masking(x)
        assert (masked != x)[mask].all() and masked.isfinite().all()


def test_parts_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The median is computed piece by piece; pieces must not matter."""
    x = torch.randn(3, 2, 40, 40)
    masking = Masking(strategy="median", masked_pixel_percentage=1)
    whole, _ = masking(x, torch.Generator().manual_seed(0))
    monkeypatch.setattr("careamics_dm.models.masking._VALUES_AT_ONCE", {True: 500})
    parts, _ = masking(x, torch.Generator().manual_seed(0))
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("strategy", ["uniform", "median"])
def test_dtypes_and_strides(dtype: torch.dtype, strategy: Any) -> None:
    x = torch.randn(2, 40, 44, 3).to(dtype).permute(0, 3, 1, 2)
    masking = Masking(strategy=strategy, struct_axis="Y")
    masked, mask = masking(x, torch.Generator().manual_seed(0))
    assert masked.dtype == dtype and masked.isfinite().all()
    copy = masking(x.contiguous(), torch.Generator().manual_seed(0))
    assert torch.equal(masked, copy[0]) and torch.equal(mask, copy[1])


def test_uses_the_global_generator() -> None:
    x = torch.randn(1, 1, 64, 64)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = Masking()(x)[1]
        torch.manual_seed(3)
        assert torch.equal(first, Masking()(x)[1])
        assert not torch.equal(first, Masking()(x)[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"masked_pixel_percentage": 0}, "masked_pixel_percentage=0"),
        ({"masked_pixel_percentage": 60}, "at most 50"),
        ({"roi_size": 4}, "roi_size=4"),
        ({"struct_span": 1}, "struct_span=1"),
        ({"strategy": "mean"}, "'uniform' or 'median'"),
        ({"struct_axis": "C"}, "struct_axis='C'"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Masking(**options)


def test_wrong_batches() -> None:
    with pytest.raises(ValueError, match=r"uint16 of shape"):
        Masking()(torch.zeros(1, 1, 8, 8, dtype=torch.uint16))
    with pytest.raises(ValueError, match=r"takes floating batches"):
        Masking()(torch.zeros(8, 8))
    with pytest.raises(ValueError, match=r"has the axes Y, X"):
        Masking(struct_axis="Z")(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"no pixels beside"):
        Masking(struct_axis="X")(torch.zeros(1, 1, 1, 8))
