"""The pixels around blind spots from which replacements are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


class Neighbourhoods(NamedTuple):
    """Boxes around G spots in each of P patches, without pixels that are hidden; all int64.

    Pixels of a box are numbered along X, then Y, then Z.
    """

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
    ) -> Neighbourhoods:
        """Place boxes of ``roi_size`` pixels, odd, around spots in patches of these ``sizes``.

        ``offsets``, int64 (D, H), are the hidden pixels relative to the spot.
        """
        radius = roi_size // 2
        start = (spots_DPG - radius).clamp_(min=0)
        stop = torch.stack(
            [(spot + radius + 1).clamp_(max=n) for spot, n in zip(spots_DPG, sizes, strict=True)]
        )
        extent = stop - start
        pixels = extent.prod(0)
        if offsets.shape[1] == 0:
            return cls(start, extent, pixels.new_empty(*pixels.shape, 0), pixels)
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
        """Return the position of the pixel with this rank among those not hidden: int64 (D, P, G).

        Distinct ranks, from 0 to ``choices - 1``, give distinct pixels; so a uniform rank gives a
        uniform pixel.
        """
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
