"""Arrays in memory and ``.npy`` files."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.errors import DataError, blame_others, parsed
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.axes import check_axes, unstated_axes
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.raw_array import RawArray
from careamics_dm.sources.file_kind import other_kind
from careamics_dm.sources.listing import Listing, list_files


class ArrayDataModule(PatchDataModule):
    """Patches from NumPy arrays, or from ``.npy`` files.

    Data arguments take an array, a list of arrays (shapes may differ), or what names ``.npy``
    files: a path, a list, a folder, a glob or a manifest. Arrays are not copied and worker
    processes share them; of files only what is needed is read, and they are never unpickled.
    ``axes`` is required, as arrays do not say theirs.

    Its arguments are those of all formats; see `Settings`.
    """

    def list_sources(self, data: Any, what: str) -> Listing:
        """Arrays as they are, or the ``.npy`` files that a path names."""
        arrays = _arrays_in(data, what)
        if arrays and len(arrays) < (1 if isinstance(data, np.ndarray) else len(data)):
            kinds = [type(d).__name__ for d in data if not isinstance(d, np.ndarray)]
            raise DataError(f"{what}: arrays and {', '.join(kinds)} in one list. Use one kind.")
        if what == "val_data":
            _check_apart(_arrays_in(self.settings.train_data, "train_data"), arrays)
        return Listing([*arrays]) if arrays else list_files(data, (".npy",), what)

    def open_source(self, source: Any, axes: str) -> list[ImageStack]:
        """See `PatchDataModule.open_source`."""
        if isinstance(source, Path):
            name, array = str(source), _find_npy(source)
        else:
            name, array = source
        if axes == "auto":
            raise unstated_axes(name, "arrays do not say their axes", array.shape)
        if isinstance(array, np.ma.MaskedArray):
            raise DataError(f"{name}: is a masked array. Fill it: array.filled(0), for instance.")
        # Any box of a raw file can be read alone.
        in_memory = isinstance(array, np.ndarray) and not isinstance(array, np.memmap)
        block = None if in_memory else (1,) * len(array.shape)
        axes = check_axes(axes, array.shape, name)
        return [ArrayStack(array, axes, name, block_shape=block)]


def _arrays_in(data: Any, what: str) -> list[tuple[str, NDArray[Any]]]:
    """Return the arrays among what an argument names, each with a name for messages."""
    if isinstance(data, np.ndarray):
        return [(what, data)]
    listed = enumerate(data if isinstance(data, list | tuple) else [])
    return [(f"{what}_{i:04d}", array) for i, array in listed if isinstance(array, np.ndarray)]


def _check_apart(
    train: list[tuple[str, NDArray[Any]]], val: list[tuple[str, NDArray[Any]]]
) -> None:
    """Refuse pixels in memory that train and validate."""
    for (name, array), (other, trained) in product(val, train):
        if np.may_share_memory(array, trained) and np.shares_memory(array, trained):
            raise DataError(
                f"val_data: {name} has pixels of {other}, in the same memory. Give other images, "
                "or leave out val_data to hold patches out of the training data."
            )


def _find_npy(path: Path) -> RawArray:
    """Find the array in a ``.npy`` file without reading or unpickling it."""
    try:
        mapped = parsed(lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # a damaged header raises all sorts
        blame_others(error, path)
        advice = other_kind(path, "array") or " Save it again."
        raise DataError(f"{path}: not a readable .npy file.{advice}") from error
    if not isinstance(mapped, np.memmap):
        mapped.close()
        raise DataError(f"{path}: holds no single array. Save one array with numpy.save.")
    order = "C" if mapped.flags.c_contiguous else "F"
    return RawArray(path, mapped.dtype, mapped.shape, mapped.offset, order)
