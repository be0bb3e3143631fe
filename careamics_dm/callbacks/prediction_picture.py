"""A picture of what was predicted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from numpy.typing import NDArray

from careamics_dm.evaluation.places_plot import Place, plot_places
from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.region import Region, read_region
from careamics_dm.images.stack_view import layout_of
from careamics_dm.models.trainer_data import data_of
from careamics_dm.prediction.stitching import crop_in_tile
from careamics_dm.sources.ranks import gather
from careamics_dm.sources.source_path import absolute, file_of

FRACTIONS = (1 / 6, 1 / 2, 5 / 6)
"""Where places lie along samples, depth, rows and columns."""
LARGEST = 256
"""The most pixels of a place along Y and X."""


class PredictionPicture(L.Callback):
    """Draw ``prediction.png``: three places of three images, before and after denoising.

    The images are the first, the middle and the last of those that are predicted; the places lie at
    a sixth, half and five sixths of samples, depth, rows and columns, each in the next channel. For
    modules whose ``predict_step`` returns "prediction" and "region", and data modules of
    careamics_dm.

    Parameters
    ----------
    folder : path
        Where to write; created if missing. Jobs that share images (``data.shard=3/16``) may name
        the same one: each has a folder in it (``shard_3_of_16``).

    Attributes
    ----------
    path : Path or None
        Of the picture; None where nothing was drawn.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.path: Path | None = None
        self._restored: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._places: dict[int, list[Region]] = {}
        self._gathered = False

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier prediction; called by Lightning."""
        self._restored, self._places, self.path, self._gathered = {}, {}, None, False

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take what tiles show of the places; called by Lightning."""
        if not isinstance(outputs, Mapping) or not {"prediction", "region"} <= set(outputs):
            return
        places = self._of_images(data_of(pl_module))
        for tile, row in zip(outputs["prediction"], outputs["region"].tolist(), strict=True):
            image, sample, *corners = row
            _, first, stop = np.reshape(corners, (3, -1))
            for number, place in enumerate(places.get(image, ())):
                low, high = np.maximum(place.start, first), np.minimum(place.stop, stop)
                if place.sample != sample or (low >= high).any():
                    continue
                if (image, number) not in self._restored:
                    size = np.subtract(place.stop, place.start)
                    self._restored[image, number] = np.full(size, np.nan, np.float32)
                kept = tile[(number % len(tile), *crop_in_tile(row))]
                inside = kept[_slices(low - first, high - first)].detach().cpu().float().numpy()
                box = _slices(low - place.start, high - place.start)
                self._restored[image, number][box] = inside

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw; called by Lightning."""
        restored: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._gathered = True
        for key, pixels in (item for part in gather(self._restored) for item in part.items()):
            former = restored.get(key, pixels)
            restored[key] = np.where(np.isnan(former), pixels, former)
        # Of a prediction that was continued, some places were predicted before.
        restored = {key: pixels for key, pixels in restored.items() if not np.isnan(pixels).any()}
        if not restored or not trainer.is_global_zero:
            return
        data = data_of(pl_module)
        images: ImageSet = data.images_of("predict")
        rows: dict[str, list[Place]] = {}
        for image, number in sorted(restored):
            region = self._of_images(data)[image][number]
            place = _draft(images, region, number, restored[image, number])
            rows.setdefault(_name(images.stacks[image]), []).append(place)
        self.path = folder_of_shard(self.folder, data.settings.shard) / "prediction.png"
        plot_places(rows, self.path)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Join the gathering where there was nothing to predict; called by Lightning."""
        if stage == "predict" and not self._gathered:
            gather(self._restored)

    def _of_images(self, data: Any) -> dict[int, list[Region]]:
        """Choose places of the first, the middle and the last image that is predicted."""
        if not self._places:
            stacks, among = data.predict_stacks, data.predict_images
            chosen = {among[i] for i in (0, (len(among) - 1) // 2, -1)}
            self._places = {i: _places(i, stacks[i]) for i in chosen}
        return self._places


def folder_of_shard(folder: Path, shard: str | None) -> Path:
    """Return the folder of a job that predicts a shard, in one that all jobs share."""
    return folder if shard is None else folder / f"shard_{shard.replace('/', '_of_')}"


def _places(image: int, stack: ImageStack) -> list[Region]:
    """Choose up to three planes of an image."""
    axes = [
        (n, LARGEST if d >= len(stack.data_shape) - 3 else 1) for d, n in enumerate(_size(stack))
    ]
    found = []
    for fraction in FRACTIONS:
        start = [max(min(int(fraction * n) - m // 2, n - m), 0) for n, m in axes]
        ends = [min(a + m, n) for a, (n, m) in zip(start, axes, strict=True)]
        found.append(Region(image, start[0], tuple(start[1:]), tuple(ends[1:])))
    return list(dict.fromkeys(found))


def _size(stack: ImageStack) -> tuple[int, ...]:
    """Return the number of samples, and the size ``(Z) Y X``."""
    return (stack.data_shape[0], *stack.data_shape[2:])


def _slices(start: NDArray[np.int64], stop: NDArray[np.int64]) -> tuple[slice, ...]:
    return tuple(map(slice, start.tolist(), stop.tolist()))


def _draft(images: ImageSet, region: Region, number: int, restored: NDArray[np.float32]) -> Place:
    """Read what a place was before; of one channel, another one for each number."""
    stack, channels = images.stacks[region.image], images.channels[region.image]
    noisy = read_region(stack, region, channels)
    chosen = range(stack.data_shape[1]) if channels is None else channels
    label = _label(stack, region, chosen[number % len(noisy)] if len(noisy) > 1 else None)
    scale = getattr(stack, "scale", None) or {}
    plane = restored.shape[-2:]
    before, after = noisy[number % len(noisy)].reshape(plane), restored.reshape(plane)
    return Place(before, after, label, scale.get("X"))


def _label(stack: ImageStack, region: Region, channel: int | None) -> str:
    """Say where a place is: its channel, and its index along axes longer than 1."""
    words = []
    if channel is not None:
        names = getattr(stack, "channel_names", None) or ()
        words.append(names[channel] if channel < len(names) else f"C {channel}")
    layout = layout_of(stack)
    sizes = [layout.size(axis) for axis in layout.sample_axes]
    index = [int(i) for i in np.unravel_index(region.sample, sizes)] if sizes else []
    at = [*zip(layout.sample_axes, index, sizes, strict=True)]
    if layout.spatial_axes == "ZYX":
        at.append(("Z", region.start[0], layout.size("Z")))
    return ", ".join([*words, *(f"{axis} {i}" for axis, i, n in at if n > 1)])


def _name(stack: ImageStack) -> str:
    """Return the name of a file, and of the image in it."""
    return absolute(stack.source).relative_to(file_of(stack.source).parent).as_posix()
