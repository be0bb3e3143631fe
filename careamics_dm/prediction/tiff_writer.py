"""Predictions as TIFF files: named after the inputs, written tile by tile as they arrive."""

import os
import shutil
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback

from careamics_dm.errors import DataError
from careamics_dm.images import checks as check
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.prediction.stitching import Placement
from careamics_dm.prediction.tiff_canvas import TiffCanvas
from careamics_dm.sources.source_path import TIFF, absolute, bare, file_of


class TiffWriter(Callback):
    """Write predictions as TIFF files with the names, axes and shapes of the inputs.

    Tiles go straight into a memory-mapped ``.part`` file, whose disk space is reserved before the
    first of them and which is renamed when the last has arrived: a file with its final name is
    complete. Files below a common folder keep their sub-folders.

    Parameters
    ----------
    folder : path
        Where to write, a local folder; created if missing, and tested before anything is predicted.
    dtype : {"float32", "source"}
        float32, or the input's (source), rounded and clipped.
    existing : {"error", "skip", "replace"}
        What to do about a result that exists. Refuse to start, leave it and do not predict that
        image (unless another writer needs it), or predict and replace it.
    output : str
        Which output of ``predict_step`` to write: "prediction", or another like it.

    Raises
    ------
    DataError
        If the folder can't be written to or has too little space, a result exists, or two results
        have the same name.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        dtype: Literal["float32", "source"] = "float32",
        existing: Literal["error", "skip", "replace"] = "error",
        output: str = "prediction",
    ) -> None:
        # Not a BasePredictionWriter, for which Lightning tries to infer the indices of batches and
        # warns that it cannot.
        super().__init__()
        check.one_of("writer.dtype", dtype, ("float32", "source"))
        check.one_of("writer.existing", existing, ("error", "skip", "replace"))
        if not isinstance(folder, str | Path):
            raise DataError(f"{check.written('writer.folder', folder)}: give the path of a folder.")
        if "://" in str(folder):
            raise DataError(
                f"writer.folder={folder} is a URL, but results are written to local folders. "
                "Give one, and copy the results from there."
            )
        self.folder = Path(folder).expanduser()
        self.dtype = dtype
        self.existing = existing
        self.output = output
        self.paths: list[Path] = []
        """Of the results, one per image; set by ``setup``."""
        self.wanted: set[int] = set()
        """Indices of the images to write; set by ``setup``."""
        self._open: dict[int, TiffCanvas] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Name the results and check that they can be written; called by Lightning."""
        if stage != "predict":
            return
        datamodule: Any = getattr(trainer, "datamodule", None)
        if not hasattr(datamodule, "predict_stacks"):
            raise DataError("TiffWriter needs a careamics_dm DataModule in trainer.predict.")
        self.paths = output_paths(datamodule.predict_stacks, self.folder)
        # What the first of the processes that predict together has found.
        found: set[int] = trainer.strategy.broadcast(
            {i for i, path in enumerate(self.paths) if path.exists()}
        )
        if found and self.existing == "error":
            raise DataError(
                f"{len(found)} result(s) exist already, the first is {self.paths[min(found)]}. "
                "Write to another folder, or set writer.existing to skip or replace."
            )
        check_writable(self.folder)
        self.wanted = set(range(len(self.paths))) - (found if self.existing == "skip" else set())
        self._check_space([datamodule.predict_stacks[i] for i in self.wanted - found])
        # Whichever of several writers is set up last, all of them get the images they need.
        callbacks = getattr(trainer, "callbacks", [])
        beside = [other for other in callbacks if isinstance(other, TiffWriter)]
        everything = self.wanted.union(*(other.wanted for other in beside))
        datamodule.select_predict(sorted(everything))

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put the tiles of a batch into their files; called by Lightning."""
        if not isinstance(outputs, Mapping) or not {self.output, "region"} <= set(outputs):
            raise DataError(
                "TiffWriter needs tiles and their places: let predict_step return a dict of "
                f"{self.output}, (N, C, (Z), Y, X) in the units of the data, and the region of the "
                "batch (batch_format=dict)."
            )
        stacks = trainer.datamodule.predict_stacks  # type: ignore[attr-defined]
        tiles = outputs[self.output].detach().cpu().float().numpy()
        for tile, region in zip(tiles, outputs["region"].tolist(), strict=True):
            image = region[0]
            if image not in self.wanted:
                continue
            if image not in self._open:
                stack = stacks[image]
                dtype = self._dtype_of(stack)
                self._open[image] = TiffCanvas(self.paths[image], stack, len(tile), dtype)
            if self._open[image].put(tile, region):
                self._open.pop(image).finish(self.existing)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove unfinished files; called by Lightning."""
        if stage != "predict":
            return
        datamodule: Any = getattr(trainer, "datamodule", None)
        if hasattr(datamodule, "select_predict"):
            datamodule.select_predict(None)
        for canvas in self._open.values():
            canvas.discard()
        self._open.clear()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Remove unfinished files; called by Lightning."""
        self.teardown(trainer, pl_module, "predict")

    def _dtype_of(self, stack: ImageStack) -> np.dtype[Any]:
        if self.dtype == "float32":
            return np.dtype(np.float32)
        return np.dtype(stack.data_dtype).newbyteorder("=")

    def _check_space(self, stacks: Sequence[ImageStack]) -> None:
        """Refuse to begin where the results, of at least one channel, surely do not fit."""
        sizes = [Placement(stack, 1).layout.shape for stack in stacks]
        needed = sum(
            prod(size) * self._dtype_of(stack).itemsize
            for size, stack in zip(sizes, stacks, strict=True)
        )
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DataError(
                f"writer: the results take {needed / 2**20:.0f} MiB or more, but in {self.folder} "
                f"{free / 2**20:.0f} MiB are free. Free space, write to another folder, or predict "
                "fewer images."
            )


def output_paths(stacks: Sequence[ImageStack], folder: Path) -> list[Path]:
    """Name results after their images, ``.tif``, and keep sub-folders below a common one.

    Images inside a container (``a.zarr/0``, ``b.czi/scene_1``) go to a folder named after it
    (``a/0.tif``, ``b/scene_1.tif``). A result that would replace another or an input is an error.
    """
    split = [_folder_and_name(stack.source) for stack in stacks]
    root = Path(os.path.commonpath([outer for outer, _ in split]))
    paths = [folder / outer.relative_to(root) / name for outer, name in split]
    if clashes := sorted({str(path) for path in paths if paths.count(path) > 1}):
        raise DataError(
            f"writer: several images would be written to {', '.join(clashes[:5])}. Name each image "
            "once; predict channels of the same image, and images with the same name, one after "
            "another into different folders."
        )
    inputs = {Path(stack.source).resolve() for stack in stacks}
    if lost := [path for path in paths if path.resolve() in inputs and path.exists()]:
        raise DataError(f"writer: results would replace inputs ({lost[0]}). Use another folder.")
    return paths


def check_writable(folder: Path) -> None:
    """Create a folder and try to write to it, before hours of work depend on it."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise DataError(
            f"the output folder {folder} can't be written to ({error.strerror}). Choose another."
        ) from error


def _folder_and_name(name: str) -> tuple[Path, Path]:
    """Return the folder of a source, and the result's path below it, without containers."""
    source, file = absolute(name), file_of(name)
    if file != source:
        inner = source.relative_to(file.parent).parts
        # Inside a container, what follows a dot is part of the name.
        return file.parent, Path(*map(bare, inner[:-1]), f"{inner[-1]}.tif")
    if source.suffix.lower() in TIFF:
        return source.parent, Path(source.name)
    plain = bare(source.name)
    stem = source.stem if plain == source.name else plain
    return source.parent, Path(f"{stem}.tif")
