"""Images for a trained model: of any format, and with other axes than those of the training."""

from collections.abc import Callable, Collection
from inspect import signature
from typing import Any

import numpy as np

from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.errors import DataError


def opened(
    make: Callable[[dict[str, Any]], PatchDataModule],
    settings: dict[str, Any],
    given: Collection[str],
) -> tuple[PatchDataModule, dict[str, Any]]:
    """Make a data module with ``settings`` and set it up for prediction; return what it is made of.

    The user has ``given`` some of them. Axes, otherwise, are those of the training: of images that
    say other ones, such as OME-Zarr, these count. A model of planes takes volumes plane by plane.
    """
    if np.size(settings.get("patch_size") or 0) == 2 and "z_as_samples" not in given:
        settings = settings | {"z_as_samples": True}
    data = make(settings)
    try:
        data.setup("predict")
    except DataError as error:
        finds_axes = signature(type(data)).parameters["axes"].default == "auto"
        if "axes" in given or settings.get("axes") == "auto" or not finds_axes:
            raise
        data.teardown("predict")
        settings = settings | {"axes": "auto"}
        data = make(settings)
        try:
            data.setup("predict")
        except DataError:
            raise error from None
    return data, settings
