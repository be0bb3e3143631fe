"""Comparisons of several images in one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib.image import imread

from careamics_dm.evaluation.comparison_plot import plot_comparison, plot_denoised
from careamics_dm.evaluation.metrics import psnr
from careamics_dm.evaluation.planes import middle_plane

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

CLEAN = np.add.outer(np.arange(60.0), np.arange(80.0))
RNG = np.random.default_rng(0)
NOISY = CLEAN + RNG.normal(0, 10, CLEAN.shape)
DENOISED = CLEAN + RNG.normal(0, 3, CLEAN.shape)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def assert_picture(path: Path) -> None:
    """Has the size of a picture, and many colours in it."""
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 100
    assert len(np.unique(pixels[..., 0])) > 20


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


def test_the_middle_plane_is_that_of_the_first_channel() -> None:
    volume = np.arange(2 * 5 * 3 * 4).reshape(2, 5, 3, 4)
    np.testing.assert_array_equal(middle_plane(volume), volume[0, 2])
    np.testing.assert_array_equal(middle_plane(volume[:, 1]), volume[0, 1])


# --------------------------------------------------------------------------- plot_denoised


def test_denoised_with_truth_gives_decibels(tmp_path: Path) -> None:
    path = tmp_path / "new" / "denoised.png"
    figure = plot_denoised(NOISY, DENOISED, path, CLEAN, title="nuclei")
    before, after = psnr(CLEAN, NOISY), psnr(CLEAN, DENOISED)
    assert titles(figure) == [f"noisy {before:.1f} dB", f"denoised {after:.1f} dB", "clean"]
    assert figure.get_suptitle() == "nuclei"
    assert len(figure.axes) == 6
    assert_picture(path)


def test_denoised_without_truth(tmp_path: Path) -> None:
    figure = plot_denoised(NOISY, DENOISED, tmp_path / "a.png")
    assert titles(figure) == ["noisy", "denoised"]
    assert_picture(tmp_path / "a.png")


def test_all_panels_share_the_range_of_the_truth(tmp_path: Path) -> None:
    figure = plot_denoised(NOISY, DENOISED, tmp_path / "a.png", CLEAN)
    ranges = {axes.images[0].get_clim() for axes in figure.axes}
    assert len(ranges) == 1
    low, high = ranges.pop()
    assert CLEAN.min() <= low < high <= CLEAN.max()


def test_a_noisy_image_in_another_unit_than_the_denoised_has_its_own_range(tmp_path: Path) -> None:
    figure = plot_denoised(NOISY * 100 + 1e4, DENOISED, tmp_path / "a.png")
    noisy, denoised = (axes.images[0].get_clim() for axes in figure.axes[:2])
    assert denoised[1] <= DENOISED.max() and noisy[0] > 5e3


def test_a_name_in_the_title_is_no_formula(tmp_path: Path) -> None:
    figure = plot_denoised(NOISY, DENOISED, tmp_path / "a.png", title=r"middle of $\foo$^$.tif")
    assert figure.get_suptitle() == r"middle of $\foo$^$.tif"


def test_zoom_is_where_it_was_asked(tmp_path: Path) -> None:
    figure = plot_denoised(NOISY, DENOISED, tmp_path / "a.png", zoom=(5, 10, 20, 30))
    part = figure.axes[2].images[0].get_array()
    np.testing.assert_allclose(part, NOISY[5:25, 10:40])
    rectangle = figure.axes[0].patches[0]
    assert rectangle.get_bbox().bounds == (9.5, 4.5, 30, 20)


def test_zoom_finds_the_detail(tmp_path: Path) -> None:
    image = np.zeros((64, 64))
    image[40:48, 8:16] = np.indices((8, 8)).sum(axis=0) % 2
    figure = plot_denoised(image, image, tmp_path / "a.png")
    assert np.asarray(figure.axes[2].images[0].get_array()).sum() == image.sum()


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (1, 50), (200, 8)])
def test_odd_shapes_and_constant_images(tmp_path: Path, shape: tuple[int, int]) -> None:
    image = np.full(shape, 7, np.uint16)
    plot_denoised(image, image, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0


def test_images_with_nan_are_drawn(tmp_path: Path) -> None:
    hole = DENOISED.copy()
    hole[:5] = np.nan
    figure = plot_denoised(NOISY, hole, tmp_path / "a.png", CLEAN)
    assert titles(figure)[1] == "denoised nan dB"


def test_denoised_refuses_what_it_cannot_show(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(60, 80\).*\(60, 79\)"):
        plot_denoised(NOISY, DENOISED[:, 1:], tmp_path / "a.png")
    with pytest.raises(ValueError, match="Y X"):
        plot_denoised(NOISY[None], DENOISED[None], tmp_path / "a.png")
    for zoom in [(0, 0, 61, 10), (-1, 0, 5, 5), (0, 0, 0, 5)]:
        with pytest.raises(ValueError, match="outside"):
            plot_denoised(NOISY, DENOISED, tmp_path / "a.png", zoom=zoom)
    assert not list(tmp_path.iterdir())


def test_rgb_is_drawn_in_colour_with_a_scale_bar(tmp_path: Path) -> None:
    noisy = np.stack([NOISY, NOISY / 2, NOISY * 0], axis=2)
    figure = plot_denoised(noisy, noisy + 1, tmp_path / "a.png", pixel_size=(0.5, "µm"))
    images = shown(figure)
    colours = images["noisy"].get_array()
    assert colours.shape == (60, 80, 3)
    assert 0 <= colours.min() and colours.max() == 1
    assert colours[..., 0].mean() > colours[..., 1].mean() > colours[..., 2].mean()
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["10 µm"]
    pixels = imread(tmp_path / "a.png")
    assert (pixels[..., 0] > pixels[..., 2] + 0.3).any()
