"""``careamics-preview``: the patches that a model would see, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch

from careamics_dm.cli.application import application, build, suit_augmentation
from careamics_dm.cli.default_data import use_sample
from careamics_dm.cli.secrets import check_given
from careamics_dm.errors import DataError
from careamics_dm.evaluation.plots import plot_patches
from careamics_dm.models.trainer_data import lack_of_targets
from careamics_dm.prediction.output_paths import check_writable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from careamics_dm.datamodule.patch_datamodule import PatchDataModule


@application("preview")
def main(config: dict[str, Any], folder: Path) -> None:
    """Open the data, print a summary and draw a contact sheet."""
    check_given(config["data"])
    use_sample(config)
    check_writable(folder)
    L.seed_everything(config["seed"], verbose=False)
    n = config["n"]
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise DataError(f"n={n!r}: give how many patches to show, at least 1.")
    config["data"]["batch_format"] = "dict"
    if config["data"]["batch_size"] is None:
        config["data"]["batch_size"] = n
    model = build(config, "model")
    suit_augmentation(config, model)
    data: PatchDataModule = build(config, "data")
    needs = getattr(model, "learns_from", "noisy images")
    try:
        data.setup("fit")
        if needs != "noisy images" and not data.has_target("train"):
            raise lack_of_targets(type(model).__name__, needs, "train")
        print(data.summary())
        patches = draw(data, n)
        for side, numbers in data.statistics.items():
            print(f"{side:<8} offset {_rounded(numbers.offset)}, scale {_rounded(numbers.scale)}")
    finally:
        data.teardown("fit")
    masks = None
    if hasattr(model, "mask"):
        masked, mask = model.mask({"image": torch.from_numpy(patches["seen"])})
        patches["masked"], masks = masked.numpy(), mask[:, 0].numpy()
    rows = {name: images[:, 0] for name, images in patches.items()}
    plot_patches(rows, folder / "preview.png", n, masks=masks)
    print(f"picture  {folder / 'preview.png'}")


def draw(data: PatchDataModule, n: int) -> dict[str, NDArray[Any]]:
    """Draw training patches, ``N C (Z) Y X``, and targets: as stored, and as models get them."""
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


def _rounded(numbers: list[float]) -> str:
    return ", ".join(f"{number:.6g}" for number in numbers)


if __name__ == "__main__":
    main()
