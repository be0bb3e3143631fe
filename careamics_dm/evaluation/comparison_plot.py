"""Pictures that compare restored images, side by side."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from careamics_dm.evaluation.figure import (
    RED,
    display_range,
    draw,
    draw_scale_bar,
    new_figure,
    range_within,
    save,
)
from careamics_dm.evaluation.metrics import psnr

Box = tuple[int, int, int, int]  # y, x, height, width in pixels
Scene = Mapping[str, NDArray[Any]]

COLUMNS = 4
"""The most panels in one row."""


def plot_denoised(
    noisy: NDArray[Any],
    denoised: NDArray[Any],
    path: str | Path,
    clean: NDArray[Any] | None = None,
    *,
    zoom: Box | None = None,
    title: str | None = None,
    pixel_size: tuple[float, str] | None = None,
) -> Figure:
    """Draw an image before and after denoising, each with an enlarged part below it.

    Parameters
    ----------
    noisy, denoised : ndarray
        ``Y X``, or ``Y X 3`` of RGB; same shape and unit.
    path : str or Path
        PNG to write; its folder is created if missing.
    clean : ndarray, optional
        The ground truth: drawn as well, and the titles then give the PSNR in dB.
    zoom : tuple of int, optional
        ``(y, x, height, width)`` in pixels of the part to enlarge; by default the quarter (in
        height and width) with the most detail.
    title : str, optional
        A line above the figure.
    pixel_size : tuple of float and str, optional
        Along X, with its unit, for a scale bar.

    Returns
    -------
    Figure
        The figure that was written.

    Raises
    ------
    ValueError
        If the images are not planes of one shape, or the zoom lies outside them.
    """
    scene = {"noisy": noisy, "denoised": denoised}
    titles = {}
    if clean is not None:
        titles = {name: f"{name} {psnr(clean, image):.1f} dB" for name, image in scene.items()}
        scene["clean"] = clean
    how: Any = {"titles": titles, "zoom": zoom, "title": title, "pixel_size": pixel_size}
    return plot_comparison([scene], path, **how)


def plot_comparison(
    scenes: Sequence[Scene],
    path: str | Path,
    *,
    reference: str = "clean",
    titles: Mapping[str, str] | None = None,
    zoom: Box | None = None,
    title: str | None = None,
    pixel_size: tuple[float, str] | None = None,
) -> Figure:
    """Draw several versions of an image as `plot_denoised` does, and of others on further rows.

    A scene is the versions of one image by name; ``titles`` are those of panels, by name.
    All panels of a scene enlarge the same part and share one display range, which the ``reference``
    determines, or else the median of all images except "noisy". Only "noisy" gets a range of its
    own where its intensities hardly overlap with the others, as in another unit.
    """
    if not scenes or not all(scenes):
        raise ValueError("there is no image to compare")
    columns = min(COLUMNS, max(map(len, scenes)))
    rows: list[tuple[Scene, list[str], Box, tuple[float, float]]] = []
    for scene in scenes:
        _check(scene, zoom)
        typical, names = _typical(scene, reference), list(scene)
        box, limits = zoom or _detail(typical), _range(scene, typical)
        rows += [
            (scene, names[i : i + columns], box, limits) for i in range(0, len(names), columns)
        ]
    tall = [height for scene, names, box, _ in rows for height in _heights(scene[names[0]], box)]
    figure = new_figure(3.2 * columns, 3.2 * sum(tall) + 0.4 * len(rows), title)
    panels = figure.subplots(2 * len(rows), columns, squeeze=False, height_ratios=tall)
    for row, (scene, names, box, limits) in enumerate(rows):
        for pair, name in zip(panels[2 * row : 2 * row + 2].T, names, strict=False):
            own = range_within(scene[name], limits) if name == "noisy" else limits
            _draw_with_zoom(pair, scene[name], box, own)
            if pixel_size is not None and pair[0] is panels[0, 0]:
                draw_scale_bar(pair[0], scene[name].shape, *pixel_size)
            pair[0].set_title((titles or {}).get(name, name), fontsize=10, parse_math=False)
        for axes in panels[2 * row : 2 * row + 2, len(names) :].flat:
            axes.set_axis_off()
    return save(figure, path)


def _check(scene: Scene, zoom: Box | None) -> None:
    shapes = {name: image.shape for name, image in scene.items()}
    shape = next(iter(shapes.values()))
    is_plane = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    if set(shapes.values()) != {shape} or not is_plane or 0 in shape:
        raise ValueError(f"images must be Y X (or Y X 3) planes of one shape, not {shapes}")
    if zoom is not None:
        top, left, height, width = zoom
        inside = 0 <= top <= shape[0] - height and 0 <= left <= shape[1] - width
        if min(height, width) < 1 or not inside:
            raise ValueError(f"zoom {zoom} lies outside the image of shape {shape}")


def _range(scene: Scene, typical: NDArray[Any]) -> tuple[float, float]:
    """Return the range of the typical image, but at least half that of the noisy one around it.

    Networks that have learned next to nothing give flat images. In the range of one of those, the
    others would be white or black.
    """
    low, high = display_range(typical)
    least = 0.0
    if "noisy" in scene:
        darkest, brightest = display_range(scene["noisy"])
        if darkest <= (low + high) / 2 <= brightest:  # else it is in another unit
            least = (brightest - darkest) / 2
    more = max(least - (high - low), 0) / 2
    return low - more, high + more


def _typical(scene: Scene, reference: str) -> NDArray[Any]:
    """Choose the image whose intensities and details stand for the whole scene."""
    if reference in scene:
        return scene[reference]
    restored = [image for name, image in scene.items() if name != "noisy"]
    return np.asarray(np.median(restored or list(scene.values()), axis=0))


def _heights(image: NDArray[Any], box: Box) -> list[float]:
    """Return the heights of the panels of an image and of its zoom, in widths of a panel."""
    return [min(max(y / x, 0.3), 3) for y, x in (image.shape[:2], box[2:])]


def _draw_with_zoom(
    panels: Iterable[Axes], image: NDArray[Any], box: Box, limits: tuple[float, float]
) -> None:
    """Draw an image in the first panel and a part of it in the second, framed in both."""
    whole, part = panels
    top, left, height, width = box
    draw(whole, image, limits)
    corner = (left - 0.5, top - 0.5)
    whole.add_patch(Rectangle(corner, width, height, fill=False, ec=RED, lw=1.2))
    draw(part, image[top : top + height, left : left + width], limits)
    part.spines[:].set(visible=True, color=RED, linewidth=1.2)


def _detail(image: NDArray[Any]) -> Box:
    """Find the window, a quarter as high and wide, with the largest sum of differences."""
    pixels = np.nan_to_num(image.astype(np.float64))
    change = np.abs(np.diff(pixels, axis=0, append=pixels[-1:]))
    change += np.abs(np.diff(pixels, axis=1, append=pixels[:, -1:]))
    change = change.reshape(*image.shape[:2], -1).sum(axis=2)  # of all colours
    height, width = (max(1, size // 4) for size in image.shape[:2])
    total = np.pad(change.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width]
    top, left = np.unravel_index(np.argmax(sums + total[:-height, :-width]), sums.shape)
    return int(top), int(left), height, width
