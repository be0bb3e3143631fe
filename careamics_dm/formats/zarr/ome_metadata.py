"""OME-Zarr metadata (NGFF 0.1 to 0.5), read with yaozarrs' models of the specification."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from types import MappingProxyType
from typing import Any, NamedTuple

from careamics_dm.errors import DataError
from careamics_dm.images.colors import channel_colors

Scale = dict[str, tuple[float, str]]

_UNITS = {"nanometer": "nm", "millimeter": "mm", "centimeter": "cm", "meter": "m", "angstrom": "Å"}
_UNITS |= dict.fromkeys(("micrometer", "um", "μm", "micron"), "µm")
_UNITS |= {"microsecond": "µs", "millisecond": "ms", "second": "s", "minute": "min", "hour": "h"}
_QUIET = Lock()


class Description(NamedTuple):
    """What metadata say of the dimensions of an array."""

    axes: str  # a letter per dimension, of any alphabet, see `_letters`; empty if they say nothing
    scale: Scale
    channel_names: tuple[str, ...] = ()
    channel_colors: tuple[str, ...] = ()
    origin: Mapping[str, float] = MappingProxyType({})  # of the first pixel, by axis of ``scale``
    odd_scale: bool = False
    """Whether the pixel size is left out, as transformations are not those of the specification."""
    level: int = 0
    """Of the pyramid."""


class Well(NamedTuple):
    """A well of a plate."""

    row: str
    column: str
    path: str


def ome_metadata(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the OME part of a group's attributes: 0.5 has it apart, 0.4 has it among others."""
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def is_labels(metadata: dict[str, Any]) -> bool:
    """Whether a group is a label image, or a collection of them."""
    return "image-label" in metadata or ("labels" in metadata and "multiscales" not in metadata)


def read_pyramid(attributes: dict[str, Any], source: str) -> dict[str, Description]:
    """Read the first ``multiscales`` of a group, which counts: arrays by path, largest first."""
    metadata = ome_metadata(attributes)
    entries = metadata["multiscales"]
    entry = entries[0] if isinstance(entries, list) and entries else entries
    old = _is_old(entry, attributes)
    usual, is_odd = _with_usual_transformations(_modernized(entry) if old else entry)
    found = _validate("Multiscale", usual, attributes, source, old)
    axes = _letters(found.axes)
    factors, shifts = _scale_and_translation(found.coordinateTransformations, len(axes))
    levels, names = {}, _channel_names(metadata)
    colors = channel_colors(_of_channels(metadata, "color"))
    for level, dataset in enumerate(found.datasets):
        sizes, start = _scale_and_translation(dataset.coordinateTransformations, len(axes))
        scale = {} if is_odd else _pixel_size(axes, found.axes, sizes, factors)
        places = zip(axes, start, factors, shifts, strict=True)
        origin = {axis: a * factor + b for axis, a, factor, b in places if axis in scale}
        description = Description(axes, scale, names, colors, origin, is_odd and not old, level)
        levels[dataset.path.strip("/")] = description
    return levels


def _is_old(part: Any, attributes: dict[str, Any]) -> bool:
    """Whether metadata are of version 0.1 to 0.3, which have neither units nor transformations."""
    if "ome" in attributes or not isinstance(part, dict):
        return False
    version = part.get("version")
    axes = part.get("axes")
    names = isinstance(axes, list) and all(isinstance(axis, str) for axis in axes)
    unstated = version is None and "datasets" in part and (axes is None or names)
    return unstated or str(version) in ("0.1", "0.2", "0.3")


