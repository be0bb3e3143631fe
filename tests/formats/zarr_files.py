"""Writes stores for the tests, also with the writers that others use."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIZES = {"z": 0.5, "y": 0.2, "x": 0.1}
SCALE = {"Z": (0.5, "µm"), "Y": (0.2, "µm"), "X": (0.1, "µm")}
NAMES = ["DAPI", "GFP"]


def numbers(shape: tuple[int, ...], dtype: str = "uint16", seed: int = 0) -> NDArray[Any]:
    """No chunk of these is all zero."""
    values = np.random.default_rng(seed).integers(1, 125, shape)
    return values > 60 if dtype == "bool" else values.astype(dtype)


def write_array(path: Path | str, array: NDArray[Any], **how: Any) -> zarr.Array[Any]:
    how = {"chunks": tuple(min(16, n) for n in array.shape)} | how
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of codecs that format 3 does not specify
        stored = zarr.create_array(path, shape=array.shape, dtype=array.dtype, **how)
        stored[...] = array
    return stored


def zstd() -> BloscCodec:
    return BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")


def write_collection(path: Path) -> dict[str, NDArray[Any]]:
    """Write the store of CAREamics' data preparation guide; arrays by their URIs."""
    root = zarr.open_group(path, mode="w")
    others = root.create_group("others")
    arrays = {}
    for seed, (group, name) in enumerate(
        [(root, "array_1"), (root, "array_2"), (others, "array_2"), (others, "array_3")]
    ):
        array = numbers((3, 40, 50), seed=seed)
        stored = group.create_array(name, shape=array.shape, dtype="uint16", chunks=(1, 32, 32))
        stored[...] = array
        arrays[str(stored.store_path)] = array
    return arrays


# ------------------------------------------------------------------------- writers of OME-Zarr

Writer = "Callable[[Path, NDArray[Any], str, str], None]"


def by_ome_zarr(path: Path | str, array: NDArray[Any], axes: str, version: str) -> None:
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_image

    spatial = [axis for axis in axes if axis in "zyx"]
    omero = {
        "channels": [
            {"label": name, "color": "00FF00", "window": {"start": 0, "end": 9, "min": 0, "max": 9}}
            for name in NAMES
        ]
    }
    write_image(
        array,
        str(path),
        scale_factors=[2],
        fmt=FormatV04() if version == "0.4" else FormatV05(),
        axes=axes,
        scale={axis: SIZES[axis] for axis in spatial},
        axes_units=dict.fromkeys(spatial, "micrometer"),
    )
    # Here, as releases of ome-zarr want it in different ways.
    attributes = zarr.open_group(str(path)).attrs
    if version == "0.4":
        attributes["omero"] = omero
    else:
        attributes["ome"] = {**attributes["ome"], "omero": omero}


def by_ngff_zarr(path: Path | str, array: NDArray[Any], axes: str, version: str) -> None:
    import ngff_zarr

    ngff_zarr.to_ome_zarr(str(path), _ngff(array, axes), version=version)


def _ngff(array: NDArray[Any], axes: str) -> Any:
    import ngff_zarr

    spatial = [axis for axis in axes if axis in "zyx"]
    image = ngff_zarr.to_ngff_image(
        array,
        dims=list(axes),
        scale={axis: SIZES[axis] for axis in spatial},
        translation=dict.fromkeys(spatial, 0.0),
        axes_units=dict.fromkeys(spatial, "micrometer"),
    )
    return ngff_zarr.to_multiscales(image, scale_factors=[2], chunks=32)


def by_bioio(path: Path | str, array: NDArray[Any], axes: str, version: str) -> None:
    from bioio_ome_zarr.writers import Channel, OMEZarrWriter

    types = {"t": "time", "c": "channel"}
    halves = [max(n // 2, 1) if a in "yx" else n for a, n in zip(axes, array.shape, strict=True)]
    writer = OMEZarrWriter(
        str(path),
        [array.shape, tuple(halves)],
        array.dtype,
        zarr_format=2 if version == "0.4" else 3,
        channels=[Channel(label=name, color="00FF00") for name in NAMES],
        axes_names=list(axes),
        axes_types=[types.get(axis, "space") for axis in axes],
        axes_units=["micrometer" if axis in "zyx" else None for axis in axes],
        physical_pixel_size=[SIZES.get(axis, 1.0) for axis in axes],
    )
    writer.write_full_volume(array)


WRITERS: dict[str, Any] = {"ome-zarr": by_ome_zarr, "ngff-zarr": by_ngff_zarr, "bioio": by_bioio}


def write_image(path: Path, array: NDArray[Any], axes: str, version: str, writer: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that only the tests use
        WRITERS[writer](path, array, axes, version)


def write_labels(path: Path, name: str, labels: NDArray[Any], axes: str) -> None:
    """Write a label image into an OME-Zarr 0.5 image."""
    from ome_zarr import writer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.open_group(path)
        writer.write_labels(labels, root, name, axes=axes, scale_factors=[2])


# ------------------------------------------------------------------------------------- plates

WELLS = ["A/1", "A/2", "B/2"]


def write_plate(path: Path, version: str, writer: str, fields: int = 2) -> dict[str, NDArray[Any]]:
    """Write a plate of rows A and B, columns 1 and 2, without a well B/1; fields by path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {"ome-zarr": _plate_by_ome_zarr, "ngff-zarr": _plate_by_ngff_zarr}[writer](
            path, version, fields
        )


def _field(well: str, field: int) -> NDArray[Any]:
    return numbers((2, 40, 50), seed=100 * WELLS.index(well) + field)


def _plate_by_ome_zarr(path: Path, version: str, fields: int) -> dict[str, NDArray[Any]]:
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_plate_metadata, write_well_metadata

    fmt = FormatV04() if version == "0.4" else FormatV05()
    root = zarr.open_group(path, mode="w", zarr_format=fmt.zarr_format)
    write_plate_metadata(root, ["A", "B"], ["1", "2"], WELLS, fmt=fmt)
    arrays = {}
    for well in WELLS:
        group = root.require_group(well)
        write_well_metadata(group, [str(field) for field in range(fields)], fmt=fmt)
        for field in range(fields):
            array = arrays[f"{well}/{field}"] = _field(well, field)
            by_ome_zarr(f"{path}/{well}/{field}", array, "cyx", version)
    return arrays


def _plate_by_ngff_zarr(path: Path, version: str, fields: int) -> dict[str, NDArray[Any]]:
    from ngff_zarr.hcs import HCSPlate, to_hcs_zarr, write_hcs_well_image
    from ngff_zarr.v04.zarr_metadata import Plate, PlateColumn, PlateRow, PlateWell

    plate = Plate(
        columns=[PlateColumn("1"), PlateColumn("2")],
        rows=[PlateRow("A"), PlateRow("B")],
        wells=[PlateWell(well, "AB".index(well[0]), int(well[2]) - 1) for well in WELLS],
        version=version,
    )
    to_hcs_zarr(HCSPlate(str(path), plate), str(path))
    arrays = {}
    for well in WELLS:
        for field in range(fields):
            array = arrays[f"{well}/{field}"] = _field(well, field)
            write_hcs_well_image(
                str(path),
                _ngff(array, "cyx"),
                plate,
                *well.split("/"),
                field_index=field,
                acquisition_id=None,
                version=version,
            )
    return arrays
