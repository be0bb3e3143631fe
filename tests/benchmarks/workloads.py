"""What the benchmarks load: images as a camera makes them, stored in several ways."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from storing import write_czi, write_npy, write_tiff, write_zarr

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MEAN, STD = 229.0, 42.0
"""About what the images have; given, so that no side computes it."""
GAIN = 1.2  # camera counts per photo-electron
CUBE = (16, 64, 64)


@dataclass(frozen=True)
class Workload:
    """Files of equal size and how they are cut into batches."""

    name: str
    title: str
    kind: str
    """A format of careamics_dm."""
    files: int
    shape: tuple[int, ...]
    """Of the pixels as they are written."""
    axes: str
    patch_size: tuple[int, ...] = (64, 64)
    batch_size: int = 64
    how: dict[str, Any] = field(default_factory=dict)
    """How the files are written."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of our format."""
    pool_mib: int = 512
    goal: float = 16
    """Patches per second over CAREamics', as DESIGN says."""

    @property
    def mib(self) -> int:
        """Pixels in all files, stored dtype."""
        return self.files * prod(self.shape) * 2 // 2**20

    def write(self, folder: Path, images: Images) -> list[str]:
        """Write the files and return their paths."""
        suffix, write = STORED[self.kind]
        paths = [folder / f"{i:02d}.{suffix}" for i in range(self.files)]
        for path in paths:
            write(path, self.shape, images.draw, **self.how)
        return [str(path) for path in paths]


STORED: dict[str, tuple[str, Any]] = {
    "array": ("npy", write_npy),
    "custom": ("npy", write_npy),
    "tiff": ("tif", write_tiff),
    "zarr": ("zarr", write_zarr),
    "czi": ("czi", write_czi),
}
PLANE, VOLUME = (2048, 2048), (64, 512, 512)
PLANES, STACK, DEEP = (16, *PLANE), (50, *PLANE), (128, 1024, 1024)
TILED = {"tile": (256, 256), "compression": "zlib"}
CHUNKS = {"chunks": (1, 256, 256)}
SHARDS = CHUNKS | {"shards": (1, 2048, 2048)}
CUBES = {"chunks": (32, 128, 128)}
SLOW, RAW, ZSTD1 = {"engine": "zarr"}, {"compression": "uncompressed:"}, {"compression": "zstd1:"}
NPY = {"read_func": "numpy.load"}
WORKLOADS = [
    Workload("W1", "arrays 2-D, 8 × 2048²", "array", 8, PLANE, "YX"),
    Workload("W1b", "arrays 3-D, 4 × 64×512²", "array", 4, VOLUME, "ZYX", CUBE, 8, goal=4),
    Workload("W2", "TIFF raw, 16 × 2048²", "tiff", 16, PLANE, "YX"),
    Workload("W2s", "the same, pool half of it", "tiff", 16, PLANE, "YX", pool_mib=64),
    Workload("W2b", "TIFF tiled, deflate, 16 × 2048²", "tiff", 16, PLANE, "YX", how=TILED, goal=6),
    Workload(
        "W2bs", "the same, pool half of it", "tiff", 16, PLANE, "YX", how=TILED, pool_mib=64, goal=6
    ),
    Workload("W2c", "TIFF raw stack of 50 × 2048²", "tiff", 1, STACK, "SYX"),
    Workload("W2cs", "the same, pool a sixth of it", "tiff", 1, STACK, "SYX", pool_mib=64),
    Workload(
        "W3",
        "Zarr 256² chunks, zarr-python",
        "zarr",
        1,
        PLANES,
        "SYX",
        how=CHUNKS,
        options=SLOW,
        goal=40,
    ),
    Workload("W3f", "the same, fastest engine", "zarr", 1, PLANES, "SYX", how=CHUNKS, goal=100),
    Workload(
        "W3b",
        "Zarr sharded, zarr-python",
        "zarr",
        1,
        PLANES,
        "SYX",
        how=SHARDS,
        options=SLOW,
        goal=120,
    ),
    Workload("W3bf", "the same, fastest engine", "zarr", 1, PLANES, "SYX", how=SHARDS, goal=120),
    Workload(
        "W3c",
        "Zarr 3-D, 32×128² chunks, zarr-python",
        "zarr",
        1,
        DEEP,
        "ZYX",
        CUBE,
        8,
        how=CUBES,
        options=SLOW,
        goal=25,
    ),
    Workload(
        "W3cf", "the same, fastest engine", "zarr", 1, DEEP, "ZYX", CUBE, 8, how=CUBES, goal=25
    ),
    Workload("W4", "CZI raw, T16 × 2048²", "czi", 1, PLANES, "SCYX", how=RAW, goal=120),
    Workload("W4b", "CZI Zstandard, T16 × 2048²", "czi", 1, PLANES, "SCYX", how=ZSTD1, goal=500),
    Workload(
        "W4c",
        "CZI raw 3-D, T2 Z32 × 1024²",
        "czi",
        1,
        (2, 32, 1024, 1024),
        "SCZYX",
        CUBE,
        8,
        how=RAW,
        goal=35,
    ),
    Workload("W5", "numpy.load, 16 × 2048²", "custom", 16, PLANE, "YX", options=NPY),
]


class Images:
    """Smooth structure, photon (Poisson) and read noise, uint16; they compress 1.8 times.

    The noise is made once and shifted for each image, as making it takes longer than writing it.
    """

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        knots = self.rng.gamma(2.0, 40.0, (65, 65))
        scene = _stretch(_stretch(knots, 0), 1) + 150
        noisy = self.rng.poisson((scene - 100) / GAIN) * GAIN + 100
        noisy += self.rng.normal(0, 4, noisy.shape)
        self.noisy = np.clip(np.rint(noisy), 0, 65535).astype(np.uint16)

    def draw(self, shape: tuple[int, ...]) -> NDArray[np.uint16]:
        """Draw an image or a stack of at most 2048² pixels a plane."""
        *n, height, width = shape
        planes = []
        for _ in range(int(np.prod(n))):
            shift = self.rng.integers(2048, size=2)
            planes.append(np.roll(self.noisy, shift, (0, 1))[:height, :width])
        return np.stack(planes).reshape(shape)


def _stretch(knots: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Interpolate linearly to 2048 along an axis."""
    at = np.linspace(0, knots.shape[axis] - 1.001, 2048)
    low, part = at.astype(int), at % 1
    weight = part[:, None] if axis == 0 else part[None]
    below, above = np.take(knots, low, axis), np.take(knots, low + 1, axis)
    return np.asarray(below * (1 - weight) + above * weight)