def _modernized(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of 0.1 to 0.3 as one of 0.4; without axes, it has all five."""
    kinds = {"t": "time", "c": "channel"}
    axes = entry.get("axes") or list("tczyx")
    named = [{"name": a, "type": kinds.get(a, "space")} if isinstance(a, str) else a for a in axes]
    datasets = [
        d | {"coordinateTransformations": []} if isinstance(d, dict) else d
        for d in entry.get("datasets") or ()
    ]
    return {"axes": named, "datasets": datasets}


def _with_usual_transformations(entry: Any) -> tuple[Any, bool]:
    """Replace transformations other than a scale and a translation; say whether there were any.

    The image does not depend on them. Where there are none at all, validation says so.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("axes"), list):
        return entry, False
    n, is_odd = len(entry["axes"]), False

    def usual(part: Any, otherwise: list[Any] | None) -> Any:
        nonlocal is_odd
        if not isinstance(part, dict) or "coordinateTransformations" not in part:
            return part
        steps = part["coordinateTransformations"]
        if (not steps and otherwise is None) or _is_usual(steps, n):
            return part | {"coordinateTransformations": steps or None}
        is_odd = True
        return part | {"coordinateTransformations": otherwise}

    entry = usual(entry, None)
    if isinstance(entry.get("datasets"), list):
        one = [{"type": "scale", "scale": [1.0] * n}]
        entry = entry | {"datasets": [usual(dataset, one) for dataset in entry["datasets"]]}
    return entry, is_odd


def _is_usual(steps: Any, n: int) -> bool:
    """Whether transformations are a scale of ``n`` numbers, and perhaps a translation after it."""
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return False
    kinds = [step.get("type") for step in steps]
    numbers = [step.get(str(kind)) for step, kind in zip(steps, kinds, strict=True)]
    return kinds in (["scale"], ["scale", "translation"]) and all(
        isinstance(of, list) and len(of) == n and all(isinstance(v, int | float) for v in of)
        for of in numbers
    )


def read_wells(attributes: dict[str, Any], source: str) -> list[Well]:
    """Read the wells of a plate, in the order of its metadata; see `read_pyramid`."""
    entry = ome_metadata(attributes)["plate"]
    if isinstance(entry, dict):  # other parts, such as the number of fields, are not needed
        needed = {key: entry[key] for key in ("rows", "columns", "wells") if key in entry}
        needed |= {"wells": _numbered(needed)} if isinstance(needed.get("wells"), list) else {}
        plate = _validate("PlateDef", needed, attributes, source, _is_old(entry, attributes))
    else:
        plate = _validate("PlateDef", entry, attributes, source)
    rows, columns = ([item.name for item in items] for items in (plate.rows, plate.columns))
    return [Well(rows[w.rowIndex], columns[w.columnIndex], w.path) for w in plate.wells]


def _numbered(plate: dict[str, Any]) -> list[Any]:
    """Return the wells of a plate with row and column, which before 0.4 are in their paths."""

    def number(key: str, name: str) -> int | None:
        items = plate.get(key)
        names = [item.get("name") for item in items or () if isinstance(item, dict)]
        return names.index(name) if name in names else None

    wells = []
    for well in plate["wells"]:
        if isinstance(well, dict) and "rowIndex" not in well and "columnIndex" not in well:
            row, _, column = str(well.get("path")).rpartition("/")
            found = {"rowIndex": number("rows", row.rpartition("/")[2])}
            found["columnIndex"] = number("columns", column)
            well = well | {key: value for key, value in found.items() if value is not None}
        wells.append(well)
    return wells


def read_fields(attributes: dict[str, Any], source: str) -> list[str]:
    """Read the paths of the fields of a well; see `read_pyramid`."""
    entry = ome_metadata(attributes)["well"]
    old = _is_old(entry, attributes)
    if isinstance(entry, dict):
        entry = {key: value for key, value in entry.items() if key != "version"}
    well = _validate("WellDef", entry, attributes, source, old)
    return [image.path for image in well.images]


def read_series(attributes: dict[str, Any], source: str) -> list[str]:
    """Read the paths of the images of a collection, from its ``OME`` group."""
    series = ome_metadata(attributes).get("series")
    if not isinstance(series, list) or not all(isinstance(path, str) for path in series):
        raise DataError(f"{source}: its OME group has series={series!r}, not a list of paths.")
    return series


