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
from careamics_dm.prediction.zarr_layout import CHUNK, Choice, parts
from careamics_dm.prediction.zarr_store import CODECS, Compression, Target, describe_store
from careamics_dm.prediction.zarr_zip import OZX, remove_rest, zip_holds, zip_of, zip_store
from careamics_dm.sources.source_path import file_of, is_url


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
    chunks : sequence of int or "source", optional
        Size of what readers decode at once, ``(Z) Y X`` in pixels; by default 256 x 256 for planes
        and 16 x 128 x 128 for volumes, in version 0.4 more. Samples and channels are apart.
        "source": chunks and shards of the input, if it is Zarr.
    shards : sequence of int, optional
        Size of files of several chunks, in version 0.5: multiples of ``chunks``, or the same, for a
        file per chunk. By default about 1024 x 1024 or 64 x 256 x 256. Several are in memory.
    compression : {"blosc", "zstd", "gzip", "source"}, optional
        Of chunks, without loss; ``None`` is none. "blosc" is zstd in Blosc, of shuffled bytes.
        "source": that of the input, if it is Zarr. Tensorstore writes, where it is installed,
        unless ``num_workers`` is above 0 or ``engine`` is "zarr" in the data module.
    zip : bool
        Make one file of each store (``a.ozx``, a zip file; RFC-9 of OME-NGFF) when all images of it
        are complete; for a while it takes twice its size on the disk. Of version 0.5 only.
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
        chunks: Sequence[int] | Literal["source"] | None = None,
        shards: Sequence[int] | None = None,
        compression: Compression | Literal["source"] = "blosc",
        zip: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        dtype: Literal["float32", "source"] = "float32",
        existing: Literal["error", "skip", "replace"] = "error",
        output: str = "prediction",
    ) -> None:
        super().__init__(folder, dtype=dtype, existing=existing, output=output)
        if str(self.folder).lower().endswith((".zip", ".ozx")):
            raise DataError(
                f"writer.folder={folder} is a zip file, in which nothing can be written twice. "
                "Give a folder, and set writer.zip=true."
            )
        if not isinstance(storage_options, Mapping | None):
            raise DataError(
                f"writer.storage_options={storage_options!r}: give names and values, or null."
            )
        # On the command line it is a number.
        version = check.one_of("writer.ngff_version", str(ngff_version), ("0.5", "0.4"))
        self._of_source = isinstance(chunks, str) and chunks == "source"
        given = None if chunks is None or self._of_source else check.sizes("writer.chunks", chunks)
        self.chunks = "source" if self._of_source else given
        self.shards = None if shards is None else check.sizes("writer.shards", shards)
        self._check_shards(version, given)
        self.compression = check.one_of(
            "writer.compression", compression, ("blosc", "zstd", "gzip", "source", None)
        )
        self.zip = check.boolean("writer.zip", zip)
        if self.zip and (is_url(self.folder) or version == "0.4"):
            raise DataError(
                "writer.zip=true: zip files are of OME-Zarr 0.5 and in local folders. Give "
                "one, with writer.ngff_version=0.5, or leave writer.zip out."
            )
        self.storage_options = dict(storage_options or {})
        self.ngff_version = version
        self.target = Target(
            version,
            self.storage_options,
            Choice(given, self.shards),
            CODECS["blosc" if self.compression == "source" else self.compression],
        )

    def _check_shards(self, version: str, chunks: tuple[int, ...] | None) -> None:
        if self.shards is None:
            return
        given = f"writer.shards={list(self.shards)}"
        if version == "0.4":
            raise DataError(f"{given}: OME-Zarr 0.4 has no shards. Leave them out.")
        if self._of_source:
            raise DataError(
                f"{given}: writer.chunks=source takes those of the source. Leave them out."
            )
        chunks = chunks or CHUNK[len(self.shards), 3]
        whole = len(chunks) == len(self.shards)
        if not whole or any(s % c for s, c in zip(self.shards, chunks, strict=True)):
            raise DataError(f"{given}: give multiples of writer.chunks, {list(chunks)}.")

    def suffixes(self, stack: ImageStack) -> Sequence[str]:
        """Return that of a store."""
        del stack
        return (ZARR,)

    def prepare(self, datamodule: Any, beside: Sequence[ResultWriter] = ()) -> None:
        """Refuse zip files by several jobs, and choose what writes; else see `ResultWriter`."""
        if self.zip and datamodule.settings.shard:
            raise DataError(
                "writer.zip=true: nothing can be added to a zip file by another job, and "
                f"data.shard is {datamodule.settings.shard}. Leave one of them out."
            )
        # Processes that are forked after tensorstore was used can't read with it.
        fast = not datamodule.settings.num_workers and getattr(datamodule, "engine", "") != "zarr"
        self.target = self.target._replace(fast=fast)
        super().prepare(datamodule, beside)

    def check(self, image: ResultImage) -> Iterable[str]:
        """Refuse chunks of other dimensions than the image, and return what OME-Zarr lacks."""
        self.block_shape(image.stack)
        if self.compression == "source":
            self._check_codec(image.stack)
        samples = Layout(image.layout.axes, image.layout.shape).sample_axes
        several = len(samples) > 1
        lost = image.stated("TL" if several else "L")
        return ["axes of samples (all are T)"] * several + lost

    def _check_codec(self, stack: ImageStack) -> None:
        from careamics_dm.prediction.zarr_file import compressor  # late: imports zarr

        name, settings = self._target_of(stack).codec
        try:
            compressor((name, settings), self.target.zarr_format)
        except (KeyError, ValueError) as error:
            given = ", ".join([name, *(f"{key} {value}" for key, value in settings.items())])
            raise DataError(
                f"writer.compression=source: {stack.source} is compressed by {given}, which "
                f"OME-Zarr {self.ngff_version} results can't be. Choose blosc, zstd or gzip."
            ) from error

    def open(self, image: ResultImage, *, begin: bool) -> ResultFile:
        """Open an image; see `ResultWriter`."""
        from careamics_dm.prediction.zarr_file import ZarrFile  # late: imports zarr

        # The display range of a source does not suit another output, such as uncertainty.
        target = self._target_of(image.stack)
        return ZarrFile(image, target, self.output == "prediction", begin=begin)

    def block_shape(self, stack: ImageStack) -> Sequence[int]:
        """Return the size of a shard, or of as many chunks, ``([Z], Y, X)``."""
        size = stack.data_shape[2:]
        whole = parts(size, self.target.zarr_format, self._target_of(stack).choice).block
        return tuple(min(b, n) for b, n in zip(whole, size, strict=True))

    def _target_of(self, stack: ImageStack) -> Target:
        target = self.target
        found = getattr(stack, "chunks_and_shards", None) if self._of_source else None
        if found is not None:
            n = len(stack.data_shape) - 2  # without Z where planes are predicted
            target = target._replace(choice=Choice(*(size[-n:] for size in found)))
        read_codec = getattr(stack, "codec", None) if self.compression == "source" else None
        return target if read_codec is None else target._replace(codec=read_codec())

    def compresses(self, stack: ImageStack) -> bool:
        """Whether a result may take less space than its pixels."""
        return self._target_of(stack).codec != CODECS[None]

    def exists(self, path: Path) -> bool:
        """Whether a complete image is there."""
        with explained(path):
            store, inner = self._split(path)
            if self.zip and zip_of(store).exists():
                if zip_holds(store, inner):
                    return True
                if self.existing != "replace":
                    raise DataError(
                        f"writer: {zip_of(store)} is there already, without {inner}, and nothing "
                        "can be added to a zip file. Write to another folder."
                    )
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
        if self.zip:
            inputs = {file_of(stack.source).resolve() for stack in self._stacks}
            for file in {zip_of(self._split(path)[0]) for path in self.paths}:
                if file.resolve() in inputs:
                    raise DataError(f"writer: {file} would replace an input. Use another folder.")

    def complete(self, stacks: Sequence[ImageStack]) -> None:
        """Describe the stores that have several images, and zip those that are complete."""
        stores: dict[Path, list[tuple[str, ImageStack]]] = {}
        for path, stack in zip(self.paths, stacks, strict=True):
            store, inner = self._split(path)
            stores.setdefault(store, []).append((inner, stack))
        for store, images in stores.items():
            if store == zip_of(store):  # done before
                continue
            with explained(store):
                if images[0][0]:
                    describe_store(self.target, store, images)
                if self.zip:
                    remove_rest(store)
                    if all(self.target.holds_image(store / inner) for inner, _ in images):
                        zip_store(store)
        if self.zip:
            split = [self._split(path) for path in self.paths]
            self.paths = [
                zip_of(store) / inner if zip_of(store).exists() else store / inner
                for store, inner in split
            ]

    def _split(self, path: Path) -> tuple[Path, str]:
        """Return the store of a result, and the path in it; of a store of one image, nothing."""
        inner = path.relative_to(self.folder).parts
        n = next(i for i, part in enumerate(inner, 1) if part.lower().endswith((ZARR, OZX)))
        return self.folder.joinpath(*inner[:n]), "/".join(inner[n:])
