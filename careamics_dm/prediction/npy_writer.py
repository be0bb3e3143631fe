"""Predictions as NumPy files."""

from collections.abc import Iterable, Sequence

from careamics_dm.images.image_stack import ImageStack
from careamics_dm.prediction.mapped_file import MappedFile
from careamics_dm.prediction.result_file import ResultFile, ResultImage
from careamics_dm.prediction.result_writer import ResultWriter


class NpyWriter(ResultWriter):
    """Write predictions as ``.npy`` files with the names, axes and shapes of the inputs.

    They hold pixels alone: no pixel size, no names of channels.

    Parameters
    ----------
    folder, dtype, existing, output
        See `ResultWriter`.
    """

    def suffixes(self, stack: ImageStack) -> Sequence[str]:
        """Return that of NumPy."""
        del stack
        return (".npy",)

    def check(self, image: ResultImage) -> Iterable[str]:
        """Return all that the image says of itself."""
        return image.stated()

    def open(self, image: ResultImage, *, begin: bool) -> ResultFile:
        """Open a file; see `ResultWriter`."""
        return MappedFile(image, begin=begin)
