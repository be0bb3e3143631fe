"""Predictions as files: what all kinds of file share."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from careamics_dm.errors import DataError
from careamics_dm.images import argument_checks as check
from careamics_dm.images.image_set import count_channels
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.stack_view import layout_of
from careamics_dm.prediction.background import Background
from careamics_dm.prediction.block_record import remove_rest
from careamics_dm.prediction.block_result import BlockResult
from careamics_dm.prediction.continuation import THREADS, Continuation, Progress
from careamics_dm.prediction.fingerprint import Fingerprints, facts_of_settings
from careamics_dm.prediction.result_blocks import ImageBlocks, images_of_shard
from careamics_dm.prediction.result_file import ResultFile, ResultImage, part_of, predicted_channels
from careamics_dm.prediction.result_paths import check_space, check_writable, result_paths
from careamics_dm.sources.data_warnings import say
from careamics_dm.sources.ranks import agreed, by_first
from careamics_dm.sources.source_path import as_text, is_url


class ResultWriter(Callback, ABC):
    """Write predictions, tile by tile as they arrive; a subclass says into which kind of file.

    A file with its final name is complete. Results have the names of the inputs; files below a
    common folder keep their sub-folders. Tiles make blocks, which are written one by one, in a
    thread; beside an unfinished file (``.part``), another (``.blocks``) says which it has. If it is
    stopped, the same prediction goes on with those that are missing.

    Parameters
    ----------
    folder : path
        Where to write, a local folder; created if missing, and tested before anything is predicted.
    dtype : {"float32", "source"}
        float32, or the input's (source), rounded and clipped.
    existing : {"error", "skip", "replace"}
        What to do about a result that exists. Refuse to start, leave it and do not predict that
        image (unless another writer needs it), or replace it.
    output : str
        Which output of ``predict_step`` to write: "prediction", or another like it.

    Raises
    ------
    DataError
        If the folder can't be written to or has too little space, a result exists, or two results
        have the same name.
    """

    to_urls = False
    """Whether the folder may be a URL."""
    storage_options: Mapping[str, Any] = {}
    """For URLs."""

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
        folder = folder.removeprefix("file://") if isinstance(folder, str) else folder
        if is_url(folder) and not self.to_urls:
            raise DataError(
                f"writer.folder={folder} is a URL, but results are written to local folders. "
                "Give one, and copy the results from there; or set writer=zarr."
            )
        self.folder = Path(folder).expanduser()
        self.dtype = dtype
        self.existing = existing
        self.output = output
        self.paths: list[Path] = []
        """Of the results, one per image; set by ``setup``."""
        self.wanted: set[int] = set()
        """Indices of the images to write; set by ``setup``."""
        self.progress = Progress(0, 0, 0)
        """Blocks of all results; set when the loader is made."""
        self._stacks: Sequence[ImageStack] = []
        self._channels: list[list[int] | None] = []
        self._run: Continuation | None = None
        self._current: tuple[int, BlockResult] | None = None
        self._background: Background | None = None

    @property
    def by_image(self) -> bool:
        """Whether one process writes all blocks of an image, as behind a URL and on Windows."""
        return is_url(self.folder) or os.name == "nt"

    @abstractmethod
    def suffixes(self, stack: ImageStack) -> Sequence[str]:
        """Return the suffixes of results: the first one, unless the source has one of them."""

    def block_shape(self, stack: ImageStack) -> Sequence[int]:
        """Return the chunk of files, ``([Z], Y, X)``: blocks are made of whole chunks."""
        return (1,) * (len(stack.data_shape) - 2)

    @abstractmethod
    def open(self, image: ResultImage, *, begin: bool) -> ResultFile:
        """Open a result that was begun, by this process or another; with ``begin``, begin it.

        What may be left of another under the same name then goes.
        """

    def check(self, image: ResultImage) -> Iterable[str]:
        """Refuse an image that can't be written, and return what the result will lack."""
        del image
        return ()

    def compresses(self, stack: ImageStack) -> bool:
        """Whether a result may take less space than its pixels."""
        del stack
        return False

    def exists(self, path: Path) -> bool:
        """Whether there is a result."""
        return path.exists()

    def check_writable(self) -> None:
        """Refuse a folder that can't be written to, before hours of work depend on it."""
        check_writable(self.folder, self.paths)

    def complete(self, stacks: Sequence[ImageStack]) -> None:
        """Write what results share, such as a list of them; once, after what is predicted."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Name the results and check that they can be written; called by Lightning."""
        if stage != "predict":
            return
        datamodule: Any = getattr(trainer, "datamodule", None)
        if not hasattr(datamodule, "predict_stacks"):
            raise DataError(
                f"{type(self).__name__} needs a careamics_dm DataModule in trainer.predict."
            )
        callbacks = getattr(trainer, "callbacks", [])
        self.prepare(datamodule, [other for other in callbacks if isinstance(other, ResultWriter)])

    def prepare(self, datamodule: Any, beside: "Sequence[ResultWriter]" = ()) -> None:
        """Name the results of a prediction, and check that they can be written.

        Parameters
        ----------
        datamodule : PatchDataModule
            Set up for prediction; it will predict only the images that are needed.
        beside : sequence of ResultWriter
            All writers of the prediction; whichever is prepared last, all get what they need.
        """
        stacks: Sequence[ImageStack] = datamodule.predict_stacks
        self._stacks, self.wanted = stacks, set()
        self.paths = result_paths(stacks, self.folder, self.suffixes)
        mine = set(images_of_shard(datamodule.settings.shard, len(stacks)))
        found = agreed(lambda: self._find_existing(stacks, mine))
        self.wanted = mine - (found if self.existing == "skip" else set())
        self._channels = predicted_channels(datamodule)
        self._check_images(stacks)
        if not self.wanted:
            by_first(lambda: self.complete(stacks))
        writers = [self, *(other for other in beside if other is not self)]
        wanted = sorted(set[int]().union(*(other.wanted for other in writers)))
        datamodule.select_predict(wanted, writers)

    def begin(self, prints: Fingerprints, blocks: Sequence[ImageBlocks]) -> list[set[int]]:
        """Return which blocks of each image are there, or not wanted; called by its loader."""
        facts, options = facts_of_settings(self), self.storage_options
        self._run = run = Continuation(prints, blocks, self.paths, self.wanted, facts, options)
        n_there = sum(map(len, run.there))
        self.progress = Progress(n_there, n_there, sum(len(blocks[i]) for i in self.wanted))
        if n_there:
            there = f"{n_there} of {self.progress.n} blocks are there"
            say(f"continuing in {as_text(self.folder)}: {there}")
        unwanted = set(range(len(blocks))) - self.wanted
        return [
            set(range(len(blocks[i]))) if i in unwanted else done
            for i, done in enumerate(run.there)
        ]

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
                f"{type(self).__name__} needs tiles and their places: let predict_step return a "
                f"dict of {self.output}, (N, C, (Z), Y, X) in the units of the data, and the "
                "region of the batch (batch_format=dict)."
            )
        self._background = self._background or Background(most=2)
        self._background.do(self._put, outputs[self.output], outputs["region"])

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finish what is complete; called by Lightning, unless this process has no block."""
        if self._background is not None:
            self._background.finish()
        self._close()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Wait for the other processes, whose results then are there; called by Lightning."""
        if stage == "predict":
            self._leave()
            trainer.strategy.barrier()
            self._complete(trainer)

    def _leave(self) -> None:
        """Leave unfinished files, with a record of what they have."""
        if self._background is not None:
            self._background.close()
        self._background = self._run = None
        self._close()

    def _complete(self, trainer: L.Trainer) -> None:
        datamodule: Any = getattr(trainer, "datamodule", None)
        if hasattr(datamodule, "select_predict"):
            datamodule.select_predict(None)
            if self.wanted and trainer.is_global_zero:
                self.complete(datamodule.predict_stacks)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave unfinished files, with a record of what they have; called by Lightning."""
        with suppress(OSError, DataError):  # of a full disk, which is the exception already
            self._leave()
            self._complete(trainer)

    def _find_existing(self, stacks: Sequence[ImageStack], images: set[int]) -> set[int]:
        """Return which results are there; check that the others can be written."""
        with ThreadPoolExecutor(THREADS) as pool:
            there = pool.map(self.exists, [self.paths[i] for i in images])
            found = {i for i, exists in zip(images, there, strict=True) if exists}
            if found and self.existing == "error":
                first = as_text(self.paths[min(found)])
                raise DataError(
                    f"{len(found)} result(s) exist already, the first is {first}. "
                    "Write to another folder, or set writer.existing to skip or replace."
                )
            self.check_writable()
            list(pool.map(lambda i: remove_rest(self.paths[i], self.storage_options), found))
        if not is_url(self.folder):
            new = [i for i in images - found if not part_of(self.paths[i]).exists()]
            check_space(self.folder, sum(self._least_bytes(stacks[i]) for i in new))
        return found

    def _result(self, image: int, stack: ImageStack, n_channels: int) -> ResultImage:
        return ResultImage(
            self.paths[image],
            stack,
            layout_of(stack).with_channels(n_channels),
            self._dtype_of(stack),
            self.existing == "replace",
            self._channels[image],
        )

    def _check_images(self, stacks: Sequence[ImageStack]) -> None:
        """Check what is to be written, and warn once of what results will lack."""
        lost: dict[str, None] = {}
        for i in sorted(self.wanted):
            n_channels = count_channels(stacks[i], self._channels[i] or None)
            lost |= dict.fromkeys(self.check(self._result(i, stacks[i], n_channels)))
        if lost:
            rank_zero_warn(
                f"writer: results can't hold all that is said of the images: {', '.join(lost)}. "
                "Write another kind of file if you need it."
            )

    def _put(self, tiles: torch.Tensor, regions: torch.Tensor) -> None:
        """Put the tiles of a batch into blocks; in a thread, as it waits for GPU and disk."""
        pixels = tiles.detach().cpu().float().numpy()
        for tile, region in zip(pixels, regions.tolist(), strict=True):
            if (image := region[0]) not in self.wanted:
                continue
            if self._current is None or self._current[0] != image:
                self._close()
                self._current = image, self._open(image, self._stacks[image], len(tile))
            self.progress.n_done += self._current[1].put(tile, region)

    def _open(self, image: int, stack: ImageStack, n_channels: int) -> BlockResult:
        """Begin the result of an image, or open it where that is done already."""
        result = self._result(image, stack, n_channels)
        assert self._run is not None
        record, begin, file = self._run.record(image), False, None
        try:
            begin = record.alone and not record.goes_on()
            if begin:
                record.clear()
            file = self.open(result, begin=begin)
            if record.alone:
                record.share()
            self._run.check(image, record)
        except BaseException:
            if file is not None:
                file.close()
            if begin:
                record.remove()
            record.close()
            raise
        return BlockResult(result, self._run.blocks[image], file, record)

    def _close(self) -> None:
        """Finish the current result, or leave it."""
        if self._current is None:
            return
        (image, result), self._current = self._current, None
        try:
            result.close()
        except FileExistsError as error:
            if self.existing == "error":
                raise DataError(
                    f"writer: another prediction has meanwhile written "
                    f"{as_text(self.paths[image])}."
                ) from error

    def _dtype_of(self, stack: ImageStack) -> np.dtype[Any]:
        if self.dtype == "float32":
            return np.dtype(np.float32)
        return np.dtype(stack.data_dtype).newbyteorder("=")

    def _least_bytes(self, stack: ImageStack) -> int:
        """Return what a result, of at least one channel, surely takes on the disk."""
        pixels = prod(layout_of(stack).with_channels(1).shape)
        return 0 if self.compresses(stack) else pixels * self._dtype_of(stack).itemsize
