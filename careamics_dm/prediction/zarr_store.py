"""The stores that results are in: plates, collections of images, folders and URLs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fsspec.core import url_to_fs

from careamics_dm.errors import DataError
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.prediction.zarr_layout import FREE, Choice
from careamics_dm.prediction.zarr_metadata import (
    attributes,
    collection_xml,
    describe_array,
    ome_part,
    plate_metadata,
    source_groups,
)
from careamics_dm.sources.source_path import as_text, is_url

Compression = Literal["blosc", "zstd", "gzip"] | None
Codec = tuple[str, dict[str, Any]]
"""What compresses chunks, and its settings, as format 3 names them."""
CODECS: dict[str | None, Codec] = {
    "blosc": ("blosc", {"cname": "zstd", "clevel": 3, "shuffle": "shuffle"}),
    "zstd": ("zstd", {"level": 3}),
    "gzip": ("gzip", {"level": 5}),
    None: ("none", {}),
}


class Target(NamedTuple):
    """How results are written, and what their file system is opened with."""

    version: Literal["0.4", "0.5"]
    options: Mapping[str, Any]
    choice: Choice = FREE
    codec: Codec = CODECS["blosc"]
    fast: bool = True
    """Whether tensorstore may write, where it is installed."""

    @property
    def zarr_format(self) -> Literal[2, 3]:
        """That of Zarr, which goes with the version of OME-Zarr."""
        return 3 if self.version == "0.5" else 2

    def open(self, path: Path) -> Any:
        """Return the store at a path or URL."""
        from zarr.storage import FsspecStore, LocalStore  # late: most runs write TIFFs

        if is_url(path):
            return FsspecStore.from_url(as_text(path), storage_options=dict(self.options))
        return LocalStore(path)

    def read(self, path: Path) -> dict[str, Any] | None:
        """Return the OME metadata of a group; None if there is none. Arrays are refused.

        Reads single files, as zarr looks for many: that takes long behind a URL.
        """
        new = self._load(path, "zarr.json") if self.zarr_format == 3 else None
        if new is not None and new.get("node_type") == "group":
            return ome_part(new.get("attributes", {}))
        if self.zarr_format == 2 and self._load(path, ".zgroup") is not None:
            return self._load(path, ".zattrs") or {}
        if new is not None or self._load(path, ".zarray") is not None:
            raise _in_the_way(path)
        if self._load(path, "zarr.json" if self.zarr_format == 2 else ".zgroup") is not None:
            raise DataError(
                f"writer: {as_text(path)} is there already, but not in OME-Zarr {self.version}. "
                "Choose writer.ngff_version like it, or write to another folder."
            )
        return None

    def _load(self, path: Path, name: str) -> dict[str, Any] | None:
        system, folder = url_to_fs(as_text(path), **self.options)
        try:
            found: dict[str, Any] = json.loads(system.cat_file(f"{folder}/{name}"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found

    def holds_image(self, path: Path) -> bool:
        """Whether a complete image is there; anything else there is refused."""
        found = self.read(path)
        # A folder that is no group holds what an unfinished result does not: those are hidden.
        foreign = found is None and not is_url(path) and _is_used(path)
        if foreign or (found is not None and "multiscales" not in found):
            raise _in_the_way(path)
        return found is not None

    def check_around(self, paths: Sequence[Path], folder: Path) -> None:
        """Refuse to write images into what is an image or array itself."""
        for around in {p for path in paths for p in path.parents if p.is_relative_to(folder)}:
            if "multiscales" in (self.read(around) or {}):
                raise _in_the_way(around)

    def write(self, path: Path, content: bytes) -> None:
        """Write a file that is no part of Zarr."""
        system, name = url_to_fs(as_text(path), **self.options)
        system.pipe_file(name, content)

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder and all that is in it, if it is there."""
        system, name = url_to_fs(as_text(path), **self.options)
        system.invalidate_cache()  # zarr writes through another one
        if system.exists(name):
            system.rm(name, recursive=True)

    def describe(self, path: Path, model: str, content: Mapping[str, Any]) -> bool:
        """Write the metadata of a group, which is created if missing, unless it has them.

        Return whether they were written.
        """
        wanted = attributes(model, content, self.version) if model else {}
        former = self.read(path)
        if former is not None and ome_part(wanted).items() <= former.items():
            return False
        import zarr  # late, as above

        group = zarr.open_group(self.open(path), mode="a", zarr_format=self.zarr_format)
        group.update_attributes(wanted)
        return bool(model)


def _in_the_way(path: Path) -> DataError:
    return DataError(
        f"writer: {as_text(path)} is there already and is something else than a result would be. "
        "Write to another folder."
    )


def _is_used(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def describe_store(target: Target, store: Path, images: Sequence[tuple[str, ImageStack]]) -> None:
    """Describe a store of several images by those that are there: as a plate or a collection.

    Until nothing is left to write: another job may finish at the same time and write what it saw.
    """
    while _describe_once(target, store, images):
        pass


def _describe_once(target: Target, store: Path, images: Sequence[tuple[str, ImageStack]]) -> bool:
    """Describe a store; return whether something had to be written."""
    changed = False
    plate: Mapping[str, Any] = {}
    wells: dict[str, list[Mapping[str, Any]]] = {}
    fields, series, order = set(), [], []
    for inner, stack in images:
        if not target.holds_image(store / inner):
            continue
        groups, well = source_groups(stack), inner.rpartition("/")[0]
        of_well = groups.get(well, {}).get("well", {}).get("images", [])
        if "plate" in groups.get("", {}) and of_well:
            plate, wells[well] = groups[""]["plate"], of_well
            fields.add(inner)
        else:
            series.append(inner)
            order = groups.get("OME", {}).get("series", [])
    for inner in sorted({str(p) for path in [*wells, *series] for p in Path(path).parents} - {"."}):
        target.describe(store / inner, "", {})
    for path, of_well in wells.items():
        listed = (target.read(store / path) or {}).get("well", {}).get("images", [])
        ours = [field for field in of_well if f"{path}/{field['path']}" in fields]
        there = {field["path"]: field for field in [*listed, *ours]}
        names = _in_order(there, [field["path"] for field in of_well])
        content = {"well": {"images": [there[n] for n in names]}}
        changed |= target.describe(store / path, "Well", content)
    if wells:
        listed = (target.read(store) or {}).get("plate", {}).get("wells", [])
        paths = {*(well["path"] for well in listed), *wells}
        changed |= target.describe(store, "Plate", plate_metadata(plate, paths))
    if series:
        changed |= _describe_collection(target, store, series, order)
    return changed


def _describe_collection(
    target: Target, store: Path, series: Sequence[str], order: Sequence[str]
) -> bool:
    """Describe a collection, with images in the order of the source's, as far as it has one."""
    import zarr  # late, as above

    listed = (target.read(store / "OME") or {}).get("series", [])
    series = _in_order({*listed, *series}, order)
    changed = target.describe(store / "OME", "Series", {"series": series})
    images = {}
    for path in series:
        array = zarr.open_array(target.open(store / path / "0"), mode="r")
        images[path] = describe_array(target.read(store / path) or {}, array)
    target.write(store / "OME" / "METADATA.ome.xml", collection_xml(images))
    return target.describe(store, "Bf2Raw", {"bioformats2raw.layout": 3}) or changed


def _in_order(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """Sort names as they are in ``order``, and others behind."""
    places = {name: i for i, name in enumerate(order)}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))
