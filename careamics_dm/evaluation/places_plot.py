"""Pictures of places in images, each before and after denoising."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from careamics_dm.evaluation.figure import (
    display_range,
    draw,
    draw_scale_bar,
    new_figure,
    range_within,
    save,
)


@dataclass(frozen=True)
class Place:
    """A part of an image plane, before and after denoising."""

    noisy: NDArray[Any]
    """``Y X``, or ``Y X 3`` of RGB."""
    denoised: NDArray[Any]
    """The same part."""
    label: str
    """Where it is, such as "Z 3, T 12"; may be empty."""
    pixel_size: tuple[float, str] | None = None
    """Along X, with its unit."""


def plot_places(images: Mapping[str, Sequence[Place]], path: str | Path) -> Figure:
    """Draw places in images: a row for each image, each place before and after denoising.

    Both have the same display range, that of the noisy one, unless the denoised one is in another
    unit. A scale bar is drawn where the pixel size is known.

    Parameters
    ----------
    images : mapping of str to sequence of Place
        Places by the name of the image.
    path : str or Path
        PNG to write; its folder is created if missing.

    Returns
    -------
    Figure
        The figure that was written.

    Raises
    ------
    ValueError
        If there is no place.
    """
    rows = {name: places for name, places in images.items() if places}
    if not rows:
        raise ValueError("there is no place to draw")
    n_columns = max(map(len, rows.values()))
    tall = [
        max(min(max(y / x, 0.3), 3) for y, x in (place.noisy.shape[:2] for place in places))
        for places in rows.values()
    ]
    figure = new_figure(4.2 * n_columns, 2.1 * sum(tall) + 0.6 * len(rows))
    bands = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=[t + 0.3 for t in tall])
    for (name, places), band in zip(rows.items(), bands[:, 0], strict=True):
        band.suptitle(name, fontsize=10, fontweight="bold", parse_math=False)
        panels = band.subplots(1, 2 * n_columns, squeeze=False)[0]
        for axes in panels[2 * len(places) :]:
            axes.set_axis_off()
        for place, before, after in zip(places, panels[::2], panels[1::2], strict=False):
            limits = display_range(place.noisy)
            draw(before, place.noisy, limits)
            draw(after, place.denoised, range_within(place.denoised, limits))
            before.set_title(place.label or "noisy", fontsize=8, parse_math=False)
            after.set_title("denoised", fontsize=8)
            if place.pixel_size is not None:
                draw_scale_bar(before, place.noisy.shape, *place.pixel_size)
    return save(figure, path)
