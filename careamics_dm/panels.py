"""Pictures that compare: what models made of an image, beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.drawing import (
    detail,
    display_range,
    heights,
    new_figure,
    range_within,
    save,
    show_with_zoom,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Scene = Mapping[str, NDArray[Any]]

ROW = 4
"""Panels beside each other, at most."""


def plot_comparison(
    scenes: Sequence[Scene],
    path: str | Path,
    *,
    reference: str | None = None,
    titles: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Figure:
    """Show what several models made of the same images, each whole and a zoom below.

    Within a scene all panels show the same zoom and have one display range, but for "noisy" where
    that is in another unit than the rest (its intensities hardly overlap): it then has its own.

    Parameters
    ----------
    scenes : sequence of mapping of str to ndarray
        For each scene its images by name, ``Y X``, same shape, in the order of the panels. A
        scene starts on a new row.
    path : str or Path
        PNG to write; its folder is made if missing.
    reference : str, optional
        Name of the image that decides on range and zoom; by default "clean", or else the median
        of all but "noisy".
    titles : mapping of str to str, optional
        What to write above the panel of that name, rather than the name.
    title : str, optional
        A line above the figure.

    Returns
    -------
    Figure
        The figure that was written.

    Raises
    ------
    ValueError
        If there is nothing to show, or images of a scene are not planes of one shape.
    """
    _check(scenes)
    typical = [_typical(scene, reference) for scene in scenes]
    boxes = [detail(image) for image in typical]
    limits = [_range(scene, image) for scene, image in zip(scenes, typical, strict=True)]
    columns = min(ROW, max(map(len, scenes)))
    lines = [
        (i, list(scene)[start : start + columns])
        for i, scene in enumerate(scenes)
        for start in range(0, len(scene), columns)
    ]
    tall = [height for i, _ in lines for height in heights(typical[i].shape, boxes[i])]
    figure = new_figure(3.2 * columns, 3.2 * sum(tall) + 0.4 * len(lines), title)
    panels = figure.subplots(2 * len(lines), columns, squeeze=False, height_ratios=tall)
    for line, (i, names) in enumerate(lines):
        for pair, name in zip(panels[2 * line : 2 * line + 2].T, names, strict=False):
            image = scenes[i][name]
            shown = range_within(image, limits[i]) if name == "noisy" else limits[i]
            show_with_zoom(pair, image, boxes[i], shown)
            label = (titles or {}).get(name, name)
            pair[0].set_title(label, fontsize=10, parse_math=False)
        for axes in panels[2 * line : 2 * line + 2, len(names) :].flat:
            axes.set_axis_off()
    return save(figure, path)


def _check(scenes: Sequence[Scene]) -> None:
    if not scenes or not all(scenes):
        raise ValueError("there is no image to compare")
    for scene in scenes:
        shapes = {name: image.shape for name, image in scene.items()}
        first = next(iter(shapes.values()))
        if set(shapes.values()) != {first} or len(first) != 2 or 0 in first:
            raise ValueError(f"images must be Y X planes of one shape, not {shapes}")


def _range(scene: Scene, typical: NDArray[Any]) -> tuple[float, float]:
    """Range of the typical image, but of half the noisy one at least.

    Where networks have learned next to nothing their results are flat, and in the range of one of
    them the others would be white or black.
    """
    low, high = display_range(typical)
    least = np.ptp(display_range(scene["noisy"])) / 2 if "noisy" in scene else 0.0
    more = max(least - (high - low), 0) / 2
    return low - more, high + more


def _typical(scene: Scene, reference: str | None) -> NDArray[Any]:
    """Choose the image whose intensities and details stand for all."""
    if (reference or "clean") in scene:
        return scene[reference or "clean"]
    restored = [image for name, image in scene.items() if name != "noisy"]
    return np.asarray(np.median(restored or list(scene.values()), axis=0))
