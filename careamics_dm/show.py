"""What a training run shows at its end: denoised images, a picture, scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.axes import Layout
from careamics_dm.formats.tiff import open_tiff
from careamics_dm.plots import plot_denoised
from careamics_dm.regions import read_region
from careamics_dm.truth import score
from careamics_dm.views import middle, plane_of, read_pair, restore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from careamics_dm.datamodule import PatchDataModule
    from careamics_dm.image_stack import ImageStack
    from careamics_dm.models.base import RestorationModule
    from careamics_dm.writers import TiffWriter

    Planes = dict[str, NDArray[Any]]


def show_prediction(
    data: PatchDataModule, writer: TiffWriter, truth: ImageStack | None
) -> tuple[Planes, dict[str, float]]:
    """Read what was predicted of the first of ``predict_data``, and compare it with the truth.

    Parameters
    ----------
    data : PatchDataModule
        Set up for prediction.
    writer : TiffWriter
        That has written the images.
    truth : ImageStack or None
        The clean image of the first one.

    Returns
    -------
    planes : dict of str to ndarray
        "noisy", "denoised" and, with the truth, "clean": planes ``Y X`` of the first image.
    scores : dict of str to float
        "psnr_noisy", "psnr", "si_psnr" and "ssim" against the truth; empty without it.
    """
    stack = data.predict_stacks[0]
    channels = data.channel_indices(stack)
    layout = Layout(stack.original_axes, tuple(stack.original_data_shape))
    axes = layout.with_channels(data.n_target_channels).axes  # as the writer has put them
    denoised = open_tiff(writer.paths[0], axes, trust_axes=True)
    region = middle(stack)
    planes = {
        "noisy": plane_of(read_region(stack, region, channels)),
        "denoised": plane_of(read_region(denoised, region, None)),
    }
    if truth is None:
        return planes, {}
    planes["clean"] = plane_of(read_region(truth, region, channels))
    before, after = score(truth, stack, channels, channels), score(truth, denoised, None, channels)
    return planes, {"psnr_noisy": before["psnr"]} | after


def show_view(model: RestorationModule, data: PatchDataModule) -> Planes:
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
    noisy, _ = read_pair(images, middle(images.stacks[0]))
    return {"noisy": plane_of(noisy), "denoised": plane_of(restore(model, data, noisy))}


def draw(planes: Planes, path: Path, source: str) -> None:
    """Draw planes before and after, with the truth if it is among them.

    Parameters
    ----------
    planes : dict of str to ndarray
        "noisy", "denoised" and perhaps "clean", ``Y X``.
    path : Path
        PNG to write.
    source : str
        Of the image.
    """
    clean = planes.get("clean")
    title = f"middle of {Path(source).name}" if clean is None else None
    plot_denoised(planes["noisy"], planes["denoised"], path, clean, title=title)
    print(f"picture          {path}")


def keep_view(planes: Planes, path: Path) -> None:
    """Leave planes for the comparison of a sweep.

    Parameters
    ----------
    planes : dict of str to ndarray
        As for `draw`.
    path : Path
        ``.npz`` to write; its folder is made if missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    compact: Any = {name: plane.astype(np.float32) for name, plane in planes.items()}
    np.savez_compressed(path, **compact)
