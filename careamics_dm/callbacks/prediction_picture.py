"""A picture of what was predicted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from numpy.typing import NDArray

from careamics_dm.evaluation.places_plot import Place, plot_places
from careamics_dm.evaluation.planes import is_rgb, label_of, middle_plane, name_of
from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.image_stack import Channels, ImageStack
from careamics_dm.images.region import Region, read_region
from careamics_dm.models.trainer_data import data_of
from careamics_dm.prediction.stitching import crop_in_tile
from careamics_dm.sources.ranks import gather

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
        data = data_of(pl_module)
        places = self._of_images(data)
        for tile, row in zip(outputs["prediction"], outputs["region"].tolist(), strict=True):
            image, sample, *corners = row
            _, first, stop = np.reshape(corners, (3, -1))
            for number, place in enumerate(places.get(image, ())):
                low, high = np.maximum(place.start, first), np.minimum(place.stop, stop)
                if place.sample != sample or (low >= high).any():
                    continue
                kept = tile[(_channels(data, image, number, len(tile)), *crop_in_tile(row))]
                if (image, number) not in self._restored:
                    size = len(kept), *np.subtract(place.stop, place.start)
                    self._restored[image, number] = np.full(size, np.nan, np.float32)
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
            rows.setdefault(name_of(images.stacks[image]), []).append(place)
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
            channels = data.images_of("predict").channels
            self._places = {i: _places(i, stacks[i], channels[i]) for i in chosen}
        return self._places


def folder_of_shard(folder: Path, shard: str | None) -> Path:
    """Return the folder of a job that predicts a shard, in one that all jobs share."""
    return folder if shard is None else folder / f"shard_{shard.replace('/', '_of_')}"


def _places(image: int, stack: ImageStack, channels: Channels) -> list[Region]:
    """Choose up to three planes of an image; the same one for channels of a small image."""
    axes = [
        (n, LARGEST if d >= len(stack.data_shape) - 3 else 1) for d, n in enumerate(_size(stack))
    ]
    found = []
    for fraction in FRACTIONS:
        start = [max(min(int(fraction * n) - m // 2, n - m), 0) for n, m in axes]
        ends = [min(a + m, n) for a, (n, m) in zip(start, axes, strict=True)]
        found.append(Region(image, start[0], tuple(start[1:]), tuple(ends[1:])))
    different = list(dict.fromkeys(found))
    n = stack.data_shape[1] if channels is None else len(channels)
    # Of a small image, all there is, once for each of the first three channels.
    return different if len(different) > 1 else found[: 1 if is_rgb(stack, channels, n) else n]


def _size(stack: ImageStack) -> tuple[int, ...]:
    """Return the number of samples, and the size ``(Z) Y X``."""
    return (stack.data_shape[0], *stack.data_shape[2:])


def _channels(data: Any, image: int, number: int, n: int) -> slice:
    """Choose one of ``n`` predicted channels for a place, or all of RGB."""
    images = data.images_of("predict")
    if is_rgb(images.stacks[image], images.channels[image], n):
        return slice(n)
    return slice(number % n, number % n + 1)


def _slices(start: NDArray[np.int64], stop: NDArray[np.int64]) -> tuple[slice, ...]:
    return slice(None), *map(slice, start.tolist(), stop.tolist())


def _draft(images: ImageSet, region: Region, number: int, restored: NDArray[np.float32]) -> Place:
    """Read what a place was before; of one channel, another one for each number."""
    stack, channels = images.stacks[region.image], images.channels[region.image]
    noisy = read_region(stack, region, channels)
    chosen = range(stack.data_shape[1]) if channels is None else channels
    rgb, n = len(restored) == 3, len(noisy)
    label = label_of(stack, region, chosen[number % n] if n > 1 and not rgb else None)
    before = noisy if rgb else noisy[number % n, None]
    scale = getattr(stack, "scale", None) or {}
    planes = middle_plane(before, rgb=rgb), middle_plane(restored, rgb=rgb)
    return Place(*planes, label, scale.get("X"))
