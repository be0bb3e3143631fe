"""Pictures of places in images, each before and after denoising."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from careamics_dm.evaluation.figure import display_range, draw, new_figure, range_within, save

BAR = 0.3
"""The longest scale bar, in widths of a panel."""


@dataclass(frozen=True)
class Place:
    """A part of an image plane, before and after denoising."""

    noisy: NDArray[Any]
    """``Y X``."""
    denoised: NDArray[Any]
    """``Y X``, the same part."""
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
        max(min(max(y / x, 0.3), 3) for y, x in (place.noisy.shape for place in places))
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
                _draw_bar(before, place.noisy.shape, *place.pixel_size)
    return save(figure, path)


def _draw_bar(axes: Axes, shape: tuple[int, ...], size: float, unit: str) -> None:
    """Draw a scale bar whose length is 1, 2 or 5 times a power of ten."""
    longest = BAR * shape[1] * size
    power = 10.0 ** floor(log10(longest))
    length = max(n * power for n in (1, 2, 5) if n * power <= longest)
    width, height = length / size, max(shape[0] / 50, 1)
    left, top = 0.95 * shape[1] - width, 0.95 * shape[0] - height
    axes.add_patch(Rectangle((left, top), width, height, fc="white", ec="black", lw=0.5))
    text = axes.text(left + width / 2, top - height, f"{length:g} {unit}", fontsize=7)
    text.set(color="white", ha="center", va="bottom", parse_math=False)
    text.set_bbox({"facecolor": "black", "alpha": 0.4, "pad": 1, "linewidth": 0})
