"""CZI files for tests: written by pylibCZIrw, and by changing bytes where it cannot."""

from __future__ import annotations

import struct
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pylibCZIrw.czi import CziReader, CziWriter

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from careamics_dm.images.array_stack import ArrayStack

ENTRY, DIMENSION = 32, 20
FIELDS = {"pixel_type": (2, "<i"), "file_part": (14, "<i"), "compression": (18, "<i")}
OF_DIMENSION = {"name": (0, "<4s"), "start": (4, "<i"), "size": (8, "<i"), "stored": (16, "<i")}


class Tile(NamedTuple):
    """A sub-block."""

    pixels: NDArray[Any]
    """``Y X``, or ``Y X 3`` in the order B, G, R."""
    plane: dict[str, int]
    """Index per dimension, the scene included."""
    at: tuple[int, int] = (0, 0)
    """``X Y``."""


class _AnyDimensions(CziWriter):
    @staticmethod
    def _create_plane(plane, scene):
        del scene
        return plane


def write_czi(
    path: Path,
    tiles: list[Tile],
    compression: str | None = None,
    names: dict[int, str] | None = None,
    scale: tuple[float, float, float] = (0, 0, 0),
) -> Path:
    """Write sub-blocks; ``scale`` is the size of a pixel along X, Y and Z in metres."""
    path.unlink(missing_ok=True)
    with closing(_AnyDimensions(str(path), compression)) as file:
        for pixels, plane, at in tiles:
            file.write(pixels if pixels.ndim == 3 else pixels[..., None], at, plane)
        file.write_metadata("test", names, *scale)
    return path


def read_direct(
    path: Path,
    roi: tuple[int, int, int, int],
    samples: list[dict[str, int]],
    depth: list[dict[str, int]] | None = None,
    channels: int | list[int] = 0,
    scene: int | None = 0,
    pixel_type: str | None = None,
) -> NDArray[Any]:
    """Read ``S C (Z) Y X`` with pylibCZIrw, plane by plane; ``roi`` is X, Y, width, height."""
    channels = [channels] if isinstance(channels, int) else channels
    with closing(CziReader(str(path))) as file:
        planes = [
            [
                [file.read(roi, {"C": c, **at, **z}, scene, 1, pixel_type) for z in depth or [{}]]
                for c in channels
            ]
            for at in samples
        ]
    array = np.array(planes)  # S C Z Y X, components
    array = array[..., ::-1].transpose(0, 1, 5, 2, 3, 4)
    array = array.reshape(len(samples), -1, *array.shape[3:])
    return array if depth else array[:, :, 0]


def sum_of(stack: ArrayStack) -> int:
    """Add all pixels; here, where a process that is spawned has little to import."""
    total = int(stack.array[tuple(slice(0, n) for n in stack.original_data_shape)].sum())
    stack.close()
    return total


def change_entry(path: Path, number: int, dimension: str = "", **values: Any) -> None:
    """Overwrite what a sub-block says of itself, in the directory and at its pixels."""
    content = bytearray(path.read_bytes())
    for start in _entries(content)[number]:
        for field, value in values.items():
            at, form = FIELDS[field] if not dimension else OF_DIMENSION[field]
            if dimension:
                at += content.index(dimension.encode().ljust(4, b"\0"), start + ENTRY) - start
            struct.pack_into(form, content, start + at, value)
    path.write_bytes(content)


def replace_pixels(path: Path, number: int, data: bytes) -> None:
    """Put other, fewer bytes in the place of the pixels of a sub-block without metadata."""
    content = bytearray(path.read_bytes())
    entry = _entries(content)[number][1]
    n_metadata, _, n_data = struct.unpack_from("<iiq", content, entry - 16)
    n_dims = struct.unpack_from("<i", content, entry + 28)[0]
    assert len(data) <= n_data
    struct.pack_into("<q", content, entry - 8, len(data))
    at = entry - 16 + max(256, 16 + ENTRY + n_dims * DIMENSION) + n_metadata
    content[at : at + len(data)] = data
    path.write_bytes(content)


def directory_position(content: bytes) -> int:
    return int(struct.unpack_from("<q", content, 32 + 52)[0])


def sub_block_position(path: Path, number: int) -> int:
    """Where the pixels of a sub-block start in the file, or little before."""
    return _entries(path.read_bytes())[number][1]


def _entries(content: bytes) -> list[tuple[int, int]]:
    """Where the entry of each sub-block lies: in the directory and at its pixels."""
    at = directory_position(content) + 32
    count, at = struct.unpack_from("<i", content, at)[0], at + 128
    found = []
    for _ in range(count):
        found.append((at, struct.unpack_from("<q", content, at + 6)[0] + 32 + 16))
        at += ENTRY + DIMENSION * struct.unpack_from("<i", content, at + 28)[0]
    return found
