"""The ground truth of the first predicted image, and scores against it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch

from careamics_dm.errors import DataError
from careamics_dm.evaluation.metrics import Scores
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.region import Region, read_region

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from careamics_dm.images.image_stack import ImageStack


def read_truth(truth: NDArray[Any] | str, stack: ImageStack) -> ArrayStack:
    """Read an array, TIFF or ``.npy`` file that is the ground truth of ``stack``.

    Raises a DataError if it can't be read or has another shape.
    """
    clean = truth if isinstance(truth, np.ndarray) else _read(truth)
    if clean.shape != tuple(stack.original_data_shape):
        raise DataError(
            f"truth: its shape is {clean.shape}, but that of {stack.source}, the first image of "
            f"predict_data, is {tuple(stack.original_data_shape)}. Give the clean version of it."
        )
    return ArrayStack(clean, stack.original_axes, "truth")


def score(
    truth: ImageStack,
    image: ImageStack,
    channels: Sequence[int] | None,
    of_truth: Sequence[int] | None,
) -> dict[str, float]:
    """Score an image against the ground truth: "psnr" and "si_psnr" in dB, and "ssim".

    All are means over channels, of which None selects all.
    """
    scores = None
    for sample in range(truth.data_shape[0]):
        region = Region(0, sample, (0,) * (len(truth.data_shape) - 2), tuple(truth.data_shape[2:]))
        expected = read_region(truth, region, of_truth).astype(np.float64)
        found = read_region(image, region, channels).astype(np.float64)
        scores = scores or Scores(len(expected))
        scores.add(torch.from_numpy(expected)[None], torch.from_numpy(found)[None])
    assert scores is not None
    return {name: float(np.mean(values)) for name, values in scores.as_dict().items()}


def _read(path: str) -> NDArray[Any]:
    try:
        file = Path(path).expanduser()
        clean: NDArray[Any] = np.load(file) if file.suffix == ".npy" else tifffile.imread(file)
        return clean
    except (OSError, ValueError) as error:
        raise DataError(
            f"truth: {path} can't be read ({error}). Give a TIFF or .npy file."
        ) from error
