"""What a training run shows at its end: a picture of the denoised image, and its scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.evaluation.comparison_plot import plot_denoised
from careamics_dm.evaluation.ground_truth import score
from careamics_dm.evaluation.image_views import middle, middle_plane, restored_planes
from careamics_dm.formats.tiff.datamodule import open_tiff
from careamics_dm.images.axes import Layout
from careamics_dm.images.region import read_region

if TYPE_CHECKING:
    from careamics_dm.datamodule.patch_datamodule import PatchDataModule
    from careamics_dm.evaluation.image_views import Planes
    from careamics_dm.images.image_stack import ImageStack
    from careamics_dm.models.base import RestorationModule
    from careamics_dm.prediction.tiff_writer import TiffWriter


def read_prediction(
    data: PatchDataModule, writer: TiffWriter, truth: ImageStack | None
) -> tuple[Planes, dict[str, float]]:
    """Read the prediction of the first image, and compare it with the ground truth.

    Parameters
    ----------
    data : PatchDataModule
        Set up for prediction.
    writer : TiffWriter
        Has written the predictions.
    truth : ImageStack or None
        The clean version of the first image.

    Returns
    -------
    planes : dict of str to ndarray
        "noisy", "denoised" and, with the ground truth, "clean": planes ``Y X`` of the first image.
    scores : dict of str to float
        "psnr_noisy", "psnr", "si_psnr" and "ssim" against the ground truth; empty without it.
    """
    stack = data.predict_stacks[0]
    channels = data.images_of("predict").channels[0]
    layout = Layout(stack.original_axes, tuple(stack.original_data_shape))
    axes = layout.with_channels(data.n_target_channels).axes  # as the writer arranges them
    denoised = open_tiff(writer.paths[0], axes, trust_axes=True)
    region = middle(stack)
    planes = {
        "noisy": middle_plane(read_region(stack, region, channels)),
        "denoised": middle_plane(read_region(denoised, region, None)),
    }
    if truth is None:
        return planes, {}
    planes["clean"] = middle_plane(read_region(truth, region, channels))
    before, after = score(truth, stack, channels, channels), score(truth, denoised, None, channels)
    return planes, {"psnr_noisy": before["psnr"]} | after


def restore_first_image(model: RestorationModule, data: PatchDataModule) -> Planes:
    """Restore the middle of the first training image.

    Parameters
    ----------
    model : RestorationModule
        With the weights to use.
    data : PatchDataModule
        Set up for training.

    Returns
    -------
    dict of str to ndarray
        "noisy" and "denoised", planes ``Y X``.
    """
    images = data.images_of("train")
    planes = restored_planes(model, data, images, middle(images.stacks[0]))
    return {name: planes[name] for name in ("noisy", "denoised")}


def draw_denoised(planes: Planes, path: Path, source: str) -> None:
    """Draw an image before and after denoising, and say where the picture is.

    Parameters
    ----------
    planes : dict of str to ndarray
        "noisy", "denoised" and perhaps "clean", ``Y X``.
    path : Path
        PNG to write.
    source : str
        Name of the image.
    """
    clean = planes.get("clean")
    title = f"middle of {Path(source).name}" if clean is None else None
    plot_denoised(planes["noisy"], planes["denoised"], path, clean, title=title)
    print(f"picture          {path}")


def save_planes(planes: Planes, path: Path) -> None:
    """Save planes as ``.npz`` for the comparison of a sweep; the folder is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compact: Any = {name: plane.astype(np.float32) for name, plane in planes.items()}
    np.savez_compressed(path, **compact)
