"""The pixels around blind spots from which replacements are taken."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Neighbourhoods(NamedTuple):
    """Boxes around G spots in each of P patches; pixels numbered along X, Y, then Z; all int64."""

    start: Tensor
    """(D, P, G): first pixel of the box, clipped at the border."""
    extent: Tensor
    """(D, P, G): size of the box in pixels."""
    hidden: Tensor
    """(P, G, H): numbers of the hidden pixels; huge for those outside the box."""
    choices: Tensor
    """(P, G): number of pixels that are not hidden."""

    @classmethod
    def around(
        cls, spots_DPG: Tensor, sizes: Sequence[int], roi_size: int, offsets: Tensor
    ) -> "Neighbourhoods":
        """Place boxes around spots; ``offsets`` (D, H) are the hidden pixels relative to a spot."""
        radius = roi_size // 2
        start = (spots_DPG - radius).clamp_(min=0)
        ends = zip(spots_DPG + radius + 1, sizes, strict=True)
        stop = torch.stack([end.clamp_(max=n) for end, n in ends])
        extent = stop - start
        pixels = extent.prod(0)
        if offsets.shape[1] == 1:  # the spot alone, which is always inside
            number = _number(spots_DPG - start, extent)
            return cls(start, extent, number.unsqueeze(-1), pixels - 1)
        places_DPGH = (spots_DPG - start).unsqueeze(-1) + offsets[:, None, None]
        extent_DPG1 = extent.unsqueeze(-1)
        inside = ((places_DPGH >= 0) & (places_DPGH < extent_DPG1)).all(0)
        numbers = _number(places_DPGH, extent_DPG1)
        hidden = torch.where(inside, numbers, torch.iinfo(torch.int64).max)
        return cls(start, extent, hidden, pixels - inside.sum(-1))

    def pick(self, rank_PG: Tensor) -> Tensor:
        """Return the place, int64 (D, P, G), of the pixel with this rank among those not hidden."""
        number = rank_PG + self._hidden_before(rank_PG)
        places = torch.empty_like(self.start)
        for d in reversed(range(len(places))):
            places[d] = self.start[d] + number % self.extent[d]
            number = number // self.extent[d]
        return places

    def _hidden_before(self, rank_PG: Tensor) -> Tensor:
        """Count the hidden pixels before the pixel with this rank."""
        if self.hidden.shape[-1] == 1:
            return rank_PG >= self.hidden[..., 0]
        # Sorting moves those outside the box, which are huge, behind the others.
        hidden = self.hidden.sort(-1).values
        # The j-th lies before all ranks from its number minus the j hidden pixels before it.
        before = torch.arange(hidden.shape[-1], device=hidden.device)
        return (rank_PG.unsqueeze(-1) >= hidden - before).sum(-1)


def _number(places_D: Tensor, extent_D: Tensor) -> Tensor:
    """Count along the last axis, then the one before, and so on."""
    number = places_D[0]
    for place, extent in zip(places_D[1:], extent_D[1:], strict=True):
        number = number * extent + place
    return number
