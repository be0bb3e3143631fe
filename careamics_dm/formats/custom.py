"""Formats of your own: a function that reads a file, or one that returns image stacks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from careamics_dm.axes import DataError, check_axes
from careamics_dm.datamodule import PatchDataModule
from careamics_dm.formats._custom_files import FILES, FileArray
from careamics_dm.formats._custom_function import check_travels, find_function
from careamics_dm.formats._custom_stacks import load_stacks
from careamics_dm.image_stack import ArrayStack
from careamics_dm.memory import available_bytes
from careamics_dm.sources import Listing, list_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from careamics_dm.image_stack import ImageStack
    from careamics_dm.images import Images


class CustomDataModule(PatchDataModule):
    """Patches from formats of your own.

    Give one of two functions, itself or by import path (``"numpy.load"``, ``"mymodule:read"``;
    modules in the current folder are found too):

    - ``read_func(path) -> array`` reads a file. Data arguments take a path, a list, a folder
      (searched recursively), a glob or a manifest, and ``axes`` is required. Each file is read
      once in ``setup``, which a function that gives whole arrays needs to tell their shapes.
      Then all are kept in memory if they fit, else they are read one by one, whenever the pool
      needs them; up to 256 MiB of them are kept in between.
    - ``image_stack_loader(source, axes) -> list of ImageStack`` opens whatever you like: data
      arguments are passed on as they are, ``axes`` too. What an image stack is, `ImageStack`
      says; those written for CAREamics 0.3 will do. One that says its ``block_shape`` is read
      by such blocks, others by whole samples. `careamics_dm.testing.check_image_stack` checks
      one thoroughly.

    Both may be called in several threads at once; with spawned worker processes they must be
    importable there.

    Parameters
    ----------
    read_func : callable or str, optional
        Takes a `Path`.
    extension : str, optional
        Of the files that ``read_func`` reads, such as ``".npy"``; needed for folders.
    image_stack_loader : callable or str, optional
        Instead of ``read_func``.
    **shared
        Parameters of `PatchDataModule`.
    """

    def __init__(
        self,
        *,
        read_func: Callable[[Path], Any] | str | None = None,
        extension: str | None = None,
        image_stack_loader: Callable[[Any, str], list[ImageStack]] | str | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if (read_func is None) == (image_stack_loader is None):
            found = "neither is given" if read_func is None else "both are given"
            raise DataError(f"read_func, image_stack_loader: {found}. Give one of them.")
        self.read_func = self.image_stack_loader = None
        if read_func is not None:
            self.read_func = find_function("read_func", read_func)
        else:
            self.image_stack_loader = find_function("image_stack_loader", image_stack_loader)
        self.extension = _extension(extension)
        if self.extension is not None and self.read_func is None:
            raise DataError(
                f"extension={extension}: goes with read_func; an image_stack_loader gets the data "
                "arguments as they are."
            )

    def list_sources(self, data: Any, what: str) -> Listing:
        """Files for a read function; for a loader, what is given."""
        if self.read_func is None:
            return Listing([data])
        is_folder = isinstance(data, str | Path) and Path(data).expanduser().is_dir()
        if self.extension is None and is_folder:
            raise DataError(
                f"{what}: {data} is a folder. Say which files in it to read, for instance "
                "extension=.npy."
            )
        extensions = () if self.extension is None else (self.extension,)
        listing = list_files(data, extensions, what)
        if self.num_workers:
            check_travels(self.read_func, "read_func", self.start_method)
        axes = (self.target_axes if what.endswith("_target") else None) or self.axes
        if axes == "auto":
            shape = FileArray(listing.inputs[0], self.read_func).shape
            raise DataError(
                f'{what}: axes="auto", but a read function does not say its axes (the shape of '
                f"{listing.inputs[0]} is {shape}). Give {len(shape)} letters of STCZYX in that "
                'order, for instance axes="ZYX".'
            )
        return listing

    def open_source(self, source: Any, axes: str) -> list[ImageStack]:
        """See `PatchDataModule.open_source`; a read function does read the file."""
        if self.read_func is None:
            assert self.image_stack_loader is not None
            return self._checked(load_stacks(self.image_stack_loader, source, axes))
        array = FileArray(source, self.read_func)
        axes = check_axes(axes, array.shape, str(source))
        return [ArrayStack(array, axes, str(source), block_shape=array.shape)]

    def stamp(self, source: Any) -> None:
        """Nothing: an index holds plain descriptions, and no functions."""
        del source

    def _checked(self, stacks: list[ImageStack]) -> list[ImageStack]:
        for stack in stacks:
            if self.num_workers:
                check_travels(stack, stack.source, self.start_method)
            if self.in_memory is True and not isinstance(stack, ArrayStack):
                raise DataError(
                    f"{stack.source}: in_memory=true, but an image stack of your own is read by "
                    "patches. Leave it at auto: what fits pool_mib is read once and kept."
                )
        return stacks

    def _open(self, role: str) -> Images:
        if self.read_func is None or self.in_memory is False or role == "predict":
            return super()._open(role)
        # The pixels that are read for their shapes are most likely loaded: keep them until then.
        with FILES.roomy(available_bytes() // 4):
            return super()._open(role)


def _extension(value: Any) -> str | None:
    if value is None:
        return None
    bare = value.lstrip("*").removeprefix(".") if isinstance(value, str) else ""
    if not bare or "/" in bare:
        raise DataError(f"extension={value!r}: give the end of file names, such as .npy.")
    return f".{bare.lower()}"
