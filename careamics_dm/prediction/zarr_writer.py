"""Predictions as OME-Zarr."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from careamics_dm.errors import DataError
from careamics_dm.images import argument_checks as check
from careamics_dm.images.axes import Layout
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.prediction.result_file import ResultFile, ResultImage
from careamics_dm.prediction.result_paths import ZARR, explained
from careamics_dm.prediction.result_writer import ResultWriter
from careamics_dm.prediction.zarr_layout import parts
from careamics_dm.prediction.zarr_store import Target, describe_store
from careamics_dm.sources.source_path import is_url


class ZarrWriter(ResultWriter):
    """Write predictions as OME-Zarr images, with smaller levels for viewers.

    Images of a plate become a plate, and those of another store or file of several images a
    collection, of what is predicted. Axes have the order of OME-Zarr (``TCZYX``); samples are T.

    Parameters
    ----------
    folder : path or URL
        Where to write: a local folder, or a URL that fsspec can write to (``s3://bucket/results``).
    ngff_version : {"0.5", "0.4"}
        Version of OME-Zarr: 0.5, of Zarr 3 with shards, or 0.4, of Zarr 2, for older programs.
    storage_options : dict, optional
        For URLs, passed on to the fsspec file system. Keys and passwords are better left to the
        environment (``AWS_PROFILE``, say).
    dtype, existing, output
        See `ResultWriter`.
    """

    to_urls = True

    def __init__(
        self,
        folder: str | Path,
        *,
        ngff_version: Literal["0.5", "0.4"] = "0.5",
        storage_options: Mapping[str, Any] | None = None,
        dtype: Literal["float32", "source"] = "float32",
        existing: Literal["error", "skip", "replace"] = "error",
        output: str = "prediction",
    ) -> None:
        super().__init__(folder, dtype=dtype, existing=existing, output=output)
        if str(self.folder).lower().endswith((".zip", ".ozx")):
            raise DataError(
                f"writer.folder={folder} is a zip file, in which nothing can be written twice. "
                "Give a folder, and zip the results."
            )
        if not isinstance(storage_options, Mapping | None):
            raise DataError(
                f"writer.storage_options={storage_options!r}: give names and values, or null."
            )
        # On the command line it is a number.
        version = check.one_of("writer.ngff_version", str(ngff_version), ("0.5", "0.4"))
        self.storage_options = dict(storage_options or {})
        self.ngff_version = version
        self.target = Target(version, self.storage_options)

    def suffixes(self, stack: ImageStack) -> Sequence[str]:
        """Return that of a store."""
        del stack
        return (ZARR,)

    def check(self, image: ResultImage) -> Iterable[str]:
        """Return what OME-Zarr lacks."""
        samples = Layout(image.layout.axes, image.layout.shape).sample_axes
        several = len(samples) > 1
        lost = image.stated("L" if samples == "T" else "TL")
        return ["axes of samples (all are T)"] * several + lost

    def open(self, image: ResultImage, *, begin: bool) -> ResultFile:
        """Open an image; see `ResultWriter`."""
        from careamics_dm.prediction.zarr_file import ZarrFile  # late: imports zarr

        # The display range of a source does not suit another output, such as uncertainty.
        return ZarrFile(image, self.target, self.output == "prediction", begin=begin)

    def block_shape(self, stack: ImageStack) -> Sequence[int]:
        """Return the size of a shard, or of as many chunks, ``([Z], Y, X)``."""
        size = stack.data_shape[2:]
        whole = parts(size, self.target.zarr_format).block
        return tuple(min(b, n) for b, n in zip(whole, size, strict=True))

    def compresses(self, stack: ImageStack) -> bool:
        """Whether a result may take less space than its pixels."""
        del stack
        return True

    def exists(self, path: Path) -> bool:
        """Whether a complete image is there."""
        with explained(path):
            return self.target.holds_image(path)

    def check_writable(self) -> None:
        """Refuse a folder or URL that can't be written to, and images inside other images."""
        if is_url(self.folder):
            with explained(self.folder):
                probe = self.folder / f".writable-{os.getpid()}"
                self.target.write(probe, b"")
                self.target.remove(probe)
        else:
            super().check_writable()
        self.target.check_around(self.paths, self.folder)

    def complete(self, stacks: Sequence[ImageStack]) -> None:
        """Describe the stores that have several images."""
        stores: dict[Path, list[tuple[str, ImageStack]]] = {}
        for path, stack in zip(self.paths, stacks, strict=True):
            inner = path.relative_to(self.folder).parts
            n = next(i for i, part in enumerate(inner, 1) if part.lower().endswith(ZARR))
            if n < len(inner):
                store = self.folder.joinpath(*inner[:n])
                stores.setdefault(store, []).append(("/".join(inner[n:]), stack))
        for store, images in stores.items():
            with explained(store):
                describe_store(self.target, store, images)
