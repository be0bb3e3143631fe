"""Pictures that compare restored images, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.evaluation.figure import (
    detail,
    display_range,
    heights,
    new_figure,
    range_within,
    save,
    show_with_zoom,
)
from careamics_dm.evaluation.metrics import psnr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from careamics_dm.evaluation.figure import Box

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
) -> Figure:
    """Show an image before and after denoising as `plot_comparison` does.

    Parameters
    ----------
    noisy, denoised : ndarray
        ``Y X``, same shape and unit.
    path : str or Path
        PNG to write; its folder is created if missing.
    clean : ndarray, optional
        The ground truth, ``Y X``: shown as well, and the titles then give the PSNR in dB.
    zoom, title
        See `plot_comparison`.

    Returns
    -------
    Figure
        The figure that was written.

    Raises
    ------
    ValueError
        See `plot_comparison`.
    """
    scene = {"noisy": noisy, "denoised": denoised}
    titles = {}
    if clean is not None:
        titles = {name: f"{name} {psnr(clean, image):.1f} dB" for name, image in scene.items()}
        scene["clean"] = clean
    return plot_comparison([scene], path, titles=titles, zoom=zoom, title=title)


def plot_comparison(
    scenes: Sequence[Scene],
    path: str | Path,
    *,
    reference: str | None = None,
    titles: Mapping[str, str] | None = None,
    zoom: Box | None = None,
    title: str | None = None,
) -> Figure:
    """Show several versions of the same image, each with an enlarged part below it.

    All panels of a scene enlarge the same part and share one display range. Only "noisy" gets a
    range of its own where its intensities hardly overlap with the others, as in another unit.

    Parameters
    ----------
    scenes : sequence of mapping of str to ndarray
        For each scene its images by name, ``Y X``, same shape, in the order of the panels. Each
        scene starts on a new row.
    path : str or Path
        PNG to write; its folder is created if missing.
    reference : str, optional
        Name of the image that determines range and zoom; by default "clean", or else the median
        of all images except "noisy".
    titles : mapping of str to str, optional
        Titles of the panels by name; by default the name.
    zoom : tuple of int, optional
        ``(y, x, height, width)`` in pixels of the part to enlarge; by default the quarter (in
        height and width) with the most detail.
    title : str, optional
        A line above the figure.

    Returns
    -------
    Figure
        The figure that was written.

    Raises
    ------
    ValueError
        If there is nothing to show, images of a scene are not planes of one shape, or the zoom
        lies outside an image.
    """
    for scene in scenes:
        _check(scene, zoom)
    if not scenes:
        raise ValueError("there is no image to compare")
    typical = [_typical(scene, reference) for scene in scenes]
    boxes = [zoom or detail(image) for image in typical]
    limits = [_range(scene, image) for scene, image in zip(scenes, typical, strict=True)]
    columns = min(COLUMNS, max(map(len, scenes)))
    rows = [
        (i, list(scene)[start : start + columns])
        for i, scene in enumerate(scenes)
        for start in range(0, len(scene), columns)
    ]
    tall = [height for i, _ in rows for height in heights(typical[i].shape, boxes[i])]
    figure = new_figure(3.2 * columns, 3.2 * sum(tall) + 0.4 * len(rows), title)
    panels = figure.subplots(2 * len(rows), columns, squeeze=False, height_ratios=tall)
    for row, (i, names) in enumerate(rows):
        for pair, name in zip(panels[2 * row : 2 * row + 2].T, names, strict=False):
            image = scenes[i][name]
            shown = range_within(image, limits[i]) if name == "noisy" else limits[i]
            show_with_zoom(pair, image, boxes[i], shown)
            pair[0].set_title((titles or {}).get(name, name), fontsize=10, parse_math=False)
        for axes in panels[2 * row : 2 * row + 2, len(names) :].flat:
            axes.set_axis_off()
    return save(figure, path)


def _check(scene: Scene, zoom: Box | None) -> None:
    if not scene:
        raise ValueError("there is no image to compare")
    shapes = {name: image.shape for name, image in scene.items()}
    shape = next(iter(shapes.values()))
    if set(shapes.values()) != {shape} or len(shape) != 2 or 0 in shape:
        raise ValueError(f"images must be Y X planes of one shape, not {shapes}")
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


def _typical(scene: Scene, reference: str | None) -> NDArray[Any]:
    """Choose the image whose intensities and details stand for the whole scene."""
    if (reference or "clean") in scene:
        return scene[reference or "clean"]
    restored = [image for name, image in scene.items() if name != "noisy"]
    return np.asarray(np.median(restored or list(scene.values()), axis=0))
