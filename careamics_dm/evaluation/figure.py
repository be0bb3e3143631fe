"""What all pictures are made of: figures that need no display, images, enlarged parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

DPI = 150
ACCENT = "#ff3b30"
Box: TypeAlias = tuple[int, int, int, int]
"""``(y, x, height, width)`` in pixels."""


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """Make an empty figure, sizes in inches, that needs no display."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        # A $ in a file name does not start a formula.
        figure.suptitle(title, fontsize=13, fontweight="bold", parse_math=False)
    return figure


def save(figure: Figure, path: str | Path) -> Figure:
    """Write the figure as PNG, whatever the file's extension."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DPI)
    return figure


def show(axes: Axes, image: NDArray[Any], low: float, high: float) -> None:
    """Draw an image without ticks or frame; pixels of small images stay visible as squares."""
    smooth = "nearest" if max(image.shape) <= 256 else "auto"
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation=smooth)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def display_range(image: NDArray[Any]) -> tuple[float, float]:
    """Return the percentiles between which an image is shown; a few extreme pixels don't matter."""
    finite = image[np.isfinite(image)].astype(np.float64)
    low, high = np.percentile(finite, (0.5, 99.8)) if finite.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1)


def range_within(
    image: NDArray[Any], limits: tuple[float, float], overlap: float = 0.2
) -> tuple[float, float]:
    """Return ``limits``, or the image's own range where less than ``overlap`` is in common."""
    low, high = display_range(image)
    both = min(high, limits[1]) - max(low, limits[0])
    return limits if both > overlap * max(high - low, limits[1] - limits[0]) else (low, high)


def heights(shape: Sequence[int], box: Box) -> list[float]:
    """Return the heights of the panels of an image and of its zoom, in widths of a panel."""
    return [min(max(y / x, 0.3), 3) for y, x in (shape, box[2:])]


def show_with_zoom(
    panels: Iterable[Axes], image: NDArray[Any], box: Box, limits: tuple[float, float]
) -> None:
    """Draw an image in the first panel and a part of it in the second, framed in both."""
    whole, part = panels
    top, left, height, width = box
    show(whole, image, *limits)
    corner = (left - 0.5, top - 0.5)
    whole.add_patch(Rectangle(corner, width, height, fill=False, ec=ACCENT, lw=1.2))
    show(part, image[top : top + height, left : left + width], *limits)
    part.spines[:].set(visible=True, color=ACCENT, linewidth=1.2)


def detail(image: NDArray[Any]) -> Box:
    """Find the window, a quarter as high and wide, with the largest sum of differences."""
    pixels = np.nan_to_num(image.astype(np.float64))
    change = np.abs(np.diff(pixels, axis=0, append=pixels[-1:]))
    change += np.abs(np.diff(pixels, axis=1, append=pixels[:, -1:]))
    height, width = (max(1, size // 4) for size in image.shape)
    total = np.pad(change.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width]
    top, left = np.unravel_index(np.argmax(sums + total[:-height, :-width]), sums.shape)
    return int(top), int(left), height, width
