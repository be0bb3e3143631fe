"""What all pictures are made of: figures that need no display, and images.

Figures are made without ``pyplot``: nothing global changes, and any thread of a machine without a
display can draw.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

DPI = 150
RED = "#ff3b30"


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
    """Draw an image without ticks or frame; pixels of small images stay visible as squares."""
    smooth = "nearest" if max(image.shape) <= 256 else "auto"
    axes.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation=smooth)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


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
