"""Places before and after denoising: layout, ranges, scale bars."""

from __future__ import annotations

import numpy as np
import pytest

from careamics_dm.evaluation.places_plot import Place, plot_places

RNG = np.random.default_rng(0)


def place(label="", pixel_size=None, shape=(40, 50)):
    noisy = RNG.normal(100, 20, shape)
    return Place(noisy, (noisy + 100) / 2, label, pixel_size)


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def test_each_place_is_drawn_before_and_after_in_one_range(tmp_path):
    rows = {"a.tif": [place("Z 1"), place("Z 4")], "b.tif": [place()]}
    figure = plot_places(rows, tmp_path / "new" / "a.png")
    titles = [axes.get_title() for axes in panels(figure)]
    assert titles == ["Z 1", "denoised", "Z 4", "denoised", "noisy", "denoised"]
    limits = [axes.images[0].get_clim() for axes in panels(figure)]
    assert limits[::2] == limits[1::2]
    assert limits[0][0] < 70 and limits[0][1] > 130
    assert (tmp_path / "new" / "a.png").stat().st_size > 5000


def test_targets_in_another_unit_have_a_range_of_their_own(tmp_path):
    noisy = RNG.normal(100, 20, (40, 50))
    rows = {"a": [Place(noisy, noisy * 100, "")]}
    before, after = (
        axes.images[0].get_clim() for axes in panels(plot_places(rows, tmp_path / "a"))
    )
    assert before[1] < 200 < 2000 < after[0]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((0.1, "µm"), "1 µm"),
        ((65.0, "nm"), "500 nm"),
        ((1.0, "px"), "10 px"),
        ((3e-3, "mm"), "0.02 mm"),
    ],
)
def test_a_scale_bar_has_a_round_length(tmp_path, size, text):
    axes = panels(plot_places({"a": [place(pixel_size=size)]}, tmp_path / "a.png"))[0]
    assert [one.get_text() for one in axes.texts] == [text]
    (bar,) = axes.patches
    assert bar.get_width() * size[0] == pytest.approx(float(text.split()[0]))
    assert 5 <= bar.get_width() <= 15


def test_without_pixel_size_there_is_no_bar(tmp_path):
    axes = panels(plot_places({"a": [place()]}, tmp_path / "a.png"))[0]
    assert not axes.texts and not axes.patches


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no place to draw"):
        plot_places({"a": []}, tmp_path / "a.png")
