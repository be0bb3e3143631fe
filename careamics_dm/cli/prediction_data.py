"""Images for a trained model: of any format, and with other axes than those of the training."""

from collections.abc import Callable
from inspect import signature
from typing import Any

from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.errors import DataError


def opened(
    make: Callable[[dict[str, Any]], PatchDataModule], settings: dict[str, Any], *, fixed: bool
) -> PatchDataModule:
    """Make a data module with ``settings`` and set it up for prediction.

    Unless they are ``fixed`` by the user, axes are those of the training: of images that say other
    ones, such as OME-Zarr, these count.
    """
    data = make(settings)
    try:
        data.setup("predict")
    except DataError as error:
        finds_axes = signature(type(data)).parameters["axes"].default == "auto"
        if fixed or settings.get("axes") == "auto" or not finds_axes:
            raise
        data.teardown("predict")
        data = make(settings | {"axes": "auto"})
        try:
            data.setup("predict")
        except DataError:
            raise error from None
    return data
