"""What the benchmarks load: images as a camera makes them, stored in several ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MEAN, STD = 229.0, 42.0
"""About what the images have; given, so that no side computes it."""
GAIN = 1.2  # camera counts per photo-electron
TILED: dict[str, Any] = {"tile": (256, 256), "compression": "zlib"}


@dataclass(frozen=True)
class Workload:
    """Files of equal size and how they are cut into batches."""

    name: str
    title: str
    files: int
    shape: tuple[int, ...]
    axes: str
    patch_size: tuple[int, ...] = (64, 64)
    batch_size: int = 64
    tiff: dict[str, Any] | None = None
    """How the TIFFs are written; None for arrays in memory."""
    pool_mib: int = 512
    goal: float = 16
    """Patches per second over CAREamics', as DESIGN says."""

    def write(self, folder: Path, images: Images) -> list[str]:
        """Write the files and return their paths."""
        paths = []
        for i in range(self.files):
            path = folder / f"{i:02d}.{'npy' if self.tiff is None else 'tif'}"
            pixels = images.draw(self.shape)
            if self.tiff is None:
                np.save(path, pixels)
            else:
                tifffile.imwrite(path, pixels, metadata=None, photometric="minisblack", **self.tiff)
            paths.append(str(path))
        return paths


PLANE, VOLUME = (2048, 2048), (64, 512, 512)
WORKLOADS = [
    Workload("W1", "arrays 2-D, 8 × 2048²", 8, PLANE, "YX"),
    Workload("W1b", "arrays 3-D, 4 × 64×512²", 4, VOLUME, "ZYX", (16, 64, 64), 8, goal=4),
    Workload("W2", "TIFF raw, 16 × 2048²", 16, PLANE, "YX", tiff={}),
    Workload("W2s", "the same, pool half of it", 16, PLANE, "YX", tiff={}, pool_mib=64),
    Workload("W2b", "TIFF tiled, deflate, 16 × 2048²", 16, PLANE, "YX", tiff=TILED, goal=6),
    Workload("W2bs", "the same, pool half of it", 16, PLANE, "YX", tiff=TILED, pool_mib=64, goal=6),
    Workload("W2c", "TIFF raw stack of 50 × 2048²", 1, (50, *PLANE), "SYX", tiff={}),
    Workload("W2cs", "the same, pool a sixth of it", 1, (50, *PLANE), "SYX", tiff={}, pool_mib=64),
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
