"""What a training run ends with: a picture of a denoised image, and scores against the truth."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from careamics_dm.cli.application import in_sweep
from careamics_dm.cli.sweep import PLANES
from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.errors import DataError
from careamics_dm.evaluation.comparison_plot import plot_denoised
from careamics_dm.evaluation.metrics import Scores
from careamics_dm.evaluation.planes import (
    Planes,
    is_rgb,
    label_of,
    middle,
    middle_plane,
    name_of,
    restored_planes,
)
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.image_stack import Channels, ImageStack
from careamics_dm.images.plane_stack import suit_patch
from careamics_dm.images.region import Region, read_region
from careamics_dm.models.base import RestorationModule
from careamics_dm.prediction.result_writer import ResultWriter
from careamics_dm.sources.source_path import TIFF, as_text, is_url


class Prediction(NamedTuple):
    """What becomes of ``predict_data``: its writer, and the ground truth of its first image."""

    writer: ResultWriter
    truth: ImageStack | None


def read_truth(truth: NDArray[Any] | str, stack: ImageStack) -> ImageStack:
    """Read an array, TIFF or ``.npy`` file that is the ground truth of ``stack``.

    Raises a DataError if it can't be read or has another shape.
    """
    clean: Any = truth
    if not isinstance(clean, np.ndarray):
        import tifffile  # late: of the sample, it is an array

        try:
            file = Path(clean).expanduser()
            clean = np.load(file) if file.suffix == ".npy" else tifffile.imread(file)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"truth: {truth} can't be read ({error}). Give a TIFF or .npy file."
            ) from error
    if clean.shape != tuple(stack.original_data_shape):
        raise DataError(
            f"truth: its shape is {clean.shape}, but that of {stack.source}, the first image of "
            f"predict_data, is {tuple(stack.original_data_shape)}. Give the clean version of it."
        )
    whole = ArrayStack(clean, stack.original_axes, "truth")
    return suit_patch(whole, len(stack.data_shape) - 2, z_as_samples=True)


def draw_result(
    folder: Path, data: PatchDataModule, model: Any, prediction: Prediction | None
) -> dict[str, float]:
    """Draw the first predicted image before and after denoising, or else a training image.

    A model that is no `RestorationModule` can't restore the latter: then there is no picture.
    Returns "psnr_noisy", "psnr", "si_psnr" and "ssim", empty without ground truth.
    """
    scores: dict[str, float] = {}
    if prediction is None and not isinstance(model, RestorationModule):
        return {}
    images = data.images_of("train" if prediction is None else "predict")
    stack, channels = images.stacks[0], images.channels[0]
    if prediction is not None:
        planes, scores = _read_prediction(data, prediction)
    else:
        planes = restored_planes(model, data, images, middle(stack))
    path, clean = folder / "denoised.png", planes.get("clean")
    title = _title(stack, channels, planes["noisy"]) if clean is None else None
    pixel_size = (getattr(stack, "scale", None) or {}).get("X")
    shown = planes["noisy"], planes["denoised"], path, clean
    plot_denoised(*shown, title=title, pixel_size=pixel_size)
    print(f"picture          {path}")
    if scores:
        print(f"PSNR             {scores['psnr_noisy']:.2f} dB -> {scores['psnr']:.2f} dB")
    if in_sweep():
        (folder / PLANES).parent.mkdir(parents=True, exist_ok=True)
        compact: Any = {name: plane.astype(np.float32) for name, plane in planes.items()}
        np.savez_compressed(folder / PLANES, **compact)
    return scores


def _title(stack: ImageStack, channels: Channels, plane: NDArray[Any]) -> str:
    """Name an image, and the plane and channel of it in a picture."""
    region = middle(stack)
    if len(region.start) == 3:
        z = (region.start[0] + region.stop[0]) // 2
        region = region._replace(start=(z, *region.start[1:]))
    chosen = range(stack.data_shape[1]) if channels is None else channels
    several = len(chosen) > 1 and plane.ndim == 2
    label = label_of(stack, region, chosen[0] if several else None)
    return ", ".join(filter(None, [name_of(stack), label]))


def _read_prediction(
    data: PatchDataModule, prediction: Prediction
) -> tuple[Planes, dict[str, float]]:
    """Read planes of the first image, also its ground truth ("clean"), and score them."""
    stack, truth = data.predict_stacks[0], prediction.truth
    channels = data.images_of("predict").channels[0]
    written = _open_result(prediction.writer)
    denoised = suit_patch(written, len(stack.data_shape) - 2, z_as_samples=True)
    region = middle(stack)
    noisy, restored = read_region(stack, region, channels), read_region(denoised, region, None)
    plane = partial(middle_plane, rgb=is_rgb(stack, channels, len(restored)))
    planes = {"noisy": plane(noisy), "denoised": plane(restored)}
    if truth is None:
        return planes, {}
    planes["clean"] = plane(read_region(truth, region, channels))
    before = _score(truth, stack, channels, channels)
    return planes, {"psnr_noisy": before["psnr"]} | _score(truth, denoised, None, channels)


def _open_result(writer: ResultWriter) -> ImageStack:
    """Open the first result, a TIFF or an OME-Zarr image."""
    # Late: training begins before; a result is of one format.
    path = writer.paths[0]
    if path.suffix.lower() in TIFF:
        from careamics_dm.formats.tiff.datamodule import open_tiff

        return open_tiff(path)[0]
    from careamics_dm.formats.zarr.discovery import ZarrSource, locate
    from careamics_dm.formats.zarr.opening import open_zarr
    from careamics_dm.formats.zarr.store_files import Place

    options = getattr(writer, "storage_options", None)
    place = Place(as_text(path)) if is_url(path) else locate(path)  # also in a zip file
    source = ZarrSource(place, "image")
    return open_zarr(source, storage_options=options)[0]


def _score(
    truth: ImageStack,
    image: ImageStack,
    channels: Sequence[int] | None,
    of_truth: Sequence[int] | None,
) -> dict[str, float]:
    """Score an image against the ground truth: means over channels, of which None selects all."""
    scores = None
    size = tuple(truth.data_shape[2:])
    for sample in range(truth.data_shape[0]):
        region = Region(0, sample, (0,) * len(size), size)
        expected = read_region(truth, region, of_truth).astype(np.float64)
        found = read_region(image, region, channels).astype(np.float64)
        scores = scores or Scores(len(expected))
        scores.add(torch.from_numpy(expected)[None], torch.from_numpy(found)[None])
    assert scores is not None
    return {name: float(np.mean(values)) for name, values in scores.as_dict().items()}
