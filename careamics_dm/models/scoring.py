"""Scores of validation and test, counted by each process and brought together."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import torch.distributed as dist

from careamics_dm.metrics import Scores

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

T = TypeVar("T")
Place: TypeAlias = tuple[int, tuple[slice, ...]]
"""Of a tile: the image's number, and slices of (Z), Y, X that the tile keeps, in its pixels."""


def gather(part: T) -> list[T]:
    """Return what each process of a run has, on all of them, in the order of ranks.

    All of them must call it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [part]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return cast("list[T]", parts)


def merged(parts: Iterable[Mapping[int, Scores]]) -> dict[int, Scores]:
    """Merge the scores of each key, such as an image's number, into new ones; keys in order."""
    found: dict[int, Scores] = {}
    for part in parts:
        for key, scores in part.items():
            found.setdefault(key, Scores(scores.n_channels)).merge(scores)
    return dict(sorted(found.items()))


def add_tiles(
    scores: dict[int, Scores], target: Tensor, image: Tensor, places: Sequence[Place]
) -> None:
    """Count what each tile keeps to the scores of its image.

    Parameters
    ----------
    scores : dict of int to Scores
        Per image; images not seen before are added.
    target : Tensor
        ``(N, C, (Z), Y, X)``, in the units of the data.
    image : Tensor
        What is compared with it: the same shape and units.
    places : sequence of Place
        One per tile.
    """
    for tile, (key, inner) in enumerate(places):
        kept = (slice(tile, tile + 1), slice(None), *inner)
        scores.setdefault(key, Scores(target.shape[1])).add(target[kept], image[kept])


def places_of(region: Tensor) -> list[Place]:
    """Read image and kept pixels of each tile.

    Parameters
    ----------
    region : Tensor
        int64 ``(N, 2 + 3 D)``: image, sample, tile start, crop start, crop stop; in pixels of the
        image.

    Returns
    -------
    list of Place
        One per tile.
    """
    places = []
    for image, _, *rest in region.tolist():
        dims = len(rest) // 3
        start, first, stop = (rest[k * dims : (k + 1) * dims] for k in range(3))
        inner = tuple(slice(a - s, b - s) for s, a, b in zip(start, first, stop, strict=True))
        places.append((image, inner))
    return places


def mean_over_images(scores: Mapping[int, Scores]) -> dict[str, float]:
    """Average each score over the channels of each image, then over images; empty for none.

    Channels whose target is constant have no score and are left out.
    """
    found: dict[str, list[float]] = {}
    for image in scores.values():
        scored = [c for c, constant in enumerate(image.constant) if not constant]
        for name, values in image.as_dict().items():
            means = found.setdefault(name, [])
            if scored:
                means.append(sum(values[c] for c in scored) / len(scored))
    return {name: sum(means) / len(means) if means else nan for name, means in found.items()}
