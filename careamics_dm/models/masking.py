"""Blind-spot masking of whole batches on their device: Noise2Void, N2V2 and structN2V."""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from careamics_dm.errors import DataError
from careamics_dm.images import argument_checks as check
from careamics_dm.models.neighbourhoods import Neighbourhoods

# Values gathered at once for medians, which bounds the memory. A CPU sorts them in its cache (1 MiB
# of float32), and fresh pages for larger pieces would cost more than the sorting; an accelerator
# is fastest in few large steps (64 MiB).
_VALUES_AT_ONCE = {True: 2**18, False: 2**24}

StructMask: TypeAlias = Literal["horizontal", "vertical", "axial", "cross", "square"]
"""What structN2V hides around a blind spot."""
_STRUCT_AXES = {"horizontal": "X", "vertical": "Y", "axial": "Z", "cross": "YX", "square": "YX"}


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Replace scattered pixels by values of their surroundings.

    A network that sees the result and must give the original at the replaced pixels, the blind
    spots, can only predict what their surroundings reveal: the signal and not the noise (Krull et
    al., 2019). Blind spots are stratified: a grid of boxes covers the patch, and each box contains
    one spot at a random place, independently for each patch and channel. Spots in the part of a
    box beyond the border are dropped, so that each pixel is equally likely to be masked. A whole
    batch is masked at once on its device.

    Parameters
    ----------
    masked_pixel_percentage : float
        Pixels that become blind spots, percent, at most 50. Boxes have whole pixels, so the true
        percentage is ``100 / prod(box_size(dims))``.
    roi_size : int
        Edge of the surroundings, pixels: odd, at least 3. The replacement comes from this square or
        cube around a blind spot; at the border only its pixels inside the patch count.
    strategy : {"uniform", "median"}
        Replace by a random pixel (uniform) or the median. Of the surroundings: a random one of
        these pixels (Krull et al., 2019), or their median (N2V2, Höck et al., 2022; the mean of the
        middle two of an even number), which never includes the blind spot.
    remove_center : bool
        Whether "uniform" excludes the blind spot itself. Including it, as the first Noise2Void
        did, leaves some spots as they are and lets the network copy a little noise.
    struct_mask : {"horizontal", "vertical", "axial", "cross", "square"} or None
        Where neighbours with correlated noise are hidden, too. For structN2V (Broaddus et al.,
        2020): a line through each blind spot along X (horizontal), Y (vertical) or Z (axial), the
        first two at once (cross), or a square in its YX plane. These pixels are replaced by random
        values between the smallest and the largest of the patch and never serve as a replacement.
        Only blind spots are in the mask and in the loss.
    struct_span : int
        Length of that line, or edge, pixels: odd, at least 3. The blind spot is included; a square
        must be smaller than ``roi_size``.

    Raises
    ------
    ValueError
        If an argument lies outside its range.

    References
    ----------
    Krull et al., "Noise2Void: learning denoising from single noisy images", CVPR 2019.
    Höck et al., "N2V2: fixing Noise2Void checkerboard artifacts with modified sampling strategies
    and a tweaked network architecture", ECCV Workshops 2022. Broaddus et al., "Removing structured
    noise with self-supervised blind-spot networks", ISBI 2020.

    Examples
    --------
    >>> masked, mask = Masking(strategy="median")(torch.rand(8, 1, 64, 64))
    >>> mask.shape
    torch.Size([8, 1, 64, 64])
    """

    masked_pixel_percentage: float = 1.5
    roi_size: int = 11
    strategy: Literal["uniform", "median"] = "uniform"
    remove_center: bool = True
    struct_mask: StructMask | None = None
    struct_span: int = 5

    def __post_init__(self) -> None:
        percentage = self.masked_pixel_percentage
        if not check.is_number(percentage) or not 0 < percentage <= 50:
            raise DataError(
                f"{check.written('masked_pixel_percentage', percentage)} leaves nothing to learn "
                "or to see; use a percentage above 0 and at most 50, such as 0.2."
            )
        check.odd("roi_size", self.roi_size)
        check.odd("struct_span", self.struct_span)
        check.one_of("strategy", self.strategy, ("uniform", "median"))
        check.boolean("remove_center", self.remove_center)
        check.one_of("struct_mask", self.struct_mask, (None, *_STRUCT_AXES))
        if self.struct_mask == "square" and self.struct_span >= self.roi_size:
            raise ValueError(
                f"struct_mask='square' with struct_span={self.struct_span} hides all that "
                f"roi_size={self.roi_size} leaves to replace a blind spot by; use a larger "
                "roi_size or a smaller struct_span."
            )

    def __call__(self, x: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Mask a batch.

        Parameters
        ----------
        x : Tensor
            ``(N, C, (Z), Y, X)``, any floating dtype, any device. Not changed.
        generator : Generator or None
            Random generator on the device of ``x``; None: the global one of that device.

        Returns
        -------
        masked : Tensor
            Like ``x``, with blind spots (and what structN2V hides) replaced.
        mask : Tensor
            bool, the shape of ``x``: True at blind spots.

        Raises
        ------
        ValueError
            If ``x`` has another layout or no floating dtype, lacks the axis of ``struct_mask``, or
            has no pixels to take a replacement from.
        """
        self._check(x)
        with torch.no_grad():
            x_PS = x.flatten(0, 1)  # P patches of one channel each; S stands for (Z) Y X here
            spots_DPG, inside_PG = self._draw_spots(x_PS, generator)
            hidden = self._offsets(spots_DPG)
            if self.strategy == "uniform" and not self.remove_center and not self.struct_mask:
                hidden = hidden[:, :0]
            around = Neighbourhoods.around(spots_DPG, x_PS.shape[1:], self.roi_size, hidden)
            if self.strategy == "median":
                values_PG = self._medians(x_PS, spots_DPG, around.choices)
            else:
                chance = torch.rand(inside_PG.shape, generator=generator, device=x.device)
                places_DPG = around.pick((chance * around.choices).long())
                values_PG = x_PS.take(_flat_index(places_DPG, x_PS))
            if self.struct_mask:
                x_PS = self._hide_struct(x_PS, spots_DPG, inside_PG, generator)
            target = _target(_flat_index(spots_DPG, x_PS), inside_PG, x_PS)
            masked = x_PS.new_empty(x_PS.numel() + 1)
            masked[:-1] = x_PS.flatten()
            masked[target] = values_PG.to(x.dtype)
        return masked[:-1].view(x.shape), _mark(target, x_PS).view(x.shape)

    def check_patch_size(self, patch_size: tuple[int, ...]) -> None:
        """Raise a ValueError where training patches, ``(Z) Y X``, are too small to be masked.

        Along Z, which is mostly short, the surroundings of a blind spot may be larger.
        """
        if self.roi_size > min(patch_size[-2:]):
            raise ValueError(
                f"roi_size={self.roi_size} is larger than patch_size={patch_size}. Use larger "
                "patches, or a smaller roi_size (on the command line model.masking.roi_size)."
            )
        self._check_axes(patch_size)

    def box_size(self, dims: int) -> tuple[int, ...]:
        """Return the size of the boxes with one blind spot each.

        Parameters
        ----------
        dims : {2, 3}
            Spatial dimensions.

        Returns
        -------
        tuple of int
            Pixels along (Z), Y, X; they differ by one at most, chosen so that the share of
            blind spots comes closest to ``masked_pixel_percentage``.
        """
        volume = 100 / self.masked_pixel_percentage
        edge = math.floor(volume ** (1 / dims))
        boxes = itertools.product((edge, edge + 1), repeat=dims)
        return min(boxes, key=lambda box: abs(math.log(math.prod(box) / volume)))

    def _check(self, x: Tensor) -> None:
        if x.ndim not in (4, 5) or not x.is_floating_point():
            raise ValueError(
                f"Masking takes floating batches (N, C, (Z), Y, X), but got {x.dtype} of shape "
                f"{tuple(x.shape)}; convert or reshape the batch first."
            )
        self._check_axes(tuple(x.shape[2:]))

    def _check_axes(self, size: tuple[int, ...]) -> None:
        sizes = dict(zip("ZYX"[-len(size) :], size, strict=True))
        if self.struct_mask == "axial" and "Z" not in sizes:
            raise ValueError(
                f"struct_mask='axial' is a line along Z, which patches of {size} pixels do not "
                "have; use another struct_mask or three-dimensional patches."
            )
        if not self._leaves_choices(sizes):
            raise ValueError(
                f"Patches of {size} have no pixels beside a blind spot to replace it by; use "
                "larger patches."
            )

    def _leaves_choices(self, sizes: dict[str, int]) -> bool:
        """Whether a patch has a pixel to choose that is not hidden, wherever the spot is."""
        along = _STRUCT_AXES[self.struct_mask] if self.struct_mask else ""
        hidden = [sizes[axis] for axis in along]
        return (
            any(size > 1 for axis, size in sizes.items() if axis not in along)
            or (self.struct_mask == "square" and max(hidden) > self.struct_span)
            or (self.struct_mask == "cross" and min(hidden) > 1)
        )

    def _draw_spots(self, x_PS: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Place a spot in each of G boxes: int64 (D, P, G), and whether it lies inside: (P, G)."""
        sizes = x_PS.shape[1:]
        box = self.box_size(len(sizes))
        edges = [torch.arange(0, n, c, device=x_PS.device) for n, c in zip(sizes, box, strict=True)]
        corners = torch.meshgrid(*edges, indexing="ij")
        shape = (len(sizes), len(x_PS), corners[0].numel())
        chance = torch.rand(shape, generator=generator, device=x_PS.device)
        places = zip(corners, chance, box, strict=True)
        spots = [corner.flatten() + (u * c).long() for corner, u, c in places]
        inside = torch.stack([spot < n for spot, n in zip(spots, sizes, strict=True)]).all(0)
        # Spots outside stay in the list, so that no shape depends on chance and the host need not
        # wait for a GPU; they are moved inside, where they do no harm, and never written.
        spots = [spot.clamp_(max=n - 1) for spot, n in zip(spots, sizes, strict=True)]
        return torch.stack(spots), inside

    def _offsets(self, spots_DPG: Tensor) -> Tensor:
        """Give the pixels that are hidden relative to a spot: int64 (D, H)."""
        return _hidden(self.struct_mask, self.struct_span, len(spots_DPG), spots_DPG.device)

    def _medians(self, x_PS: Tensor, spots_DPG: Tensor, choices_PG: Tensor) -> Tensor:
        """Median of each window without what is hidden: (P, G), at least float32."""
        roi, dims = self.roi_size, len(spots_DPG)
        x = x_PS if x_PS.dtype == torch.float64 else x_PS.float()
        # What does not count is infinite: sorting moves it behind the values that do.
        padded = F.pad(x, (roi // 2,) * (2 * dims), value=math.inf)
        index, n = _flat_index(spots_DPG, padded).flatten(), choices_PG.flatten()
        on_cpu = x.device.type == "cpu"
        rows = max(1, _VALUES_AT_ONCE[on_cpu] // roi**dims)
        order, sizes = _by_count(n, rows) if on_cpu and dims == 3 else (None, rows)
        if order is not None:
            index, n = index[order], n[order]
        # Whole lines of the window at a time: five times faster than gathering single pixels.
        lines = padded.flatten().unfold(0, roi, 1)
        steps, line = torch.arange(roi, device=x.device), index.view(-1, 1)
        for stride in padded.stride()[1:-1]:
            line = (line.unsqueeze(-1) + steps * stride).flatten(1)
        hidden = _hidden_in_window(self.struct_mask, self.struct_span, roi, dims, x.device)

        found = []
        for part, counts in zip(line.split(sizes), n.split(sizes), strict=True):
            values = lines.index_select(0, part.flatten()).view(-1, roi**dims)
            values.index_fill_(1, hidden, math.inf)
            found.append(_median_of_rows(values, counts, same=order is not None))
        medians = torch.cat(found)
        if order is not None:
            medians = torch.empty_like(medians).index_copy_(0, order, medians)
        return medians.view(choices_PG.shape)

    def _hide_struct(
        self, x_PS: Tensor, spots_DPG: Tensor, inside_PG: Tensor, generator: Generator | None
    ) -> Tensor:
        """Fill what is hidden around each spot with values between the patch's extremes."""
        offsets_DH = self._offsets(spots_DPG)
        on_patch = inside_PG.unsqueeze(-1)
        index = _flat_index(spots_DPG, x_PS).unsqueeze(-1)
        for d, (spot, offset) in enumerate(zip(spots_DPG, offsets_DH, strict=True)):
            place = spot.unsqueeze(-1) + offset
            on_patch = on_patch & (place >= 0) & (place < x_PS.shape[1 + d])
            index = index + offset * math.prod(x_PS.shape[2 + d :])
        hidden = _mark(_target(index, on_patch, x_PS), x_PS)
        # A value for each pixel, not each spot: where two hide the same pixel, the result stays
        # the same whichever is written last.
        low, high = (t.view(-1, *(1,) * len(spots_DPG)) for t in x_PS.flatten(1).aminmax(dim=1))
        chance = torch.rand(x_PS.shape, generator=generator, device=x_PS.device)
        return torch.where(hidden, (low + chance * (high - low)).to(x_PS.dtype), x_PS)


@functools.cache
def _hidden(struct_mask: StructMask | None, span: int, dims: int, device: torch.device) -> Tensor:
    """Pixels that are hidden relative to a blind spot, itself among them: int64 (D, H).

    On the device from then on: copied in each step, they would make the host wait for it.
    """
    along = _STRUCT_AXES[struct_mask] if struct_mask else ""
    reach = [span // 2 if axis in along else 0 for axis in "ZYX"[-dims:]]
    box = itertools.product(*(range(-r, r + 1) for r in reach))
    hidden = [at for at in box if struct_mask != "cross" or 0 in at[-2:]]
    return torch.tensor(hidden, device=device).T


@functools.cache
def _hidden_in_window(
    struct_mask: StructMask | None, span: int, roi: int, dims: int, device: torch.device
) -> Tensor:
    """Flat numbers of those that lie in the window of ``roi`` pixels around the spot."""
    offsets = _hidden(struct_mask, span, dims, device)
    inside = offsets[:, (offsets.abs() <= roi // 2).all(0)]
    return sum(((o + roi // 2) * roi**k for k, o in enumerate(inside.flip(0))), torch.tensor(0))


def _flat_index(places_DPG: Tensor, x_PS: Tensor) -> Tensor:
    """Index into the flattened patches: int64 (P, G)."""
    index = torch.arange(x_PS.shape[0], device=x_PS.device).unsqueeze(-1)
    for place, size in zip(places_DPG, x_PS.shape[1:], strict=True):
        index = index * size + place
    return index


def _target(index: Tensor, inside: Tensor, x: Tensor) -> Tensor:
    """Point what is not inside at a spare element behind the last, where it does no harm."""
    return torch.where(inside, index, x.numel())


def _mark(target: Tensor, x: Tensor) -> Tensor:
    """Return a bool tensor like ``x``, True at the flat indices ``target``."""
    mask = torch.zeros(x.numel() + 1, dtype=torch.bool, device=x.device)
    mask[target] = True
    return mask[:-1].view(x.shape)


def _by_count(n: Tensor, most: int) -> tuple[Tensor, list[int]]:
    """Order numbers by size; return the order, and how many of the same there are, each at most."""
    n, order = n.sort()
    runs: list[int] = n.unique_consecutive(return_counts=True)[1].tolist()
    return order, [min(most, run - first) for run in runs for first in range(0, run, most)]


def _median_of_rows(values: Tensor, n: Tensor, *, same: bool) -> Tensor:
    """Median of the ``n`` lowest values of each row of a matrix, which may be overwritten."""
    if same:  # one number for all rows: no need to sort
        half, odd = divmod(int(n[0]), 2)
        values.numpy().partition(half, axis=1)
        high = values[:, half]
        return high.clone() if odd else (values[:, :half].amax(1) + high) / 2
    if values.device.type == "cpu":
        # NumPy sorts with vector instructions, ten times faster than torch on a CPU.
        values.numpy().sort(axis=1)
    else:
        values = values.sort(dim=1).values
    return values.gather(1, torch.stack([(n - 1) // 2, n // 2], dim=1)).mean(1)
