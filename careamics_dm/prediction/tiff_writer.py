"""Predictions as TIFF files: named after the inputs, written tile by tile as they arrive."""

import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import tifffile
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.prediction.stitching import Placement
from careamics_dm.sources.source_path import TIFF, absolute, bare, file_of

DType = np.dtype[Any]
NOT_IN_OME = (np.int64, np.uint64, np.float16)
PER_CENTIMETER = {"nm": 1e7, "µm": 1e4, "mm": 10.0, "cm": 1.0}
"""Units that a plain TIFF can express."""


class TiffWriter(Callback):
    """Write predictions as TIFF files with the names, axes and shapes of the inputs.

    Tiles go straight into a memory-mapped ``.part`` file, which is renamed when the last tile has
    arrived: a file with its final name is complete. Files below a common folder keep their
    sub-folders.

    Parameters
    ----------
    folder : path
        Where to write; created if missing, and tested before anything is predicted.
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
        If the folder can't be written to, a result exists, or two results have the same name.
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
        if dtype not in ("float32", "source"):
            raise DataError(f"writer: dtype={dtype!r}: choose float32 or source.")
        if existing not in ("error", "skip", "replace"):
            raise DataError(f"writer: existing={existing!r}: choose error, skip or replace.")
        self.folder = Path(folder).expanduser()
        self.dtype = dtype
        self.existing = existing
        self.output = output
        self.paths: list[Path] = []
        """Of the results, one per image; set by ``setup``."""
        self.wanted: set[int] = set()
        """Indices of the images to write; set by ``setup``."""
        self._open: dict[int, _TiffCanvas] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Name the results and check that they can be written; called by Lightning."""
        if stage != "predict":
            return
        datamodule: Any = getattr(trainer, "datamodule", None)
        if not hasattr(datamodule, "predict_stacks"):
            raise DataError("TiffWriter needs a careamics_dm DataModule in trainer.predict.")
        self.paths = output_paths(datamodule.predict_stacks, self.folder)
        found = {i for i, path in enumerate(self.paths) if path.exists()}
        if found and self.existing == "error":
            raise DataError(
                f"{len(found)} result(s) exist already, the first is {self.paths[min(found)]}. "
                "Write to another folder, or set writer.existing to skip or replace."
            )
        check_writable(self.folder)
        self.wanted = set(range(len(self.paths))) - (found if self.existing == "skip" else set())
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
                dtype = np.dtype(np.float32)
                if self.dtype == "source":
                    dtype = np.dtype(stack.data_dtype).newbyteorder("=")
                self._open[image] = _TiffCanvas(self.paths[image], stack, len(tile), dtype)
            if self._open[image].put(tile, region):
                self._open.pop(image).finish()

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


class _TiffCanvas:
    """A result that is being written: a memory-mapped ``.part`` file."""

    def __init__(self, path: Path, stack: ImageStack, n_channels: int, dtype: DType) -> None:
        self.path, self.dtype = path, dtype
        stored = np.dtype(np.uint8) if dtype.kind == "b" else dtype  # bits cannot be mapped
        self.part = path.with_name(path.name + ".part")
        self.placement = Placement(stack, n_channels)
        path.parent.mkdir(parents=True, exist_ok=True)
        layout = self.placement.layout
        options = tiff_options(layout.axes, layout.shape, stored, stack, path)
        try:
            self.pixels = tifffile.memmap(self.part, shape=layout.shape, dtype=stored, **options)
        except BaseException:
            self.part.unlink(missing_ok=True)
            raise

    def put(self, tile: NDArray[Any], region: Sequence[int]) -> bool:
        """Put a tile; return whether the image is complete."""
        self.placement.put(self.pixels, to_dtype(tile, self.dtype), region)
        return self.placement.complete

    def finish(self) -> None:
        """Give the file its final name."""
        self.pixels.flush()
        del self.pixels
        self.part.replace(self.path)

    def discard(self) -> None:
        """Remove the unfinished file."""
        del self.pixels
        self.part.unlink(missing_ok=True)


def to_dtype(pixels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert a prediction; to integers by rounding and clipping, to bool by a threshold of 0.5."""
    if dtype.kind == "b":
        over: NDArray[Any] = pixels >= 0.5
        return over
    if dtype.kind in "iu":
        if np.isnan(pixels).any():
            raise DataError(
                f"writer: the prediction contains NaN, which {dtype} cannot store. Check the "
                "model, or set writer.dtype to float32."
            )
        limits = np.iinfo(dtype)
        # float64, because float32 lacks the largest 32-bit integers. It lacks the largest 64-bit
        # integer, too, and what rounds up to it would overflow.
        high = float(limits.max)
        high = np.nextafter(high, 0) if int(high) > limits.max else high
        whole = np.rint(pixels, dtype=np.float64)
        return np.asarray(np.clip(whole, limits.min, high).astype(dtype))
    converted: NDArray[Any] = pixels.astype(dtype)
    return converted


def tiff_options(
    axes: str, shape: Sequence[int], dtype: DType, stack: ImageStack, path: Path
) -> dict[str, Any]:
    """Return how ``tifffile.imwrite`` describes axes and pixel size; read with ``axes: auto``.

    OME-TIFF where the name says so; ImageJ (which Fiji opens as a hyperstack) where that can store
    the data; OME-TIFF for a pixel size in Z; and otherwise tifffile's own description.
    """
    scale = getattr(stack, "scale", None) or {}
    names = getattr(stack, "channel_names", None)
    metadata: dict[str, Any] = {"axes": axes}
    options: dict[str, Any] = {"metadata": metadata, "photometric": "minisblack"}
    n_bytes = prod(shape) * dtype.itemsize
    imagej = (
        dtype in (np.uint8, np.uint16, np.float32)
        and axes == "".join(axis for axis in "TZCYX" if axis in axes)
        and min(shape) > 1  # ImageJ would drop axes of size 1
        and n_bytes < 2**32 - 2**20
    )
    named = path.name.lower().endswith((".ome.tif", ".ome.tiff", ".ome.btf"))
    possible = axes.endswith("YX") and set(axes) <= set("TZCYX") and dtype not in NOT_IN_OME
    if possible and (named or ("Z" in scale and not imagej)):
        for axis, (size, unit) in scale.items():
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
        if names and "C" in axes and len(names) == shape[axes.index("C")]:
            metadata["Channel"] = {"Name": list(names)}
        return options | {"ome": True, "imagej": False}
    options |= {"ome": False, "imagej": imagej}
    units = {unit for axis, (_, unit) in scale.items() if axis in "YX"}
    if not ({"Y", "X"} <= scale.keys() and len(units) == 1):
        return options | {"bigtiff": n_bytes > 2**32 - 2**25}
    unit = units.pop()
    if not imagej and unit in PER_CENTIMETER:
        factor = PER_CENTIMETER[unit]
        options["resolution"] = (factor / scale["X"][0], factor / scale["Y"][0])
        options["resolutionunit"] = "CENTIMETER"
    elif imagej:
        options["resolution"] = (1 / scale["X"][0], 1 / scale["Y"][0])
        metadata["unit"] = "um" if unit == "µm" else unit
        if "Z" in scale:
            metadata["spacing"] = scale["Z"][0]
    return options | {"bigtiff": n_bytes > 2**32 - 2**25}


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
