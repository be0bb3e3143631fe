"""How the benchmarks store images: a function per format, each of which returns paths."""

from __future__ import annotations

import json
import shutil
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import zarr
from pylibCZIrw.czi import create_czi
from zarr.codecs import BloscCodec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Draw = Callable[[tuple[int, ...]], NDArray[Any]]

ZSTD = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")


def write_npy(path: Path, shape: tuple[int, ...], draw: Draw) -> None:
    """Write a ``.npy`` file."""
    np.save(path, draw(shape))


def write_tiff(path: Path, shape: tuple[int, ...], draw: Draw, **how: Any) -> None:
    """Write a TIFF that says nothing of its axes."""
    tifffile.imwrite(path, draw(shape), metadata=None, photometric="minisblack", **how)


def write_zarr(path: Path, shape: tuple[int, ...], draw: Draw, **how: Any) -> None:
    """Write a store of format 3 with one array, ``images``, some planes at a time."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    fill(group.create_array("images", shape=shape, dtype="uint16", compressors=ZSTD, **how), draw)


def write_czi(path: Path, shape: tuple[int, ...], draw: Draw, compression: str) -> None:
    """Write a CZI of one channel, ``T Y X`` or ``T Z Y X``."""
    with create_czi(str(path), compression_options=compression) as file:
        for place in np.ndindex(shape[:-2]):
            plane = {"C": 0} | dict(zip("TZ", place, strict=False))
            file.write(draw(shape[-2:])[..., None], plane=plane)


def write_ome_volume(
    path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], draw: Draw
) -> int:
    """Write a volume as OME-Zarr 0.5 of one level; return its bytes on disk."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.attrs["ome"] = _image("zyx")
    array = group.create_array("0", shape=shape, dtype="uint16", chunks=chunks, compressors=ZSTD)
    fill(array, draw)
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def write_ome_plate(path: Path, rows: int, columns: int, fields: int, draw: Draw) -> int:
    """Write a plate of small fields as OME-Zarr 0.5; return how many fields it has."""
    letters = [chr(ord("A") + r) for r in range(rows)]
    names = [str(c + 1) for c in range(columns)]
    wells = [
        {"path": f"{letter}/{name}", "rowIndex": r, "columnIndex": c}
        for (r, letter), (c, name) in product(enumerate(letters), enumerate(names))
    ]
    plate = {
        "rows": [{"name": letter} for letter in letters],
        "columns": [{"name": name} for name in names],
        "wells": wells,
    }
    _group(path, {"version": "0.5", "plate": plate})
    for letter in letters:
        _group(path / letter, {})
    model = path.with_name("field")
    _group(model, _image("yx"))
    array = zarr.create_array(model / "0", shape=(128, 128), dtype="uint16", chunks=(128, 128))
    array[:] = draw((128, 128))
    for well in wells:
        folder = path / str(well["path"])
        images = [{"path": str(f)} for f in range(fields)]
        _group(folder, {"version": "0.5", "well": {"images": images}})
        for image in images:
            shutil.copytree(model, folder / image["path"])
    return len(wells) * fields


def fill(array: zarr.Array[Any], draw: Draw) -> None:
    """Fill a Zarr array by whole chunks (shards) of its first dimension."""
    step = (array.shards or array.chunks)[0]
    for start in range(0, array.shape[0], step):
        stop = min(start + step, array.shape[0])
        array[start:stop] = draw((stop - start, *array.shape[1:]))


def _image(axes: str) -> dict[str, Any]:
    scale = {"type": "scale", "scale": [1.0] * len(axes)}
    level = {"path": "0", "coordinateTransformations": [scale]}
    described = [{"name": axis, "type": "space"} for axis in axes]
    return {"version": "0.5", "multiscales": [{"axes": described, "datasets": [level]}]}


def _group(folder: Path, ome: dict[str, Any]) -> None:
    """Write the metadata of a group; thousands by zarr-python would take minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome} if ome else {}}
    (folder / "zarr.json").write_text(json.dumps(content))
