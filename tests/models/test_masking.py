from __future__ import annotations

import itertools
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
SHAPES = [None, "horizontal", "vertical", "axial", "cross", "square"]
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


def hides(shape: str | None, span: int, offset: tuple[int, ...]) -> bool:
    """Say whether a pixel, so far from a blind spot along (Z), Y, X, is hidden with it."""
    *z, y, x = map(abs, offset)
    half = span // 2
    return {
        None: False,
        "horizontal": x <= half and y == 0 and not any(z),
        "vertical": y <= half and x == 0 and not any(z),
        "axial": bool(z) and z[0] <= half and y == 0 and x == 0,
        "cross": min(x, y) == 0 and max(x, y) <= half and not any(z),
        "square": x <= half and y <= half and not any(z),
    }[shape] or not any(offset)


def hidden_with(
    index: tuple[int, ...], shape: str | None, span: int, size: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """List the indices of all pixels that are hidden with a blind spot, itself among them."""
    n, c, *spot = index
    near = [
        range(max(place - span // 2, 0), min(place + span // 2 + 1, n))
        for place, n in zip(spot, size, strict=True)
    ]
    return [
        (n, c, *place)
        for place in itertools.product(*near)
        if hides(shape, span, tuple(a - b for a, b in zip(place, spot, strict=True)))
    ]


@few
@given(
    shape=PATCHES,
    strategy=st.sampled_from(["uniform", "median"]),
    percentage=st.sampled_from([0.2, 1.0, 5.0]),
    struct=st.sampled_from(SHAPES),
    seed=st.integers(0, 1000),
)
def test_only_blind_spots_and_what_is_hidden_with_them_change(
    shape: tuple[int, ...], strategy: Any, percentage: float, struct: Any, seed: int
) -> None:
    if struct == "axial" and len(shape) == 4:
        struct = "cross"
    x = torch.randn(shape)
    before = x.clone()
    masking = Masking(strategy=strategy, masked_pixel_percentage=percentage, struct_mask=struct)
    masked, mask = masking(x, torch.Generator().manual_seed(seed))
    assert torch.equal(x, before)
    assert masked.shape == mask.shape == x.shape
    assert masked.dtype == x.dtype and mask.dtype == torch.bool
    assert masked.is_contiguous() and mask.is_contiguous()
    again = masking(x, torch.Generator().manual_seed(seed))
    assert torch.equal(masked, again[0]) and torch.equal(mask, again[1])

    allowed = mask.clone()
    for index in map(tuple, mask.nonzero().tolist()):
        for place in hidden_with(index, struct, 5, shape[2:]):
            allowed[place] = True
    assert torch.equal(masked[~allowed], x[~allowed])
    hidden = allowed & ~mask
    if hidden.any():
        assert (masked[hidden] != x[hidden]).float().mean() > 0.9
        assert masked.amin() >= x.amin() and masked.amax() <= x.amax()


@few
@given(shape=PATCHES, percentage=st.sampled_from([0.5, 2.0, 10.0, 50.0]))
def test_one_spot_in_each_whole_box(shape: tuple[int, ...], percentage: float) -> None:
    masking = Masking(masked_pixel_percentage=percentage)
    _, mask = masking(torch.randn(shape))
    box = masking.box_size(len(shape) - 2)
    grid = mask.float()
    for axis, edge in enumerate(box, start=2):
        grid = grid.unfold(axis, edge, edge) if grid.shape[axis] >= edge else grid[..., :0]
    if grid.numel():
        assert (grid.flatten(len(shape)).sum(-1) == 1).all()
    assert max(box) - min(box) <= 1


@pytest.mark.parametrize("percentage", [0.05, 0.2, 1, 5, 10])
@pytest.mark.parametrize("shape", [(200, 1, 64, 50), (20, 1, 13, 40, 50)])
def test_share_of_masked_pixels(shape: tuple[int, ...], percentage: float) -> None:
    masking = Masking(masked_pixel_percentage=percentage)
    _, mask = masking(torch.zeros(shape), torch.Generator().manual_seed(0))
    expected = 100 / math.prod(masking.box_size(len(shape) - 2))
    assert expected == pytest.approx(percentage, rel=0.2)
    spots = expected / 100 * mask.numel()
    assert abs(mask.sum().item() - spots) < 5 * math.sqrt(spots)


def test_spots_are_uniform_up_to_the_border() -> None:
    """Chi-square over all pixels: no border, corner or box edge is favoured."""
    masking = Masking(masked_pixel_percentage=5)
    _, mask = masking(torch.zeros(6000, 1, 17, 22), torch.Generator().manual_seed(1))
    seen = mask.sum((0, 1)).double()
    expected = 6000 / math.prod(masking.box_size(2))
    chi2 = ((seen - expected) ** 2 / (expected * (1 - expected / 6000))).sum().item()
    free = seen.numel()
    assert abs(chi2 - free) < 5 * math.sqrt(2 * free)
    for part in (seen[0], seen[-1], seen[:, 0], seen[:, -1]):
        assert part.mean() == pytest.approx(expected, rel=0.05)


def test_patches_and_channels_are_independent() -> None:
    _, mask = Masking()(torch.zeros(4, 4, 64, 64), torch.Generator().manual_seed(0))
    assert len({tuple(m.flatten().nonzero().flatten().tolist()) for m in mask.flatten(0, 1)}) == 16


@pytest.mark.parametrize("struct", SHAPES)
@pytest.mark.parametrize("shape", [(2, 2, 20, 24), (2, 1, 5, 12, 14)])
def test_a_replacement_is_a_neighbour_that_is_not_hidden(
    shape: tuple[int, ...], struct: Any
) -> None:
    if struct == "axial" and len(shape) == 4:
        return
    x = unique(shape)
    roi, span = 5, 3
    masking = Masking(masked_pixel_percentage=5, roi_size=roi, struct_mask=struct, struct_span=span)
    masked, mask = masking(x)
    for index, window in windows(x, mask, roi):
        assert masked[index] in window
        assert masked[index] not in [
            x[place] for place in hidden_with(index, struct, span, shape[2:])
        ]


@pytest.mark.parametrize("struct", ["horizontal", "vertical", "cross", "square"])
@pytest.mark.parametrize("spot", [(2, 2), (0, 0), (1, 4)])
def test_pixels_that_are_not_hidden_are_equally_likely(struct: Any, spot: tuple[int, int]) -> None:
    x = torch.zeros(6000, 1, 5, 5)
    x[:] = torch.arange(25).view(5, 5)
    masking = Masking(masked_pixel_percentage=20, roi_size=7, struct_mask=struct, struct_span=3)
    masked, mask = masking(x, torch.Generator().manual_seed(0))
    here = mask[:, 0, *spot]
    drawn = torch.bincount(masked[here][:, 0, *spot].long(), minlength=25).double().view(5, 5)
    # The window, three pixels to each side, and the patch.
    free = torch.tensor(
        [
            [
                not hides(struct, 3, (y - spot[0], x - spot[1]))
                and max(abs(y - spot[0]), abs(x - spot[1])) <= 3
                for x in range(5)
            ]
            for y in range(5)
        ]
    )
    assert drawn[~free].sum() == 0
    choices = int(free.sum())
    expected = here.sum().item() / choices
    chi2 = ((drawn[free] - expected) ** 2 / expected).sum()
    assert chi2 < choices + 5 * math.sqrt(2 * choices)


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


@pytest.mark.parametrize("struct", SHAPES)
@pytest.mark.parametrize("shape", [(2, 2, 20, 24), (2, 1, 4, 12, 14), (1, 1, 3, 90)])
def test_median_is_that_of_numpy(shape: tuple[int, ...], struct: Any) -> None:
    if struct == "axial" and len(shape) == 4:
        return
    x = unique(shape)
    roi, span = 7, 5
    masking = Masking(
        masked_pixel_percentage=4,
        roi_size=roi,
        strategy="median",
        struct_mask=struct,
        struct_span=span,
    )
    masked, mask = masking(x)
    assert mask.any()
    for index, window in windows(x, mask, roi):
        hidden = {x[place].item() for place in hidden_with(index, struct, span, shape[2:])}
        seen = [v for v in window.flatten().tolist() if v not in hidden]
        assert masked[index].item() == np.median(seen)


@pytest.mark.parametrize("struct", ["horizontal", "cross"])
def test_line_longer_than_the_window(struct: Any) -> None:
    torch.manual_seed(0)  # so that no median is by chance what it replaces
    x = unique((2, 1, 12, 30))
    strategies: list[Any] = ["uniform", "median"]
    for strategy in strategies:
        masking = Masking(strategy=strategy, roi_size=3, struct_mask=struct, struct_span=9)
        masked, mask = masking(x)
        assert (masked != x)[mask].all() and masked.isfinite().all()


@pytest.mark.parametrize("strategy", ["uniform", "median"])
def test_the_smallest_patches_that_leave_a_pixel_beside_the_hidden_ones(strategy: Any) -> None:
    for struct, shape in (("square", (1, 6)), ("cross", (2, 2)), ("square", (2, 1, 1))):
        x = unique((200, 1, *shape))
        masking = Masking(
            strategy=strategy, masked_pixel_percentage=50, struct_mask=struct, roi_size=7
        )
        masked, mask = masking(x)
        for index, _ in windows(x, mask, 7):
            hidden = [x[place] for place in hidden_with(index, struct, 5, shape)]
            assert masked[index] not in hidden
            own = x[index[0]]
            assert own.min() <= masked[index] <= own.max()


def test_what_is_hidden_with_blind_spots_spreads_over_the_range_of_its_own_patch() -> None:
    x = torch.rand(2, 1, 200, 200)
    x[0] = 100 + 10 * x[0]
    masking = Masking(masked_pixel_percentage=5, struct_mask="horizontal")
    masked, mask = masking(x, torch.Generator().manual_seed(0))
    for patch, (low, high) in enumerate(((100, 110), (0, 1))):
        hidden = masked[patch][(masked[patch] != x[patch]) & ~mask[patch]]
        share = (hidden - low) / (high - low)
        assert 0 <= share.min() < 0.01 and 0.99 < share.max() <= 1
        assert share.mean().item() == pytest.approx(0.5, abs=0.02)


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
    masking = Masking(strategy=strategy, struct_mask="vertical")
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
        (
            {"strategy": "mean"},
            "strategy='mean': choose among uniform, median. Did you mean",
        ),
        ({"struct_mask": "X"}, "struct_mask='X': choose among None, horizontal, vertical"),
        ({"struct_mask": "square", "roi_size": 5}, "hides all that roi_size=5 leaves"),
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
    with pytest.raises(ValueError, match=r"'axial' is a line along Z.*another struct_mask"):
        Masking(struct_mask="axial")(torch.zeros(1, 1, 8, 8))
    too_small: list[Any] = [
        ("horizontal", (1, 8)),
        ("vertical", (8, 1)),
        ("axial", (8, 1, 1)),
        ("cross", (1, 8)),
        ("square", (5, 5)),
    ]
    for shape, size in too_small:
        with pytest.raises(ValueError, match=r"no pixels beside"):
            Masking(struct_mask=shape)(torch.zeros(1, 1, *size))


@pytest.mark.parametrize(
    ("masking", "size", "problem"),
    [
        ({}, (8, 64), r"roi_size=11 is larger than patch_size=\(8, 64\)"),
        ({"roi_size": 17}, (16, 16), r"roi_size=17 is larger than patch_size=\(16, 16\)"),
        ({"strategy": "median"}, (16, 64, 8), r"roi_size=11 is larger than patch_size"),
        ({"struct_mask": "axial"}, (64, 64), r"'axial' is a line along Z, which patches of"),
        (
            {"roi_size": 5, "struct_mask": "square", "struct_span": 3},
            (1, 3, 5),
            r"roi_size=5 is larger than patch_size",
        ),
    ],
)
def test_patches_that_are_too_small_to_be_masked(masking, size, problem):
    with pytest.raises(ValueError, match=problem):
        Masking(**masking).check_patch_size(size)


@pytest.mark.parametrize("size", [(11, 11), (4, 16, 16), (1, 64, 64)])
def test_surroundings_may_be_larger_along_z(size):
    Masking().check_patch_size(size)
    masked, mask = Masking()(torch.rand(1, 1, *size))
    assert mask.any() and masked.shape == (1, 1, *size)
