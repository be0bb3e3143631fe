"""``careamics-preview``: the patches that a model would see, without training."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from careamics_dm.cli.application import build
from careamics_dm.cli.preparation import check_targets, prepare_model
from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.errors import DataError
from careamics_dm.evaluation.planes import channel_name, is_rgb, name_of
from careamics_dm.evaluation.plots import plot_patches
from careamics_dm.images.image_set import ImageSet
from careamics_dm.models.base import RestorationModule
from careamics_dm.prediction.result_paths import check_writable


def main(config: dict[str, Any], folder: Path) -> None:
    """Open the data, print a summary and draw a contact sheet."""
    n = config["n"]
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise DataError(f"n={n!r}: give how many patches to draw, a whole number from 1.")
    config["data"]["batch_format"] = "dict"
    if config["data"]["batch_size"] is None:
        config["data"]["batch_size"] = n
    check_writable(folder)
    model = prepare_model(config)
    data: PatchDataModule = build(config, "data")
    try:
        data.setup("fit")
        check_targets(model, data, "train")
        if isinstance(model, RestorationModule):
            model.build(data)
            model.check_patch_size(data.patch_size)
        print(data.summary())
        images = data.images_of("train")
        patches = read_patches(data, n)
        for kind, numbers in data.statistics.items():
            columns = numbers._asdict().items()
            found = (f"{name} {_rounded(column)}" for name, column in columns if column)
            print(f"{kind:<8} {', '.join(found)}")
    finally:
        data.teardown("fit")
    masks = None
    if hasattr(model, "mask"):
        masked, mask = model.mask({"image": torch.from_numpy(patches["seen"])})
        patches["masked"], masks = masked.numpy(), mask.numpy()
    draw(images, patches, masks, n, folder / "preview.png")
    print(f"picture  {folder / 'preview.png'}")


def read_patches(data: PatchDataModule, n: int) -> dict[str, NDArray[Any]]:
    """Read training patches, ``N C (Z) Y X``, and targets: as stored, and as models get them."""
    rows: dict[str, list[NDArray[Any]]] = {}
    found = 0
    for stored in data.train_dataloader():
        seen = data.transform(stored)
        images = {"stored": stored["image"], "seen": seen["image"]}
        if "target" in seen:
            images |= {"target stored": stored["target"], "target seen": seen["target"]}
        for name, image in images.items():
            rows.setdefault(name, []).append(image.numpy())
        found += len(stored["image"])
        if found >= n:
            break
    return {name: np.concatenate(images)[:n] for name, images in rows.items()}


def draw(
    images: ImageSet,
    patches: dict[str, NDArray[Any]],
    masks: NDArray[np.bool_] | None,
    n: int,
    path: Path,
) -> None:
    """Draw patches ``N C (Z) Y X``: their first channel, which is named, or RGB in colour."""
    counts = [len(pixels[0]) for pixels in patches.values()]
    pairs = list(zip(images.stacks, images.channels, strict=True))
    rgb = all(is_rgb(stack, channels, c) for stack, channels in pairs for c in counts)
    rows = {k: np.moveaxis(p, 1, -1) if rgb else p[:, 0] for k, p in patches.items()}
    if masks is not None:
        masks = np.asarray(masks.any(1)) if rgb else masks[:, 0]
    sizes = {(getattr(stack, "scale", None) or {}).get("X") for stack in images.stacks}
    stack, channels = pairs[0]
    words = [name_of(stack) if len(pairs) == 1 else f"{len(pairs)} images"]
    if counts[0] > 1 and not rgb:
        words.append(channel_name(stack, channels[0] if channels else 0))
    pixel_size = sizes.pop() if len(sizes) == 1 else None
    title = ", ".join(words)
    plot_patches(rows, path, n, masks=masks, rgb=rgb, title=title, pixel_size=pixel_size)


def _rounded(numbers: list[float]) -> str:
    return ", ".join(f"{number:.6g}" for number in numbers)
