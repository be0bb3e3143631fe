from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.image import imread

from careamics_dm.evaluation.plots import plot_losses, plot_patches

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

RNG = np.random.default_rng(0)


def assert_picture(path: Path) -> None:
    """Has the size of a picture, and many colours in it."""
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 100
    assert len(np.unique(pixels[..., 0])) > 20


# ----------------------------------------------------------------------------- plot_losses

CSV = """epoch,lr-Adam,step,train_loss,val_loss
,0.001,0,,
0,,9,,0.9
0,,9,1.5,
1,,19,,0.4
1,,19,0.5,
2,,29,,0.2
2,,29,0.1,
"""


def curves(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    lines = figure.axes[0].lines
    return {str(x.get_label()): (list(x.get_xdata()), list(x.get_ydata())) for x in lines}


def test_losses_of_a_csv_logger(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(CSV)
    figure = plot_losses(tmp_path / "metrics.csv", tmp_path / "losses.png")
    assert curves(figure) == {
        "training": ([0, 1, 2], [1.5, 0.5, 0.1]),
        "validation": ([0, 1, 2], [0.9, 0.4, 0.2]),
    }
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_yscale()) == ("epoch", "log")
    assert axes.get_ylabel() == "loss (of normalised images)"
    assert all(line.get_marker() == "o" for line in axes.lines)
    assert_picture(tmp_path / "losses.png")


def test_one_epoch_without_validation(tmp_path: Path) -> None:
    figure = plot_losses([{"epoch": 0, "train_loss": 0.5}], tmp_path / "a.png", unit="photons")
    assert curves(figure) == {"training": ([0], [0.5])}
    assert figure.axes[0].get_yscale() == "linear"
    assert figure.axes[0].get_ylabel() == "loss (photons)"


def test_steps_are_averaged_and_epoch_columns_preferred(tmp_path: Path) -> None:
    steps = [{"epoch": e, "train_loss": v} for e, v in [(0, 1.0), (0, 3.0), (1, 4.0)]]
    assert curves(plot_losses(steps, tmp_path / "a.png"))["training"] == ([0, 1], [2.0, 4.0])
    both = [*steps, {"epoch": 0, "train_loss_epoch": 2.5}]
    assert curves(plot_losses(both, tmp_path / "a.png"))["training"] == ([0], [2.5])


def test_many_epochs_have_no_markers(tmp_path: Path) -> None:
    rows = [{"epoch": e, "train_loss": 1 + 1 / (e + 1)} for e in range(30)]
    figure = plot_losses(rows, tmp_path / "a.png")
    assert figure.axes[0].lines[0].get_marker() in ("", "None")


@pytest.mark.parametrize("values", [(-1.0, 100.0), (float("nan"), 1.0), (float("nan"),)])
def test_losses_that_have_no_logarithm(tmp_path: Path, values: tuple[float, ...]) -> None:
    rows = [{"epoch": e, "train_loss": v} for e, v in enumerate(values)]
    assert plot_losses(rows, tmp_path / "a.png").axes[0].get_yscale() == "linear"


def test_no_losses_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loss_a"):
        plot_losses([{"epoch": 0, "loss_a": 1}], tmp_path / "a.png")


# ---------------------------------------------------------------------------- plot_patches

STORED = RNG.poisson(50, (10, 16, 16)).astype(np.uint16)
SCALED = (STORED - 50) / 7


def test_contact_sheet(tmp_path: Path) -> None:
    masks = RNG.random(SCALED.shape) < 0.02
    rows = {"stored": STORED, "augmented": SCALED, "masked": SCALED}
    figure = plot_patches(rows, tmp_path / "a.png", n=4, masks=masks)
    sheet = np.reshape(figure.axes, (3, 4))
    assert [line[0].get_ylabel() for line in sheet] == list(rows)
    np.testing.assert_array_equal(sheet[0, 3].images[0].get_array(), STORED[3])
    marked = np.asarray(sheet[2, 1].collections[0].get_offsets())
    np.testing.assert_array_equal(marked[:, ::-1], np.argwhere(masks[1]))
    assert not sheet[1, 1].collections
    assert_picture(tmp_path / "a.png")


def test_rows_of_one_unit_share_their_range(tmp_path: Path) -> None:
    rows = {"stored": STORED, "augmented": SCALED, "masked": SCALED * 1.1}
    figure = plot_patches(rows, tmp_path / "a.png", n=2)
    stored, augmented, masked = (figure.axes[i].images[0].get_clim() for i in (0, 2, 4))
    assert augmented == masked != stored


def test_stacks_show_their_middle(tmp_path: Path) -> None:
    stack = RNG.random((3, 5, 8, 9))
    figure = plot_patches({"stack": stack}, tmp_path / "a.png", masks=stack > 0.9)
    assert len(figure.axes) == 3
    np.testing.assert_allclose(figure.axes[1].images[0].get_array(), stack[1, 2])


def test_colours_title_and_scale_bar(tmp_path: Path) -> None:
    patches, masks = RNG.integers(0, 255, (2, 40, 50, 3)), np.zeros((2, 40, 50), bool)
    masks[1, 5, 7] = True
    how: Any = {"rgb": True, "title": "a$b", "pixel_size": (2.0, "µm")}
    figure = plot_patches({"a": patches}, tmp_path / "a.png", masks=masks, **how)
    assert figure.get_suptitle() == "a$b"
    assert figure.axes[0].images[0].get_array().shape == (40, 50, 3)
    bars = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert bars == [["20 µm"], []]  # of the 30 that 0.3 of the width would be
    assert figure.axes[1].collections[0].get_offsets().tolist() == [[7, 5]]


def test_rows_of_unequal_length(tmp_path: Path) -> None:
    figure = plot_patches({"a": STORED[:3], "b": STORED[:1]}, tmp_path / "a.png")
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 1, 0, 0]


def test_patches_refuses_what_it_cannot_show(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match="no patches"):
        plot_patches({}, path)
    with pytest.raises(ValueError, match="no patches"):
        plot_patches({"a": STORED}, path, n=0)
    with pytest.raises(ValueError, match=r"'a'.*\(16, 16\)"):
        plot_patches({"a": STORED[0]}, path)
    with pytest.raises(ValueError, match=r"\(1, 16, 16\)"):
        plot_patches({"a": STORED}, path, masks=np.zeros((1, 16, 16), bool))


# ----------------------------------------------------------------------------- no display


def test_threads_draw_without_pyplot(tmp_path: Path) -> None:
    def draw(i: int) -> None:
        plot_patches({"a": STORED}, tmp_path / f"{i}.png", n=1)

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 3
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
