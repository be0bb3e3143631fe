"""How good a model is on test images: a table and a picture."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from careamics_dm.panels import plot_comparison
from careamics_dm.tables import aligned, number
from careamics_dm.views import middle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from careamics_dm.regions import Region

SCORES = ("psnr", "si_psnr", "ssim")
COLUMNS = [name for score in SCORES for name in (f"{score}_noisy", score)]
PANELS = {"noisy": "image", "denoised": "prediction", "target": "target"}
"""What the panels of the picture show, of what a test step returns."""


class TestReport(L.Callback):
    """Write ``test.csv`` and ``test.png`` when a model is tested on images with targets.

    The table has a row per image and channel, with the scores of the noisy image (columns
    ``..._noisy``; blank where its channels are not those of the target) and of the denoised one,
    PSNR and scale-invariant PSNR in dB, and last a row "mean". The picture shows the middle of
    the first image, put together from the tiles as they come; no image is kept.

    The model's ``test_step`` returns "image", "prediction", "target" (``(N, C, (Z), Y, X)``, in
    the units of the data) and "region", and its ``test_scores`` and ``test_scores_before`` are
    mappings of image to `Scores`, as of a `RestorationModule`.

    Parameters
    ----------
    folder : path
        Where to write; made if missing.

    Attributes
    ----------
    table : list of dict
        The rows of ``test.csv``; empty where there were no targets.
    view : dict of str to ndarray
        What the picture shows: "noisy", "denoised" and "target", ``Y X``.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.table: list[dict[str, Any]] = []
        self._region: Region | None = None
        self.view: dict[str, NDArray[np.float32]] = {}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the test before; called by Lightning."""
        del trainer, pl_module
        self.table, self._region, self.view = [], None, {}

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take from the tiles of a batch what the picture shows; called by Lightning."""
        del pl_module, batch, batch_idx, dataloader_idx
        if not isinstance(outputs, dict) or not {"region", *PANELS.values()} <= outputs.keys():
            return
        if self._region is None:
            self._region = middle(_stacks(trainer)[0])
        for i, row in enumerate(outputs["region"].tolist()):
            if row[:2] == [0, 0]:
                for name, key in PANELS.items():
                    self._put(name, outputs[key][i, 0].detach().cpu().float().numpy(), row[2:])

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write table and picture; called by Lightning."""
        after = getattr(pl_module, "test_scores", None)
        if not after or not trainer.is_global_zero:
            return
        names = [stack.source for stack in _stacks(trainer)]
        if flat := [names[image] for image in sorted(after) if any(after[image].constant)]:
            rank_zero_warn(
                f"test_target: {len(flat)} image(s) have a target that is the same everywhere; it "
                "has no score, and the mean leaves it out: "
                f"{', '.join(flat[:5])}{', ...' * (len(flat) > 5)}."
            )
        self.table = table_of(names, after, getattr(pl_module, "test_scores_before", None) or {})
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "test.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["image", "channel", *COLUMNS])
            writer.writeheader()
            writer.writerows(self.table)
        if self.view:
            title = f"middle of {Path(names[0]).name}"
            scenes = [self.view]
            plot_comparison(scenes, self.folder / "test.png", reference="target", title=title)

    def __str__(self) -> str:
        """Return the table, aligned."""
        shown = [name for name in COLUMNS if any(row[name] != "" for row in self.table)]
        return aligned(
            ["image", "channel", *shown],
            [
                [Path(row["image"]).name, row["channel"], *(number(row[name]) for name in shown)]
                for row in self.table
            ],
        )

    def _put(self, name: str, tile: NDArray[np.float32], place: Sequence[int]) -> None:
        """Put what a tile, ``(Z) Y X``, keeps into the plane that is shown."""
        assert self._region is not None
        low, high = self._region.start, self._region.stop
        if len(low) == 3:  # the middle plane of the view
            z = low[0] + (high[0] - low[0]) // 2
            low, high = (z, *low[1:]), (z + 1, *high[1:])
        n = len(low)
        start, first, stop = (place[n * i : n * (i + 1)] for i in range(3))
        first = [max(a, b) for a, b in zip(first, low, strict=True)]
        stop = [min(a, b) for a, b in zip(stop, high, strict=True)]
        if any(a >= b for a, b in zip(first, stop, strict=True)):
            return
        shape = [b - a for a, b in zip(low[-2:], high[-2:], strict=True)]
        plane = self.view.setdefault(name, np.full(shape, np.nan, np.float32))
        cut = [slice(a - s, b - s) for a, b, s in zip(first, stop, start, strict=True)]
        box = [slice(a - s, b - s) for a, b, s in zip(first, stop, low, strict=True)]
        plane[tuple(box[-2:])] = tile[tuple(cut)].reshape(
            [b - a for a, b in zip(first, stop, strict=True)][-2:]
        )


def table_of(
    names: Sequence[str], after: Mapping[int, Any], before: Mapping[int, Any]
) -> list[dict[str, Any]]:
    """List scores per image and channel, and last their mean.

    Parameters
    ----------
    names : sequence of str
        Of the images.
    after, before : mapping of int to Scores
        Of the denoised and of the noisy image, by its index in ``names``.

    Returns
    -------
    list of dict
        With the keys "image", "channel" and `COLUMNS`; blank where there is no score, such as of a
        constant target, which the mean leaves out.
    """
    rows: list[dict[str, Any]] = []
    n_scored = 0
    for image in sorted(after):
        done = after[image].as_dict()
        was = before[image].as_dict() if image in before else {}
        for channel, constant in enumerate(after[image].constant):
            row: dict[str, Any] = {"image": names[image], "channel": channel}
            rows.append(row)
            if constant:
                row |= dict.fromkeys(COLUMNS, "")
                continue
            n_scored += 1
            for score in SCORES:
                row[f"{score}_noisy"] = was[score][channel] if score in was else ""
                row[score] = done[score][channel]
    if not rows:
        return []
    mean: dict[str, Any] = {"image": "mean", "channel": ""}
    for column in COLUMNS:
        values = [row[column] for row in rows if row[column] != ""]
        mean[column] = float(np.mean(values)) if values and len(values) == n_scored else ""
    return [*rows, mean]


def _stacks(trainer: L.Trainer) -> Sequence[Any]:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    stacks: Sequence[Any] = data.images_of("test").stacks
    return stacks
