"""``careamics-train``: train a model, then show what it does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import tifffile
import torch
from omegaconf import OmegaConf

from careamics_dm._hydra import application, build
from careamics_dm._interrupt import StopOnRequest
from careamics_dm.axes import DataError
from careamics_dm.checkpoints import SaveConfig, load_checkpoint
from careamics_dm.formats.tiff import open_tiff
from careamics_dm.image_stack import ArrayStack
from careamics_dm.metrics import psnr
from careamics_dm.models.base import RestorationModule
from careamics_dm.plots import middle_plane, plot_denoised, plot_losses
from careamics_dm.regions import Region, read_region
from careamics_dm.writers import check_writable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from careamics_dm.datamodule import PatchDataModule
    from careamics_dm.image_stack import ImageStack

VIEW = {"Y": 512, "X": 512, "Z": 32}
"""A picture shows at most so many pixels per axis, from the middle of an image."""


@application("train")
def main(config: dict[str, Any], folder: Path) -> float | None:
    """Train, save and show; return the last validation (else training) loss for a sweeper."""
    use_sample(config)
    check_writable(folder)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    L.seed_everything(config["seed"], workers=True, verbose=False)
    if config["checkpoint"]:
        load_checkpoint(config["checkpoint"])  # refused before data are read
    data: PatchDataModule = build(config, "data")
    try:
        return train(config, folder, data)
    finally:
        data.teardown("fit")


def train(config: dict[str, Any], folder: Path, data: PatchDataModule) -> float | None:
    """Train on data that are not opened yet, and show the result."""
    model: L.LightningModule = build(config, "model")
    # Whatever prediction will need is tried now, not after hours of training.
    data.setup("fit")
    writer = truth = None
    if config["data"]["predict_data"] is not None:
        if data.batch_format != "dict":
            raise DataError(
                "predict_data: needs data.batch_format=dict, to know where tiles belong."
            )
        data.setup("predict")
        writer = build(config, "writer", folder=config["writer"]["folder"] or folder / "denoised")
        writer.setup(SimpleNamespace(datamodule=data), model, "predict")
        truth = read_truth(config, data.predict_stacks[0])
    logger, callbacks = config.get("logger"), config.get("callbacks") or {}
    trainer: L.Trainer = build(
        config,
        "trainer",
        default_root_dir=folder,
        logger=logger is not None and build(config, "logger", **into(folder, logger)),
        callbacks=[
            *(build(callbacks, name, **into(folder, callbacks[name])) for name in callbacks),
            SaveConfig(config),
            StopOnRequest(),
        ],
    )
    trainer.fit(model, datamodule=data, ckpt_path=config["checkpoint"], weights_only=True)
    loss = trainer.callback_metrics.get("val_loss", trainer.callback_metrics.get("train_loss"))
    print()
    if (folder / "model.ckpt").exists():
        print(f"model            {folder / 'model.ckpt'}")
    if (folder / "logs" / "metrics.csv").exists():
        plot_losses(folder / "logs" / "metrics.csv", folder / "losses.png")
        print(f"losses           {folder / 'losses.png'}")
    if writer is not None:
        show_prediction(config, model, data, folder, writer, truth)
    elif isinstance(model, RestorationModule):
        show_view(model, data, folder)
    return None if loss is None else float(loss)


def into(folder: Path, config: dict[str, Any]) -> dict[str, Path]:
    """Return the arguments of a logger or callback that say where to write, where left open."""
    keys = ("save_dir", "dirpath")
    return {key: folder for key in keys if key in config and config[key] is None}


def use_sample(config: dict[str, Any]) -> None:
    """Fill in the embedded sample where no training data are given."""
    data = config["data"]
    if data["train_data"] is not None or not data["_target_"].endswith(".ArrayDataModule"):
        return
    volume = isinstance(data["patch_size"], list) and len(data["patch_size"]) == 3
    name, axes = ("filaments", "ZYX") if volume else ("nuclei", "YX")
    print(f"No data.train_data given: using the embedded sample ({name}, {axes}).")
    sample = {"_target_": "careamics_dm.samples.noisy", "name": name}
    data |= {"train_data": sample, "axes": axes}
    if data["predict_data"] is None:
        data["predict_data"] = sample
        if "truth" in config and config["truth"] is None:
            config["truth"] = sample | {"_target_": "careamics_dm.samples.clean"}


def read_truth(config: dict[str, Any], stack: ImageStack) -> ArrayStack | None:
    """Read the clean image of ``truth``; it must be like the image that is predicted first.

    Raises
    ------
    DataError
        It can't be read, or has another shape.
    """
    truth = config["truth"]
    if truth is None:
        return None
    if isinstance(truth, dict):
        clean = build(config, "truth")
    else:
        try:
            path = Path(truth).expanduser()
            clean = np.load(path) if path.suffix == ".npy" else tifffile.imread(path)
        except (OSError, ValueError) as error:
            raise DataError(
                f"truth: {truth} can't be read ({error}). Name a TIFF or .npy file."
            ) from error
    if clean.shape != tuple(stack.original_data_shape):
        raise DataError(
            f"truth: its shape is {clean.shape}, but that of {stack.source}, the first image of "
            f"predict_data, is {tuple(stack.original_data_shape)}. Name the clean image of that."
        )
    return ArrayStack(clean, stack.original_axes, "truth")


def show_prediction(
    config: dict[str, Any],
    model: L.LightningModule,
    data: PatchDataModule,
    folder: Path,
    writer: Any,
    truth: ImageStack | None,
) -> None:
    """Predict ``predict_data``, write the images, and draw the first one."""
    keys = ("_target_", "_convert_", "accelerator", "devices", "precision")
    trainer: L.Trainer = build(
        {"trainer": {key: config["trainer"][key] for key in keys if key in config["trainer"]}},
        "trainer",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[writer, StopOnRequest()],
        default_root_dir=folder,
    )
    if len(data.predict_dataloader()) > 0:  # else all results are there already, and kept
        trainer.predict(model, datamodule=data, return_predictions=False)
    print(f"denoised images  {writer.folder}")
    stack = data.predict_stacks[0]
    channels = data.channel_indices(stack)
    denoised = open_tiff(writer.paths[0], stack.original_axes, trust_axes=True)
    region = middle(stack)
    clean = None if truth is None else read_region(truth, region, channels)
    draw(stack, data, region, read_region(denoised, region, None), folder, clean)
    if truth is not None:
        expected = whole(truth, channels)
        before = psnr(expected, whole(stack, channels))
        after = psnr(expected, whole(denoised, None))
        print(f"PSNR             {before:.2f} dB -> {after:.2f} dB")


def show_view(model: RestorationModule, data: PatchDataModule, folder: Path) -> None:
    """Draw the middle of the first training image, as it is and denoised."""
    stack = data.train_stacks[0]
    region = middle(stack)
    noisy = read_region(stack, region, data.channel_indices(stack))
    # Where the data have NaN, nan_policy has let them pass.
    image = torch.from_numpy(np.nan_to_num(noisy.astype(np.float32)))[None]
    model.eval()
    with torch.inference_mode():
        batch = data.transform({"image": image.to(model.device)})
        result = model.predict_step(batch)["prediction"]
    draw(stack, data, region, result[0].cpu().numpy(), folder, None)


def middle(stack: ImageStack) -> Region:
    """Return the middle of the first sample, as much of it as a picture shows."""
    size = stack.data_shape[2:]
    shown = [min(n, VIEW[axis]) for n, axis in zip(size, "ZYX"[-len(size) :], strict=True)]
    start = tuple((n - m) // 2 for n, m in zip(size, shown, strict=True))
    return Region(0, 0, start, tuple(a + m for a, m in zip(start, shown, strict=True)))


def draw(
    stack: ImageStack,
    data: PatchDataModule,
    region: Region,
    denoised: NDArray[Any],
    folder: Path,
    clean: NDArray[Any] | None,
) -> None:
    """Draw a region, ``C (Z) Y X``, before and after."""
    axes = "C" + "ZYX"[-len(region.start) :]
    noisy = read_region(stack, region, data.channel_indices(stack))
    path = folder / "denoised.png"
    plot_denoised(
        middle_plane(noisy, axes),
        middle_plane(denoised, axes),
        path,
        None if clean is None else middle_plane(clean, axes),
        title=f"middle of {Path(stack.source).name}" if clean is None else None,
    )
    print(f"picture          {path}")


def whole(stack: ImageStack, channels: list[int] | None) -> NDArray[Any]:
    """Read a whole image as ``S C (Z) Y X``."""
    size = tuple(stack.data_shape[2:])
    samples = range(stack.data_shape[0])
    start = (0,) * len(size)
    return np.stack([read_region(stack, Region(0, s, start, size), channels) for s in samples])


if __name__ == "__main__":
    main()
