"""Predictions as files that a function of the user writes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.prediction.mapped_file import MappedFile
from careamics_dm.prediction.result_file import ResultFile, ResultImage
from careamics_dm.prediction.result_writer import ResultWriter
from careamics_dm.sources.import_path import find_function, name_of


class FunctionWriter(ResultWriter):
    """Write predictions with a function of yours, which is called once for each complete image.

    Until then the pixels are in a file beside the result, so that large images need no memory, but
    twice their size on the disk.

    Parameters
    ----------
    folder, dtype, existing, output
        See `ResultWriter`.
    write_func : callable or str
        Function ``write_func(path, array, **info)``, or its import path (mymodule:write). ``info``
        has the ``axes`` of ``array``, the ``source`` (the name of the image), and ``scale``,
        ``origin``, ``channel_names``, ``channel_colors``, ``labels``, ``is_rgb``, ``image_name``
        and ``imagej`` as in `ImageStack`.
    extension : str
        Extension of the files that it writes, such as ``.h5``.

    Raises
    ------
    DataError
        As `ResultWriter`; or if ``write_func`` is not found, fails, or writes no file.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        write_func: Callable[..., Any] | str,
        extension: str,
        dtype: Literal["float32", "source"] = "float32",
        existing: Literal["error", "skip", "replace"] = "error",
        output: str = "prediction",
    ) -> None:
        super().__init__(folder, dtype=dtype, existing=existing, output=output)
        self.write_func = find_function("writer.write_func", write_func)
        if not isinstance(extension, str) or not extension.startswith("."):
            raise DataError(f"writer.extension={extension!r}: give one with its dot, such as .h5.")
        self.extension = extension

    def suffixes(self, stack: ImageStack) -> Sequence[str]:
        """Return the extension."""
        del stack
        return (self.extension,)

    def open(self, image: ResultImage, *, begin: bool) -> ResultFile:
        """Open a file; see `ResultWriter`."""
        return MappedFile(image, convert=partial(self._call, image), begin=begin)

    def _call(self, image: ResultImage, pixels: NDArray[Any], path: Path) -> None:
        info: dict[str, Any] = {"channel_names": None, "channel_colors": None, "labels": []}
        info |= {"is_rgb": False, "imagej": {}}
        info |= {"axes": image.layout.axes, "source": image.stack.source, **image.metadata}
        name = name_of(self.write_func)
        try:
            self.write_func(path, pixels.view(np.ndarray), **info)
        except Exception as error:  # it is the user's
            raise DataError(
                f"{image.stack.source}: {name} failed: {type(error).__name__}: {error}. It is "
                "called as write_func(path, array, **info)."
            ) from error
        if not path.exists():
            raise DataError(
                f"{image.stack.source}: {name} has not written {path.name} into the folder of the "
                "path that it was given. Let it write there."
            )
