"""What a user names of Zarr stores, as one source per image array, from metadata alone."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from careamics_dm.errors import DataError
from careamics_dm.formats.zarr.ome_metadata import (
    is_labels,
    ome_metadata,
    read_fields,
    read_series,
    read_wells,
)
from careamics_dm.formats.zarr.store_files import (
    METADATA,
    Files,
    Node,
    Options,
    Place,
    child_names,
    read_node,
    scheme_of,
)
from careamics_dm.sources.file_kind import other_kind
from careamics_dm.sources.listing import at_home
from careamics_dm.sources.opening import join_faults

Choice = str | int | list[str | int] | tuple[str | int, ...] | None
"""Names of rows, columns or fields: one, several, or patterns such as ``[A-C]``; ``None``: all."""
Argument = Literal["image", "target", "mask"]
Selection = dict[Literal["row", "column", "field"], Choice]
"""Which fields of plates and wells are meant; what is not in it is not restricted."""

SUFFIXES = (".zarr", ".zarr.zip", ".ozx")
"""Of stores in a folder that is searched; folders with metadata of Zarr are stores too."""
READERS = 8  # threads that read metadata: that is waiting for the disk or network


class ZarrSource(NamedTuple):
    """One image array of a store."""

    place: Place  # of the array, or of the OME image whose level is yet to be chosen
    kind: Literal["array", "image"]
    argument: Argument = "image"
    """What it is named as."""
    name: str = ""
    """Of a field of a plate."""

    def __str__(self) -> str:
        return str(self.place)

    def relative_to(self, folder: Path) -> Path:
        """Return the name below a folder, by which images of two folders pair."""
        return Path(str(self)).relative_to(folder)


@dataclass
class Found:
    """Sources, what metadata list that is not there, and arrays that are no images."""

    sources: list[ZarrSource] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    by_name: bool = False  # whether images pair by their names: those of a plate do


def check_choice(name: str, value: Any) -> Choice:
    """Return the choice of an argument: names, numbers or patterns, or nothing."""
    items = value if isinstance(value, list | tuple) else [value]
    good = all(isinstance(item, str | int) and not isinstance(item, bool) for item in items)
    if value is not None and not (items and good):
        raise DataError(f"{name}={value!r}: give a name, a number or a list of these, or null.")
    choice: Choice = value
    return choice


def is_uri(item: Any) -> bool:
    """Whether an item is what zarr prints of a group or array: ``file://...``."""
    return scheme_of(str(item)) in ("file", "zip")


def locate(item: str | os.PathLike[str]) -> Place:
    """Find the store that a path, a URI or a URL names, and the node in it."""
    text = str(item)
    scheme = scheme_of(text)
    if scheme == "memory":
        raise DataError(f"{text}: is in the memory of a process. Save it, or give the array.")
    if scheme and not is_uri(text):
        return Place(text.rstrip("/"))
    if scheme:
        text = text.split("://", 1)[1]
        text = text[len("localhost") :] if text.startswith("localhost/") else text
        if len(text) > 2 and text[0] == "/" and text[2] == ":":  # /C:/folder
            text = text[1:]
    path = at_home(Path(text))
    # zarr prints URIs as they are, others (a browser, pathlib) with %20 for a space.
    for node in (path, at_home(Path(unquote(text)))) if scheme else (path,):
        if node.is_dir():
            return Place(str(node))
        for parent in (node, *node.parents):
            if parent.is_file():
                inner = node.relative_to(parent).as_posix()
                return Place(str(parent), "" if inner == "." else inner)
    there = next((parent for parent in path.parents if parent.is_dir()), Path())
    names = sorted(p.name for p in there.iterdir())[:5]
    found = f" ({there} has {', '.join(names) or 'nothing'})" if there != Path() else ""
    raise DataError(f"{item} does not exist (seen from {Path.cwd()}){found}. Check the path.")


