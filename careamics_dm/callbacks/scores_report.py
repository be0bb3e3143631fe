"""How good a model is on test images: a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from careamics_dm.evaluation.comparison_plot import plot_comparison
from careamics_dm.evaluation.image_views import middle, restored_planes
from careamics_dm.evaluation.text_table import align, format_number, write_csv
from careamics_dm.models.base import RestorationModule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from careamics_dm.evaluation.image_views import Planes
    from careamics_dm.evaluation.metrics import Scores

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
        What the picture shows: "noisy", "denoised" and "target", ``Y X``.
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
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
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
        """Return the table as aligned text."""
        shown = [name for name in COLUMNS if any(row[name] != "" for row in self.table)]
        rows = [
            [Path(row["image"]).name, row["channel"], *(format_number(row[n]) for n in shown)]
            for row in self.table
        ]
        return align(["image", "channel", *shown], rows)


def score_rows(
    sources: Sequence[str], after: Mapping[int, Scores], before: Mapping[int, Scores]
) -> list[dict[str, Any]]:
    """List scores per image and channel, keys "image", "channel" and `COLUMNS`, and their mean.

    Blank where there is no score, as for a constant target, which does not count in the mean.
    """
    rows: list[dict[str, Any]] = []
    scored: list[dict[str, Any]] = []
    for image in sorted(after):
        done = after[image].as_dict()
        noisy = before[image].as_dict() if image in before else {}
        for channel, constant in enumerate(after[image].constant):
            row = {"image": sources[image], "channel": channel} | dict.fromkeys(COLUMNS, "")
            rows.append(row)
            if not constant:
                row |= {f"{score}_noisy": values[channel] for score, values in noisy.items()}
                row |= {score: values[channel] for score, values in done.items()}
                scored.append(row)
    mean: dict[str, Any] = {"image": "mean", "channel": ""}
    for column in COLUMNS:
        values = [row[column] for row in scored]
        mean[column] = float(np.mean(values)) if values and "" not in values else ""
    return [*rows, mean] if rows else []


def _warn_of_constant_targets(sources: Sequence[str], scores: Mapping[int, Scores]) -> None:
    flat = [sources[image] for image in sorted(scores) if any(scores[image].constant)]
    if flat:
        rank_zero_warn(
            f"test_target: {len(flat)} image(s) have a target with the same value everywhere. Such "
            "a target has no score and is left out of the mean: "
            f"{', '.join(flat[:5])}{', ...' * (len(flat) > 5)}."
        )
