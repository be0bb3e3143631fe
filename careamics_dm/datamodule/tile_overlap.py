"""How much tiles have to overlap for a network."""

from collections.abc import Sequence
from math import ceil, inf
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from careamics_dm.datamodule.settings import Settings
from careamics_dm.images.extent import Extent

BORDERS = "Near their borders, results may differ a little from those of whole images."


def needs(model: Any, name: str, dims: int) -> tuple[Any, ...] | None:
    """Return what a model, if any, says that its network needs along each axis."""
    numbers: int | tuple[Any, ...] | None = getattr(model, name, None)
    return (numbers,) * dims if isinstance(numbers, int) else numbers


def tile_overlap(
    settings: Settings, extents: Sequence[Extent], model: Any, divisor: Sequence[int]
) -> tuple[int, ...]:
    """Return the overlap of tiles; warn if it is less than the model's network needs."""
    tile = settings.tile_size or settings.patch_size
    cut = np.max([extent.size for extent in extents], axis=0) > tile
    if settings.tile_size is None or not any(cut):
        return _wanted(settings, tile, None)
    reach = needs(model, "reach", len(tile))
    wanted = _wanted(settings, tile, reach)
    if any(cut & (np.array(reach or 0) == inf)):
        rank_zero_warn(
            "each pixel that this network restores depends on the whole image, by normalisation or "
            "attention, so that tiles can't give what whole images do. Set tile_size=null where "
            "images fit the memory, or else look for borders of tiles in the results."
        )
        return wanted
    needed = tuple(int(2 * r) if r < inf else 0 for r in reach or ()) or settings.tile_overlap
    _warn(tile, wanted, needed or (0,) * len(tile), divisor, cut, settings.tile_overlap)
    return wanted


def _wanted(
    settings: Settings, tile: Sequence[int], reach: Sequence[float] | None
) -> tuple[int, ...]:
    """Return the overlap for a network that sees so far to each side, unless the user gave one."""
    return settings.tile_overlap or tuple(
        min(48, size // 2) if r == inf else int(min(2 * r, size * 3 // 4))
        for r, size in zip(reach or (inf,) * len(tile), tile, strict=True)
    )


def _warn(
    tile: Sequence[int],
    wanted: Sequence[int],
    needed: Sequence[int],
    divisor: Sequence[int],
    cut: Any,
    given: Sequence[int] | None,
) -> None:
    """Warn of axes that are ``cut`` into tiles which overlap less than ``needed``."""
    if given and any(cut & (np.array(given) < needed)):
        rank_zero_warn(
            f"tile_overlap={given} is small for this network, which needs {needed}. {BORDERS} "
            "Leave it out, so that it follows from the network."
        )
        return
    # Tiles begin where the network's grid allows.
    columns = zip(wanted, tile, divisor, strict=True)
    possible = tuple(min(o, ceil(t / d - 1) * d) for o, t, d in columns)
    if any(cut & (np.array(possible) < needed)):
        rank_zero_warn(
            f"tile_size={tile} is small for this network: tiles overlap by {possible} pixels, but "
            f"should overlap by {needed}. {BORDERS} Use tiles of "
            f"{max(needed) * 4 // 3 + max(divisor)} pixels or more along long axes; they also take "
            "less time."
        )