def _validate(
    model: str, value: Any, attributes: dict[str, Any], source: str, old: bool = False
) -> Any:
    """Check a part of the metadata with the model of its version; what is ``old`` is like 0.4."""
    # Only stores with OME metadata pay for the import, a quarter of a second.
    import yaozarrs.v04
    import yaozarrs.v05
    from pydantic import ValidationError

    version = str(ome_metadata(attributes).get("version", "0.5")) if "ome" in attributes else "0.4"
    if not version.startswith(("0.4", "0.5")):
        raise DataError(
            f"{source}: OME-Zarr {version} cannot be read; 0.4 and 0.5 can. As a way "
            f"out, {_way_out(model, value, source)}."
        )
    version = "0.1 to 0.3" if old else version
    models = yaozarrs.v05 if version.startswith("0.5") else yaozarrs.v04
    validate: Callable[[Any], Any] = getattr(models, model).model_validate
    try:
        # yaozarrs warns of what should be but need not be, such as units by their short names.
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return validate(value)
    except ValidationError as error:
        faults = [
            ": ".join(filter(None, [".".join(map(str, f["loc"])), " ".join(f["msg"].split())]))
            for f in error.errors()[:3]
        ]
        raise DataError(
            f"{source}: its metadata are not OME-Zarr {version}: {'; '.join(faults)}. Correct "
            f"them, or {_way_out(model, value, source)}."
        ) from error


def _way_out(model: str, value: Any, source: str) -> str:
    """Say what can be named instead of what has these metadata."""
    if model != "Multiscale":
        return "list the images in it by their paths"
    try:
        path = str(value["datasets"][0]["path"])
    except (TypeError, LookupError):
        path = "0"
    return f"name the array ({source}/{path}, say) and give axes"


def _letters(axes: Sequence[Any]) -> str:
    """Name dimensions by a letter each: by their names or else by their types."""
    names = [str(axis.name).upper() for axis in axes]
    if all(len(name) == 1 and name.isalpha() and name.isascii() for name in names):
        return "".join(names)
    space = [i for i, axis in enumerate(axes) if axis.type == "space"]
    letters = {i: "ZYX"[n - len(space)] for n, i in enumerate(space)}
    others = {"time": "T", "channel": "C"}
    # Of another kind there is one at most: they are samples.
    return "".join(letters.get(i) or others.get(str(a.type), "S") for i, a in enumerate(axes))


def _pixel_size(letters: str, axes: Sequence[Any], sizes: Any, whole: Any) -> Scale:
    scale = {}
    for letter, axis, size, factor in zip(letters, axes, sizes, whole, strict=True):
        if letter in "TZYX" and axis.unit and size * factor > 0:
            scale[letter] = (size * factor, _UNITS.get(axis.unit, axis.unit))
    return scale


def _scale_and_translation(steps: Sequence[Any] | None, n: int) -> tuple[Any, Any]:
    """Return both of usual transformations, a number for each of ``n`` axes."""
    scale, translation = [1.0] * n, [0.0] * n
    for step in steps or ():
        if step.type == "scale":
            scale = step.scale
        else:
            translation = step.translation
    return scale, translation


def _channel_names(metadata: dict[str, Any]) -> tuple[str, ...]:
    """Read unique names of channels."""
    names = _of_channels(metadata, "label")
    good = [name for name in names if isinstance(name, str) and name]
    return tuple(good) if len(set(good)) == len(names) else ()


def _of_channels(metadata: dict[str, Any], key: str) -> list[Any]:
    """Read what is said of channels; not with yaozarrs, which refuses some without a color."""
    omero = metadata.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    channels = channels if isinstance(channels, list) else []
    return [channel.get(key) if isinstance(channel, dict) else None for channel in channels]
