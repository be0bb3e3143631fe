"""What all pictures are made of: figures that need no display, and images.

Figures are made without ``pyplot``: nothing global changes, and any thread of a machine without a
display can draw.
"""

from math import floor, log10
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

DPI = 150
RED = "#ff3b30"
BAR = 0.3
"""The longest scale bar, in widths of a panel."""


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """Make an empty figure, sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    if title:
        # A $ in a file name does not start a formula.
        figure.suptitle(title, fontsize=13, fontweight="bold", parse_math=False)
    return figure


def save(figure: Figure, path: str | Path) -> Figure:
    """Write the figure as PNG, whatever the file's extension, into a folder that may be new."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DPI)
    return figure


def draw(axes: Axes, image: NDArray[Any], limits: tuple[float, float]) -> None:
    """Draw an image without ticks or frame; pixels of small images stay visible as squares.

    It is ``Y X``, or ``Y X 3`` of RGB, whose colours share the range.
    """
    smooth = "nearest" if max(image.shape) <= 256 else "auto"
    if image.ndim == 3:
        low, high = limits
        image = np.clip((np.nan_to_num(image) - low) / (high - low), 0, 1)
    axes.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation=smooth)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw_scale_bar(axes: Axes, shape: tuple[int, ...], size: float, unit: str) -> None:
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


def display_range(image: NDArray[Any]) -> tuple[float, float]:
    """Return the intensities drawn as black and white: percentiles, against extreme pixels."""
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
