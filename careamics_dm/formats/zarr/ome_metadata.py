"""OME-Zarr metadata (NGFF 0.4 and 0.5), read with yaozarrs' models of the specification."""

import warnings
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, NamedTuple

from careamics_dm.errors import DataError

Scale = dict[str, tuple[float, str]]

_UNITS = {"nanometer": "nm", "millimeter": "mm", "centimeter": "cm", "meter": "m", "angstrom": "Å"}
_UNITS |= dict.fromkeys(("micrometer", "um", "μm", "micron"), "µm")
_QUIET = Lock()


class Description(NamedTuple):
    """What metadata say of the dimensions of an array."""

    axes: str  # a letter per dimension, of any alphabet, see `_letters`; empty if they say nothing
    scale: Scale
    channel_names: tuple[str, ...]


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
    found = _validate("Multiscale", entry, attributes, source)
    axes = _letters(found.axes)
    whole = [1.0] * len(axes)
    for step in found.coordinateTransformations or ():
        if step.type == "scale":
            whole = step.scale
    levels, names = {}, _channel_names(metadata)
    for dataset in found.datasets:
        (sizes,) = (t.scale for t in dataset.coordinateTransformations if t.type == "scale")
        scale = _pixel_size(axes, found.axes, sizes, whole)
        levels[dataset.path.strip("/")] = Description(axes, scale, names)
    return levels


def read_wells(attributes: dict[str, Any], source: str) -> list[Well]:
    """Read the wells of a plate, in the order of its metadata; see `read_pyramid`."""
    plate = _validate("PlateDef", ome_metadata(attributes)["plate"], attributes, source)
    rows, columns = ([item.name for item in items] for items in (plate.rows, plate.columns))
    return [Well(rows[w.rowIndex], columns[w.columnIndex], w.path) for w in plate.wells]


def read_fields(attributes: dict[str, Any], source: str) -> list[str]:
    """Read the paths of the fields of a well; see `read_pyramid`."""
    well = _validate("WellDef", ome_metadata(attributes)["well"], attributes, source)
    return [image.path for image in well.images]


def read_series(attributes: dict[str, Any], source: str) -> list[str]:
    """Read the paths of the images of a collection, from its ``OME`` group."""
    series = ome_metadata(attributes).get("series")
    if not isinstance(series, list) or not all(isinstance(path, str) for path in series):
        raise DataError(f"{source}: its OME group has series={series!r}, not a list of paths.")
    return series


def _validate(model: str, value: Any, attributes: dict[str, Any], source: str) -> Any:
    """Check a part of the metadata with the model of its version."""
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
        if letter in "ZYX" and axis.unit and size * factor > 0:
            scale[letter] = (size * factor, _UNITS.get(axis.unit, axis.unit))
    return scale


def _channel_names(metadata: dict[str, Any]) -> tuple[str, ...]:
    """Read unique names of channels; not with yaozarrs, which refuses channels without a color."""
    omero = metadata.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list):
        return ()
    names = [c.get("label") if isinstance(c, dict) else None for c in channels]
    good = [name for name in names if isinstance(name, str) and name]
    return tuple(good) if len(set(good)) == len(names) else ()
