"""Comparisons of several images in one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from careamics_dm.panels import plot_comparison

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

CLEAN = np.add.outer(np.arange(60.0), np.arange(80.0))
NOISY = CLEAN + np.random.default_rng(0).normal(0, 10, CLEAN.shape)


def shown(figure: Figure) -> dict[str, AxesImage]:
    """Title and image of each panel with a whole image."""
    panels = [axes for axes in figure.axes if axes.images]
    return {axes.get_title(): axes.images[0] for axes in panels if axes.get_title()}


def test_range_and_zoom_are_those_of_the_truth(tmp_path: Path) -> None:
    scene = {"noisy": NOISY, "0": CLEAN + 1, "1": CLEAN - 40, "clean": CLEAN}
    titles = {"0": "lr=1", "1": "lr=2"}
    figure = plot_comparison([scene], tmp_path / "new" / "a.png", titles=titles)
    images = shown(figure)
    assert list(images) == ["noisy", "lr=1", "lr=2", "clean"]
    assert {image.get_clim() for image in images.values()} == {images["clean"].get_clim()}
    corners = {axes.patches[0].get_bbox().bounds for axes in figure.axes if axes.patches}
    assert len(corners) == 1
    assert (tmp_path / "new" / "a.png").stat().st_size > 0


def test_an_image_in_another_unit_has_its_own_range(tmp_path: Path) -> None:
    scene = {"noisy": NOISY * 1000 + 1e6, "denoised": CLEAN + 1, "target": CLEAN}
    images = shown(plot_comparison([scene], tmp_path / "a.png", reference="target"))
    assert images["denoised"].get_clim() == images["target"].get_clim()
    assert images["noisy"].get_clim()[0] > 9e5


def test_a_flat_result_is_shown_flat(tmp_path: Path) -> None:
    """Of a network that has learned little yet; a range of its own would hide that."""
    scene = {"noisy": NOISY, "denoised": 70 + CLEAN / 100, "target": CLEAN}
    images = shown(plot_comparison([scene], tmp_path / "a.png", reference="target"))
    assert len({image.get_clim() for image in images.values()}) == 1


def test_without_truth_one_bad_job_does_not_decide(tmp_path: Path) -> None:
    scene = {"noisy": NOISY, "0": CLEAN, "1": CLEAN, "2": np.zeros_like(CLEAN)}
    images = shown(plot_comparison([scene], tmp_path / "a.png"))
    low, high = images["1"].get_clim()
    assert CLEAN.min() <= low < high <= CLEAN.max()


def test_scenes_have_their_own_rows_ranges_and_sizes(tmp_path: Path) -> None:
    scenes = [{"noisy": NOISY, "0": CLEAN}, {"noisy": NOISY[:20] * 9, "1": CLEAN[:20] * 9}]
    figure = plot_comparison(scenes, tmp_path / "a.png")
    shapes = [axes.images[0].get_array().shape for axes in figure.axes if axes.get_title()]
    assert shapes == [(60, 80), (60, 80), (20, 80), (20, 80)]


def test_many_jobs_take_several_rows(tmp_path: Path) -> None:
    scene = {str(i): CLEAN + i for i in range(9)}
    figure = plot_comparison([scene], tmp_path / "a.png")
    assert sum(bool(axes.get_title()) for axes in figure.axes) == 9
    assert figure.get_size_inches()[0] < 14


def test_a_name_above_a_panel_is_no_formula(tmp_path: Path) -> None:
    title = r"train_data=$\foo$^$.tif"
    assert title in shown(plot_comparison([{"0": CLEAN}], tmp_path / "a.png", titles={"0": title}))


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image"):
        plot_comparison([], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"\(60, 80\).*\(60, 79\)"):
        plot_comparison([{"a": CLEAN, "b": CLEAN[:, 1:]}], tmp_path / "a.png")
