"""Pictures for people: before and after, losses, patches.

Every function writes a PNG and returns its figure. Figures are made without ``pyplot``, so
that nothing global changes and any thread of a machine without a display can draw.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from careamics_dm.drawing import (
    ACCENT,
    detail,
    display_range,
    heights,
    new_figure,
    range_within,
    save,
    show,
    show_with_zoom,
)
from careamics_dm.metrics import psnr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

LOSSES = {"training": ("train_loss", "#1f77b4"), "validation": ("val_loss", "#e8710a")}


def middle_plane(image: NDArray[Any], axes: str) -> NDArray[Any]:
    """Pick the plane of an image to look at: the middle Z, the first sample, time and channel.

    Parameters
    ----------
    image : ndarray
        Image or stack; anything with ``shape`` that takes a tuple of indices.
    axes : str
        A letter of ``STCZYX`` for each dimension, in the order of the array.

    Returns
    -------
    ndarray
        ``Y X``, dtype of ``image``.

    Raises
    ------
    ValueError
        If ``axes`` does not describe the image or lacks Y or X.
    """
    known = set(axes) <= set("STCZYX") and len(set(axes)) == len(axes)
    if not known or not {"Y", "X"} <= set(axes) or len(axes) != len(image.shape):
        raise ValueError(
            f"axes {axes!r} do not describe an image of shape {tuple(image.shape)}: "
            "give one letter of STCZYX per dimension, Y and X among them"
        )
    index: list[int | slice] = [slice(None) if axis in "YX" else 0 for axis in axes]
    if "Z" in axes:
        index[axes.index("Z")] = image.shape[axes.index("Z")] // 2
    plane = image[tuple(index)]
    return np.asarray(plane if axes.index("Y") < axes.index("X") else plane.T)


def plot_denoised(
    noisy: NDArray[Any],
    denoised: NDArray[Any],
    path: str | Path,
    clean: NDArray[Any] | None = None,
    *,
    zoom: tuple[int, int, int, int] | None = None,
    title: str | None = None,
) -> Figure:
    """Show an image before and after denoising, and a zoom of each, in one display range.

    But for the noisy image, where its intensities hardly overlap with the rest: as with a model
    whose targets are in another unit, or one that has learned nothing yet.

    Parameters
    ----------
    noisy, denoised : ndarray
        ``Y X``, same shape and unit; see `middle_plane` for stacks.
    path : str or Path
        PNG to write; its folder is made if missing.
    clean : ndarray, optional
        The truth, ``Y X``: shown too, and the titles then give the PSNR in dB.
    zoom : tuple of int, optional
        ``(y, x, height, width)`` in pixels of the part to enlarge; by default the quarter
        (in height and width) of the denoised image with the most detail.
    title : str, optional
        A line above the figure.

    Returns
    -------
    Figure
        The figure that was written.

    Raises
    ------
    ValueError
        If the shapes are not the same two dimensions, or the zoom lies outside the image.
    """
    images = {"noisy": noisy, "denoised": denoised} | ({} if clean is None else {"clean": clean})
    shapes = {name: image.shape for name, image in images.items()}
    if len(set(shapes.values())) > 1 or noisy.ndim != 2 or noisy.size == 0:
        raise ValueError(f"images must be Y X planes of one shape, not {shapes}")
    box = zoom or detail(denoised)
    top, left, height, width = box
    rows, columns = noisy.shape
    inside = 0 <= top <= rows - height and 0 <= left <= columns - width
    if min(height, width) < 1 or not inside:
        raise ValueError(f"zoom {zoom} lies outside the image of shape {noisy.shape}")
    limits = display_range(denoised if clean is None else clean)
    tall = heights(noisy.shape, box)
    figure = new_figure(3.4 * len(images), 3.4 * sum(tall) + 0.5, title)
    panels = figure.subplots(2, len(images), squeeze=False, height_ratios=tall)
    for column, (name, image) in enumerate(images.items()):
        label = name
        if clean is not None and image is not clean:
            label = f"{name} {psnr(clean, image):.1f} dB"
        shown = range_within(image, limits) if name == "noisy" else limits
        show_with_zoom(panels[:, column], image, box, shown)
        panels[0, column].set_title(label)
    return save(figure, path)


def plot_losses(
    source: str | Path | Iterable[Mapping[str, object]],
    path: str | Path,
    *,
    unit: str = "of normalised images",
) -> Figure:
    """Draw training and validation loss against the epoch.

    Parameters
    ----------
    source : str, Path or rows
        ``metrics.csv`` of Lightning's ``CSVLogger`` or its rows as mappings, with columns
        ``epoch``, ``train_loss`` and ``val_loss`` (or with the suffix ``_epoch``); blanks are
        passed over and several values of an epoch averaged.
    path : str or Path
        PNG to write; its folder is made if missing.
    unit : str
        What the loss measures: label of the vertical axis.

    Returns
    -------
    Figure
        The figure that was written.

    Raises
    ------
    ValueError
        If no row holds a loss.
    """
    rows = _read(source) if isinstance(source, (str, Path)) else list(source)
    curves = {name: _per_epoch(rows, column) for name, (column, _) in LOSSES.items()}
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        columns = sorted({column for row in rows for column in row})
        raise ValueError(f"no train_loss or val_loss per epoch; columns are {columns}")
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    for name, curve in curves.items():
        marker = "o" if len(curve) < 20 else ""
        axes.plot(
            list(curve),
            list(curve.values()),
            marker=marker,
            ms=4,
            label=name,
            color=LOSSES[name][1],
        )
    values = np.array([value for curve in curves.values() for value in curve.values()])
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="epoch", ylabel=f"loss ({unit})")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False)
    return save(figure, path)


def plot_patches(
    rows: Mapping[str, NDArray[Any]],
    path: str | Path,
    n: int = 8,
    *,
    masks: NDArray[np.bool_] | None = None,
) -> Figure:
    """Draw a contact sheet of patches: one labelled row per stage of their preparation.

    Rows whose intensities mostly overlap are in the same unit and share a display range.

    Parameters
    ----------
    rows : mapping of str to ndarray
        Patches ``N Y X`` or ``N Z Y X`` (the middle Z is shown) under the name of the stage.
    path : str or Path
        PNG to write; its folder is made if missing.
    n : int
        Patches to show, at most.
    masks : ndarray of bool, optional
        Pixels to mark in red in the last row; shape of that row.

    Returns
    -------
    Figure
        The figure that was written.

    Raises
    ------
    ValueError
        If there is nothing to show, or a shape does not fit.
    """
    planes = {name: _planes(name, patches, n) for name, patches in rows.items()}
    count = max((len(row) for row in planes.values()), default=0)
    if count == 0:
        raise ValueError(f"no patches to plot in rows {list(rows)} with n={n}")
    last = list(rows)[-1]
    if masks is not None and masks.shape != rows[last].shape:
        raise ValueError(f"masks have shape {masks.shape} but row {last!r} {rows[last].shape}")
    figure = new_figure(1.3 * count + 1.0, 1.3 * len(rows) + 0.2)
    panels = figure.subplots(len(rows), count, squeeze=False)
    limits = (0.0, 0.0)
    for line, (name, row) in zip(panels, planes.items(), strict=True):
        limits = _shared(limits, display_range(row))
        for axes in line[len(row) :]:
            axes.set_axis_off()
        for axes, patch in zip(line, row, strict=False):
            show(axes, patch, *limits)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    if masks is not None:
        for axes, mask in zip(panels[-1], _planes("masks", masks, n), strict=False):
            # Dots rather than pixels: one pixel of a patch would hardly be seen.
            y, x = np.nonzero(mask)
            axes.scatter(x, y, s=3, color=ACCENT, linewidths=0)
    return save(figure, path)


def _shared(before: tuple[float, float], now: tuple[float, float]) -> tuple[float, float]:
    """Give the range of the row before where the two overlap by more than half."""
    both = min(before[1], now[1]) - max(before[0], now[0])
    either = max(before[1], now[1]) - min(before[0], now[0])
    return before if both > 0.5 * either else now


def _planes(name: str, patches: NDArray[Any], n: int) -> NDArray[Any]:
    """At most ``n`` patches as ``N Y X``."""
    if patches.ndim not in (3, 4):
        raise ValueError(f"{name!r} has shape {patches.shape}; must be N Y X or N Z Y X")
    return patches[:n] if patches.ndim == 3 else patches[:n, patches.shape[1] // 2]


def _read(path: str | Path) -> list[Mapping[str, object]]:
    """Rows of a CSV file with a header."""
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def _per_epoch(rows: list[Mapping[str, object]], column: str) -> dict[int, float]:
    """Mean of what a column holds in each epoch; Lightning may add ``_epoch`` to its name."""
    if any(row.get(f"{column}_epoch") not in (None, "") for row in rows):
        column = f"{column}_epoch"
    found: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        value = row.get(column)
        if value not in (None, ""):
            found[int(float(str(row["epoch"])))].append(float(str(value)))
    return {epoch: float(np.mean(found[epoch])) for epoch in sorted(found)}