def check_exist(data: str | Sequence[str], what: str) -> None:
    """Refuse paths with nothing there, as opening them would; of URLs and globs, nothing is asked.

    Raises a DataError with all of them.
    """
    items: list[Any] = [data] if isinstance(data, str) else [*data]
    if isinstance(data, str) and not scheme_of(data):
        items = [path := at_home(Path(data))]
        if not data or has_magic(str(path)):
            return
    faults = []
    for item in items:
        try:
            locate(item)
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError(join_faults(what, faults))


def find_stores(folder: Path) -> list[Path]:
    """Search a folder for stores; what is in a store is not searched."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in list(folders):
            path = Path(parent) / name
            if name.lower().endswith(SUFFIXES) or is_node_folder(path):
                found.append(path)
                folders.remove(name)
        stores = (n for n in files if n.lower().endswith(SUFFIXES) and not n.startswith("."))
        found += [Path(parent) / name for name in stores]
    return sorted(found)


def is_node_folder(path: Path) -> bool:
    """Whether a folder is a group or an array."""
    return any((path / name).is_file() for name in METADATA)


def expand(place: Place, options: Options, chosen: Selection, allow_labels: bool) -> Found:
    """Find the images at a place: an array, an OME group, or any other group with its arrays.

    ``allow_labels`` says whether the place itself may be a label image, as a mask or target may.
    """
    files = Files(place.root, options)
    node = read_node(files, place)
    if node is None:
        raise DataError(_no_node(files, place))
    metadata = ome_metadata(node.attributes)
    found = Found()
    if node.kind == "array":
        found.sources = [ZarrSource(place, "array")]
    elif is_labels(metadata) and not (allow_labels and "multiscales" in metadata):
        raise DataError(f"{place}: holds labels, which are no images. Name an image.")
    elif "multiscales" in metadata:
        found.sources = [ZarrSource(place, "image")]
    elif "plate" in metadata or "well" in metadata:
        return _fields(files, place, node, chosen)
    elif "bioformats2raw.layout" in metadata:
        _collection(files, place, node, found)
    elif "spatialdata_attrs" in node.attributes and files.has(place.below("images").path):
        return expand(place.below("images"), options, chosen, allow_labels)
    else:
        _arrays(files, place, node, found)
    if chosen:
        raise DataError(
            f"{place}: is no plate, but {_text(chosen)} chooses fields of one. Leave it out."
        )
    return found


def _field_name(place: Place) -> str:
    """Name a field by its well, such as ``B2_field0``."""
    row, column, field = str(place).replace("\\", "/").split("/")[-3:]
    return f"{row}{column}_field{field}"


def _wells(place: Place, node: Node, chosen: Selection) -> list[Place]:
    """Return the chosen wells of a plate."""
    wells = read_wells(node.attributes, str(place))
    picked = [well for well in wells if _matches(well.row, chosen.get("row"))]
    picked = [well for well in picked if _matches(well.column, chosen.get("column"))]
    rows, columns = ({well[i]: None for well in wells} for i in (0, 1))
    slips = [f"row={name}" for name in _unmatched(rows, chosen.get("row"))]
    slips += [f"column={name}" for name in _unmatched(columns, chosen.get("column"))]
    if slips or not picked:
        raise DataError(
            f"{place}: no well has {' nor '.join(slips) or _text(chosen)}. There are rows "
            f"{', '.join(rows)} and columns {', '.join(columns)}."
        )
    return [place.below(well.path) for well in picked]


def _fields(files: Files, place: Place, node: Node, chosen: Selection) -> Found:
    """Expand a plate or a well: wells are read concurrently."""
    found, chosen_field = Found(by_name=True), chosen.get("field")
    if "plate" in ome_metadata(node.attributes):
        places = _wells(place, node, chosen)
    elif {"row", "column"} & chosen.keys():
        raise DataError(f"{place}: is a well, so field alone can be chosen, not {_text(chosen)}.")
    else:
        places = [place]

    def fields_of(well: Place) -> tuple[list[Place], list[str], list[str]]:
        inner = node if well == place else read_node(files, well)
        if inner is None:
            return [], [str(well)], []
        if "well" not in ome_metadata(inner.attributes):
            raise DataError(f"{well}: has no metadata of a well. Save the plate again.")
        paths = read_fields(inner.attributes, str(well))
        wanted = [well.below(path) for path in paths if _matches(path, chosen_field)]
        there = [place for place in wanted if files.has(place.path)]
        return there, [str(place) for place in wanted if place not in set(there)], paths

    fields: dict[str, None] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for there, missing, names in pool.map(fields_of, places):
            found.sources += [ZarrSource(one, "image", name=_field_name(one)) for one in there]
            found.missing += missing
            fields |= dict.fromkeys(names)
    some_there = fields and (found.sources or not found.missing)
    slips = _unmatched(fields, chosen_field) if some_there else []
    if slips:
        raise DataError(
            f"{place}: no field has field={' nor field='.join(slips)}. There are fields "
            f"{', '.join(fields)}."
        )
    if not found.sources:
        raise DataError(
            f"{place}: none of its {len(found.missing)} well(s) and field(s) is there: "
            f"{', '.join(found.missing[:3])}. The copy is incomplete: copy it again."
        )
    return found


def _collection(files: Files, place: Place, node: Node, found: Found) -> None:
    """Expand images one beside another, as bioformats2raw writes them."""
    series = read_node(files, place.below("OME"))
    if series is not None and "series" in ome_metadata(series.attributes):
        paths = read_series(series.attributes, str(place))
    else:
        paths = sorted(filter(str.isdecimal, child_names(files, place, node)), key=int)
    for path in paths:
        image = place.below(path)
        if files.has(image.path):
            found.sources.append(ZarrSource(image, "image"))
        else:
            found.missing.append(str(image))
    if not found.sources:
        raise DataError(f"{place}: is a collection of images, but none is there. Copy it again.")


def _arrays(files: Files, place: Place, node: Node, found: Found) -> None:
    """Expand a group to its arrays, or else the OME images in it, in the order of their names."""
    groups, images = [], []
    for name in child_names(files, place, node):
        child, inner = read_node(files, place.below(name)), place.below(name)
        metadata = {} if child is None else ome_metadata(child.attributes)
        if child is None or "image-label" in metadata:
            continue
        if child.kind == "group":
            groups.append(name)
            images += [ZarrSource(inner, "image")] if "multiscales" in metadata else []
        elif child.may_be_image:
            found.sources.append(ZarrSource(inner, "array"))
        else:
            found.others.append(str(inner))
    found.sources = found.sources or images
    if not found.sources:
        there = f"are the groups {', '.join(groups[:10])}: name one" if groups else "is nothing"
        if found.others:
            there = f"is {', '.join(found.others[:3])}, of one dimension or of no numbers"
        raise DataError(f"{place}: holds no array and has no OME metadata. There {there}.")


def _text(chosen: Selection) -> str:
    return ", ".join(f"{key}={value}" for key, value in chosen.items())


def _each(wanted: Choice) -> Sequence[str | int]:
    if wanted is None:
        return []
    return wanted if isinstance(wanted, list | tuple) else [wanted]


def _unmatched(names: Iterable[str], wanted: Choice) -> list[str]:
    """Return what is asked for by name, but is called so nowhere: a slip, not a missing well."""
    names = list(names)
    return [str(w) for w in _each(wanted) if not any(_matches(name, w) for name in names)]


def _matches(name: str, wanted: Choice) -> bool:
    return wanted is None or any(
        fnmatchcase(name, text)
        # Column 1 is called 01 in some plates.
        or (name.isdecimal() and text.isdecimal() and int(name) == int(text))
        for text in map(str, _each(wanted))
    )


def _no_node(files: Files, place: Place) -> str:
    names = files.children(place.path) if not place.path or files.has(place.path) else []
    inside = f" (found: {', '.join(names[:5])}{', ...' * (len(names) > 5)})" if names else ""
    url = ", and storage_options if it asks for a key" if scheme_of(place.root) else ""
    return (
        f"{place}: not a Zarr store, group or array: there is no zarr.json, .zgroup or .zarray"
        f"{inside}. Check the {'URL' if url else 'path'}{url}."
        f"{'' if url or place.path else other_kind(place.root, 'zarr')}"
    )
