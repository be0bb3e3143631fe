"""Pictures of a training: its losses, and the patches that it sees."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
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

LOSSES = {"training": ("train_loss", "#1f77b4"), "validation": ("val_loss", "#e8710a")}


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
        ``epoch``, ``train_loss`` and ``val_loss`` (or with the suffix ``_epoch``). Blanks are
        ignored, and several values of one epoch averaged.
    path : str or Path
        PNG to write; its folder is created if missing.
    unit : str
        What the loss measures: label of the vertical axis.

    Returns
    -------
    Figure
        The figure that was written.

    Raises
    ------
    ValueError
        If no row contains a loss.
    """
    if isinstance(source, (str, Path)):
        with Path(source).open(newline="", encoding="utf-8") as file:
            source = list(csv.DictReader(file))
    rows = list(source)
    curves = {name: _per_epoch(rows, column) for name, (column, _) in LOSSES.items()}
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        columns = sorted({column for row in rows for column in row})
        raise ValueError(f"no train_loss or val_loss to plot; the columns are {columns}")
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    for name, curve in curves.items():
        epochs, losses = list(curve), list(curve.values())
        marker = "o" if len(curve) < 20 else ""
        axes.plot(epochs, losses, marker=marker, ms=4, label=name, color=LOSSES[name][1])
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
    rgb: bool = False,
    title: str | None = None,
    pixel_size: tuple[float, str] | None = None,
) -> Figure:
    """Draw a contact sheet of patches: one labelled row per stage of their preparation.

    A row whose intensities mostly overlap with those of the row above shares its display range.

    Parameters
    ----------
    rows : mapping of str to ndarray
        Patches ``N Y X`` or ``N Z Y X`` (the middle Z is shown) by the name of the stage.
    path : str or Path
        PNG to write; its folder is created if missing.
    n : int
        The most patches per row.
    masks : ndarray of bool, optional
        Pixels to mark in red in the last row; shape of that row, without colours.
    rgb : bool
        Whether patches have red, green and blue as a last axis.
    title : str, optional
        A line above the figure.
    pixel_size : tuple of float and str, optional
        Along X, with its unit, for a scale bar in the first patch.

    Returns
    -------
    Figure
        The figure that was written.

    Raises
    ------
    ValueError
        If there are no patches, or a shape does not fit.
    """
    planes = {name: _planes(name, patches, n, rgb) for name, patches in rows.items()}
    count = max((len(row) for row in planes.values()), default=0)
    if count == 0:
        raise ValueError(f"no patches to plot in rows {list(rows)} with n={n}")
    last = list(rows)[-1]
    shape = rows[last].shape[: -1 if rgb else None]
    if masks is not None and masks.shape != shape:
        raise ValueError(f"masks have shape {masks.shape}, but the last row, {last!r}, has {shape}")
    figure = new_figure(1.3 * count + 1.0, 1.3 * len(rows) + (0.5 if title else 0.2), title)
    panels = figure.subplots(len(rows), count, squeeze=False)
    limits = display_range(next(iter(planes.values())))
    for line, (name, row) in zip(panels, planes.items(), strict=True):
        limits = range_within(row, limits, 0.5)
        for axes in line[len(row) :]:
            axes.set_axis_off()
        for axes, patch in zip(line, row, strict=False):
            draw(axes, patch, limits)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    if pixel_size is not None:
        draw_scale_bar(panels[0, 0], next(iter(planes.values()))[0].shape, *pixel_size)
    if masks is not None:
        for axes, mask in zip(panels[-1], _planes("masks", masks, n, rgb=False), strict=False):
            # Dots, because a single pixel of a patch would hardly be visible.
            y, x = np.nonzero(mask)
            axes.scatter(x, y, s=3, color=RED, linewidths=0)
    return save(figure, path)


def _planes(name: str, patches: NDArray[Any], n: int, rgb: bool) -> NDArray[Any]:
    dims = patches.ndim - rgb
    if dims not in (3, 4):
        raise ValueError(f"patches {name!r} have shape {patches.shape}; give N Y X or N Z Y X")
    return patches[:n] if dims == 3 else patches[:n, patches.shape[1] // 2]


def _per_epoch(rows: list[Mapping[str, object]], column: str) -> dict[int, float]:
    """Average a column, to whose name Lightning may add ``_epoch``, over each epoch."""
    if any(row.get(f"{column}_epoch") not in (None, "") for row in rows):
        column = f"{column}_epoch"
    found: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        value = row.get(column)
        if value not in (None, ""):
            found[int(float(str(row["epoch"])))].append(float(str(value)))
    return {epoch: float(np.mean(found[epoch])) for epoch in sorted(found)}
