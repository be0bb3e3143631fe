"""How good a model is on test images: a table and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from careamics_dm.evaluation.comparison_plot import plot_comparison
from careamics_dm.evaluation.metrics import Scores
from careamics_dm.evaluation.planes import Planes, middle, restored_planes
from careamics_dm.evaluation.text_table import align, format_number, write_csv
from careamics_dm.models.base import RestorationModule
from careamics_dm.models.trainer_data import data_of

SCORES = ("psnr", "si_psnr", "ssim")
COLUMNS = [name for score in SCORES for name in (f"{score}_noisy", score)]


class TestReport(L.Callback):
    """Write ``test.csv`` and ``test.png`` when a model is tested on images with targets.

    The table has a row per image and channel, with the scores of the noisy image (columns
    ``..._noisy``; blank where its channels are not those of the target) and of the denoised one,
    PSNR and scale-invariant PSNR in dB, and a last row "mean". The picture shows the middle of the
    first image; it is drawn for a `RestorationModule` only.

    The model's ``test_scores`` and ``test_scores_before`` map images to `Scores`, as those of a
    `RestorationModule` do. Without such scores nothing is written.

    Parameters
    ----------
    folder : path
        Where to write; created if missing.

    Attributes
    ----------
    table : list of dict
        The rows of ``test.csv``; empty where there were no targets.
    planes : dict of str to ndarray
        What is in the picture: "noisy", "denoised" and "target", ``Y X``.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.table: list[dict[str, Any]] = []
        self.planes: Planes = {}

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write table and picture; called by Lightning."""
        self.table, self.planes = [], {}
        after: Mapping[int, Scores] = getattr(pl_module, "test_scores", None) or {}
        if not after or not trainer.is_global_zero:
            return
        data = data_of(pl_module)
        images = data.images_of("test")
        sources = [stack.source for stack in images.stacks]
        _warn_of_constant_targets(sources, after)
        before = getattr(pl_module, "test_scores_before", None) or {}
        self.table = score_rows(sources, after, before)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_csv(self.folder / "test.csv", ["image", "channel", *COLUMNS], self.table)
        if isinstance(pl_module, RestorationModule):
            self.planes = restored_planes(pl_module, data, images, middle(images.stacks[0]))
            title = f"middle of {Path(sources[0]).name}"
            path = self.folder / "test.png"
            plot_comparison([self.planes], path, reference="target", title=title)

    def __str__(self) -> str:
        """Return the table as aligned text, without empty columns."""
        columns = [name for name in COLUMNS if any(row[name] != "" for row in self.table)]
        rows = [
            [Path(row["image"]).name, row["channel"], *(format_number(row[n]) for n in columns)]
            for row in self.table
        ]
        return align(["image", "channel", *columns], rows)


def score_rows(
    sources: Sequence[str], after: Mapping[int, Scores], before: Mapping[int, Scores]
) -> list[dict[str, Any]]:
    """List scores per image and channel, keys "image", "channel" and `COLUMNS`, and their mean.

    Blank where there is no score, as for a constant target, which does not count in the mean.
    """
    rows: list[dict[str, Any]] = []
    scored: list[dict[str, Any]] = []
    for image in sorted(after):
        scores = after[image].as_dict()
        noisy = before[image].as_dict() if image in before else {}
        scores |= {f"{name}_noisy": values for name, values in noisy.items()}
        for channel, constant in enumerate(after[image].constant):
            row = {"image": sources[image], "channel": channel} | dict.fromkeys(COLUMNS, "")
            rows.append(row)
            if not constant:
                row |= {name: values[channel] for name, values in scores.items()}
                scored.append(row)
    mean: dict[str, Any] = {"image": "mean", "channel": ""}
    for column in COLUMNS:
        values = [row[column] for row in scored]
        mean[column] = float(np.mean(values)) if values and "" not in values else ""
    return [*rows, mean]


def _warn_of_constant_targets(sources: Sequence[str], scores: Mapping[int, Scores]) -> None:
    flat = [sources[image] for image in sorted(scores) if any(scores[image].constant)]
    if flat:
        rank_zero_warn(
            f"test_target: {len(flat)} image(s) have a target with the same value everywhere. Such "
            "a target has no score and is left out of the mean. Check whether these are the right "
            f"files: {', '.join(flat[:5])}{', ...' * (len(flat) > 5)}."
        )
