"""Formats of your own: a function that reads a file, or one that returns image stacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.datamodule.settings import SharedSettings
from careamics_dm.errors import DataError
from careamics_dm.formats.custom.user_images import FILES, FileArray, load_stacks
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.images.axes import check_axes, unstated_axes
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.sources.free_memory import available_bytes
from careamics_dm.sources.import_path import check_travels, find_function
from careamics_dm.sources.listing import Listing, list_files


class CustomDataModule(PatchDataModule):
    """Patches from formats of your own.

    Give one of two functions, itself or by import path (``"numpy.load"``, ``"mymodule:read"``;
    modules in the current folder are found too):

    - ``read_func(path) -> array`` reads a file. Data arguments take a path, a list, a folder
      (searched recursively), a glob or a manifest, and ``axes`` is required. Each file is read
      once in ``setup``, as only then their shapes are certain.
      Then all stay in memory if they fit, else they are read one by one, whenever the pool
      needs them; up to 256 MiB of them stay in between.
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
        Function (or its import path) that reads a file, given its ``Path``.
    extension : str, optional
        Ending of the files to read, such as ``".npy"``; needed for folders.
    image_stack_loader : callable or str, optional
        Function (or its import path) that opens image stacks, instead.
    **shared
        Arguments of all formats; see `Settings`.
    """

    def __init__(
        self,
        *,
        read_func: Callable[[Path], Any] | str | None = None,
        extension: str | None = None,
        image_stack_loader: Callable[[Any, str], list[ImageStack]] | str | None = None,
        **shared: Unpack[SharedSettings],
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
            raise DataError(f"extension={extension}: goes with read_func, not with a loader.")

    def list_sources(self, data: Any, what: str) -> Listing:
        """Files for a read function; for a loader, what is given."""
        if self.read_func is None:
            return Listing([data])
        is_folder = isinstance(data, str | Path) and Path(data).expanduser().is_dir()
        if self.extension is None and is_folder:
            raise DataError(f"{what}: {data} is a folder. Say which files to read: extension=.npy.")
        extensions = () if self.extension is None else (self.extension,)
        listing = list_files(data, extensions, what)
        if self.settings.num_workers:
            check_travels(self.read_func, "read_func", self.settings.start_method)
        settings, is_target = self.settings, what.endswith("_target")
        axes = (settings.target_axes if is_target else None) or settings.axes
        if axes == "auto":
            shape = FileArray(listing.inputs[0], self.read_func).shape
            why = f"a read function does not say its axes, here of {listing.inputs[0]}"
            raise unstated_axes(what, why, shape)
        return listing

    def open_source(self, source: Any, axes: str) -> list[ImageStack]:
        """See `PatchDataModule.open_source`; a read function does read the file."""
        if self.read_func is None:
            assert self.image_stack_loader is not None
            return self._checked(load_stacks(self.image_stack_loader, source, axes))
        array = FileArray(source, self.read_func)
        axes = check_axes(axes, array.shape, str(source))
        return [ArrayStack(array, axes, str(source), block_shape=array.shape)]

    def _checked(self, stacks: list[ImageStack]) -> list[ImageStack]:
        for stack in stacks:
            if self.settings.num_workers:
                check_travels(stack, stack.source, self.settings.start_method)
            if self.settings.in_memory is True and not isinstance(stack, ArrayStack):
                raise DataError(
                    f"{stack.source}: in_memory=true, but an image stack of your own is read by "
                    "patches. Leave it at auto: what fits pool_mib is read once."
                )
        return stacks

    def setup(self, stage: str) -> None:
        """Open and check the sources of a stage; see `PatchDataModule.setup`."""
        if self.read_func is None or self.settings.in_memory is False or stage == "predict":
            return super().setup(stage)
        # The pixels that are read for their shapes are most likely loaded: keep them until then.
        with FILES.roomy(available_bytes() // 4):
            return super().setup(stage)


def _extension(value: Any) -> str | None:
    if value is None:
        return None
    bare = value.lstrip("*").removeprefix(".") if isinstance(value, str) else ""
    if not bare or "/" in bare:
        raise DataError(f"extension={value!r}: give the end of file names, such as .npy.")
    return f".{bare.lower()}"
