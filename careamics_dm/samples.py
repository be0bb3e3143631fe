"""Simulated fluorescence micrographs with their noise-free truth.

Two small images for examples, tests and first runs without a download: nuclei with a
network of filaments around them, in 2-D (camera, 40x, 6.5 um pixels) and in 3-D (a Z stack).
Both are drawn in micrometres, blurred with a Gaussian point spread function (a good
approximation of the true one, Zhang, Zerubia and Olivo-Marin, Applied Optics 46, 2007) and
recorded by a camera with Poisson photon noise, Gaussian read noise and an offset (the model
of Foi et al., IEEE Trans. Image Processing 17, 2008). The noise of a pixel is independent of
its neighbours', which is what Noise2Void assumes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.float32]
    Vector = NDArray[np.float64]

OFFSET = 100.0  # camera counts without light
GAIN = 2.2  # camera counts per photo-electron
READ_NOISE = 1.6  # standard deviation, photo-electrons


@dataclass(frozen=True)
class Sample:
    """A noisy image and the truth behind it.

    Attributes
    ----------
    noisy : ndarray of uint16
        What the camera recorded, in camera counts.
    clean : ndarray of float32
        Expected camera counts, offset included: same shape and unit as ``noisy``.
    axes : str
        ``"YX"`` or ``"ZYX"``.
    name : str
        Name of the sample.
    pixel_size : dict of str to float
        Micrometres per pixel along each letter of ``axes``.
    """

    noisy: NDArray[np.uint16]
    clean: NDArray[np.float32]
    axes: str
    name: str
    pixel_size: dict[str, float]


def nuclei(size: tuple[int, int] = (512, 512), seed: int = 0) -> Sample:
    """Simulate a 2-D widefield image of nuclei and thin filaments in low light.

    Parameters
    ----------
    size : tuple of int
        Pixels along Y and X, each at least 16.
    seed : int
        The same seed gives the same image.

    Returns
    -------
    Sample
        ``YX``, 0.1625 um per pixel, about 24 dB of peak signal-to-noise ratio.

    Raises
    ------
    ValueError
        If ``size`` is not two numbers of at least 16.
    """
    pixel = {"Y": 0.1625, "X": 0.1625}
    return _simulate("nuclei", size, pixel, (0.23, 0.23), photons=70.0, seed=seed)


def filaments(size: tuple[int, int, int] = (32, 256, 256), seed: int = 0) -> Sample:
    """Simulate a Z stack of filaments that run through a volume, around nuclei.

    Parameters
    ----------
    size : tuple of int
        Pixels along Z (at least 4), Y and X (at least 16).
    seed : int
        The same seed gives the same image.

    Returns
    -------
    Sample
        ``ZYX``, 0.5 x 0.2 x 0.2 um per pixel; three times blurrier along Z than in the plane.

    Raises
    ------
    ValueError
        If ``size`` is not three numbers of at least 4, 16 and 16.
    """
    pixel = {"Z": 0.5, "Y": 0.2, "X": 0.2}
    return _simulate("filaments", size, pixel, (0.7, 0.23, 0.23), photons=50.0, seed=seed)


def load(name: Literal["nuclei", "filaments"], seed: int = 0) -> Sample:
    """Simulate a sample by name, in its default size.

    Parameters
    ----------
    name : {"nuclei", "filaments"}
        Which one.
    seed : int
        The same seed gives the same image.

    Returns
    -------
    Sample
        The noisy image with its truth.

    Raises
    ------
    ValueError
        If there is no sample of that name.
    """
    if name == "nuclei":
        return nuclei(seed=seed)
    if name == "filaments":
        return filaments(seed=seed)
    raise ValueError(f"no sample is named {name!r}; there are 'nuclei' and 'filaments'")


def noisy(name: Literal["nuclei", "filaments"], seed: int = 0) -> NDArray[np.uint16]:
    """Give the noisy array of a sample alone, for instance to a Hydra ``_target_``.

    Parameters
    ----------
    name : {"nuclei", "filaments"}
        Which one.
    seed : int
        The same seed gives the same image.

    Returns
    -------
    ndarray of uint16
        ``Y X`` or ``Z Y X``, camera counts.

    Raises
    ------
    ValueError
        If there is no sample of that name.
    """
    return load(name, seed).noisy


def clean(name: Literal["nuclei", "filaments"], seed: int = 0) -> NDArray[np.float32]:
    """Give the noise-free array of a sample alone, for instance to a Hydra ``_target_``.

    Parameters
    ----------
    name : {"nuclei", "filaments"}
        Which one.
    seed : int
        The same seed gives the same image.

    Returns
    -------
    ndarray of float32
        ``Y X`` or ``Z Y X``, expected camera counts, offset included.

    Raises
    ------
    ValueError
        If there is no sample of that name.
    """
    return load(name, seed).clean


def _simulate(
    name: str,
    size: tuple[int, ...],
    pixel_size: dict[str, float],
    psf: tuple[float, ...],
    photons: float,
    seed: int,
) -> Sample:
    """Draw, blur, light and record one scene; ``psf`` is a standard deviation in um."""
    least = (4, 16, 16)[-len(pixel_size) :]
    if len(size) != len(least) or any(n < low for n, low in zip(size, least, strict=False)):
        raise ValueError(f"size {size} of {name} must be {len(least)} numbers, at least {least}")
    rng = np.random.default_rng(seed)
    pixel = np.array(list(pixel_size.values()))
    # The FFT wraps around: a margin of three standard deviations is blurred and cut off.
    margin = np.ceil(3 * np.array(psf) / pixel).astype(int)
    light = _scene(rng, tuple(int(n) for n in np.array(size) + 2 * margin), pixel, psf)
    light = light[tuple(slice(m, m + n) for m, n in zip(margin, size, strict=True))]
    expected = (photons * light / light.max()).astype(np.float32)
    electrons = rng.poisson(expected) + rng.normal(0, READ_NOISE, expected.shape)
    counts = np.clip(np.rint(OFFSET + GAIN * electrons), 0, 65535).astype(np.uint16)
    truth = (OFFSET + GAIN * expected).astype(np.float32)
    return Sample(counts, truth, "".join(pixel_size), name, pixel_size)


def _scene(
    rng: np.random.Generator, shape: tuple[int, ...], pixel: Vector, psf: tuple[float, ...]
) -> Image:
    """Light of nuclei, filaments, haze and background, without noise, in arbitrary units."""
    flat = len(shape) == 2
    centres = _centres(rng, np.array(shape) * pixel)
    grain = _blur(rng.standard_normal(shape, np.float32), pixel, (0.35,) * len(shape), 0)
    grain /= grain.std()
    sharp, above = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for centre in centres:
        # A stack is defocused by its point spread function; in a plane some nuclei lie above it.
        canvas = above if flat and rng.random() < 0.12 else sharp
        _add_nucleus(rng, canvas, centre, pixel, grain)
    # The cytoskeleton passes above and below nuclei rather than through them.
    fibres = _filaments(rng, shape, pixel, centres) * np.exp(-1.6 * (sharp + above))
    light = _blur(sharp + fibres, pixel, psf, 0.3 if flat else 0.15)
    if flat:
        light += _blur(above, pixel, (0.9, 0.9), 0.3)
    # A background that grows towards one corner, as from uneven illumination.
    corner = np.linspace(0, 1, shape[-2])[:, None] + np.linspace(0, 1, shape[-1])
    # The FFT rings below zero around thin curves, where there is no light.
    return np.asarray(np.maximum(light, 0) + 0.02 + 0.04 * corner, np.float32)


def _centres(rng: np.random.Generator, extent: Vector) -> list[Vector]:
    """Nuclei at random, in um, rarely closer than a nucleus is wide (a few overlap)."""
    centres: list[Vector] = []
    for _ in range(max(1, int(extent[-2] * extent[-1] / 110))):
        new = rng.uniform(0, 1, extent.size) * extent
        if extent.size == 3:  # cells are flat: they sit in the middle of the stack
            new[0] = extent[0] * rng.uniform(0.3, 0.7)
        if all(np.hypot(*(new - old)[-2:]) > rng.uniform(8.0, 14.0) for old in centres):
            centres.append(new)
    return centres


def _add_nucleus(
    rng: np.random.Generator, canvas: Image, centre: Vector, pixel: Vector, grain: Image
) -> None:
    """Add an ellipsoid with an uneven outline, chromatin and nucleoli to its part of canvas."""
    length, width, turn = rng.uniform(5.2, 6.8), rng.uniform(3.9, 5.8), rng.uniform(0, np.pi)
    low = np.maximum(0, ((centre - 1.5 * length) / pixel).astype(int))
    high = np.maximum(low, ((centre + 1.5 * length) / pixel).astype(int))
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    places = [np.arange(n, dtype=np.float32)[cut] for n, cut in zip(canvas.shape, box, strict=True)]
    microns = [i * p - c for i, p, c in zip(places, pixel, centre, strict=True)]
    *z, y, x = np.meshgrid(*microns, indexing="ij", sparse=True)
    u, v = (x * np.cos(turn) + y * np.sin(turn)), (y * np.cos(turn) - x * np.sin(turn))
    height = sum(d**2 for d in z)
    lobes = np.cos(rng.integers(2, 5) * np.arctan2(v, u) + rng.uniform(0, 2 * np.pi))
    plane = ((u / length) ** 2 + (v / width) ** 2) * (1 + rng.uniform(0, 0.13) * lobes)
    radius = np.sqrt(plane + height / 3.6**2)
    # Denser at the rim than within, grainy, and (almost) empty in the nucleoli.
    rim = np.exp(-(((radius - 0.92) / 0.08) ** 2))
    chromatin = np.clip(1 + 0.3 * grain[box] + 0.3 * rim, 0.2, 3)
    for _ in range(rng.integers(2, 5)):
        away, angle, size = rng.uniform(0, 0.6), rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.4)
        du, dv = u - away * length * np.cos(angle), v - away * width * np.sin(angle)
        chromatin *= 1 - 0.7 * np.exp(-(((du**2 + dv**2 + height) / size**2) ** 2))
    if not z:  # a camera sees how thick the nucleus is
        chromatin *= 0.5 + 0.5 * np.sqrt(np.clip(1 - radius**2, 0, 1))
    inside = 1 / (1 + np.exp(np.clip((radius - 1) / 0.03, -30, 30)))
    canvas[box] += rng.uniform(0.45, 1.0) * inside * chromatin


def _filaments(
    rng: np.random.Generator, shape: tuple[int, ...], pixel: Vector, centres: list[Vector]
) -> Image:
    """Winding curves that leave a point beside each nucleus, drawn pixel by pixel."""
    per_cell, steps, step = 24, 420, 0.08  # step in um: half a pixel
    count = per_cell * len(centres)
    start = np.repeat(np.array(centres), per_cell, axis=0)
    start[:, -2:] += np.repeat(rng.normal(0, 3.5, (len(centres), 2)), per_cell, axis=0)
    start += rng.normal(0, 1.0, start.shape)
    way = step * np.arange(steps)
    angle = rng.uniform(0, 2 * np.pi, (count, 1)) + rng.normal(0, 0.02, (count, 1)) * way
    for length, swing in ((25.0, 0.6), (9.0, 0.25)):  # um, radians
        period = length * rng.uniform(0.7, 1.4, (count, 1))
        angle += swing * np.sin(2 * np.pi * (way / period + rng.uniform(0, 1, (count, 1))))
    moves = [np.sin(angle), np.cos(angle)]
    if len(shape) == 3:  # they rise and sink gently
        slope = rng.normal(0, 0.15, (count, 1))
        moves.insert(0, slope + 0.25 * np.sin(way / 4 + rng.uniform(0, 2 * np.pi, (count, 1))))
    points = start[:, None] + step * np.stack(moves, -1).cumsum(axis=1)
    index = np.rint(points / pixel).astype(int)
    drawn = way < rng.uniform(0.3, 1.0, (count, 1)) * way[-1]
    drawn &= np.all((index >= 0) & (index < np.array(shape)), axis=-1)
    bright = np.broadcast_to(rng.uniform(0.35, 1.0, (count, 1)), drawn.shape)[drawn]
    image = np.zeros(shape, np.float32)
    # In a stack the blur along Z thins a curve out; it is drawn brighter to be seen.
    np.add.at(image, tuple(index[drawn].T), (0.57 if len(shape) == 2 else 2.2) * bright)
    return image


def _blur(image: Image, pixel: Vector, sigma: tuple[float, ...], haze: float) -> Image:
    """Convolve with a Gaussian of ``sigma`` um plus ``haze`` times one of 3 um, wrapping around."""
    spectrum = np.fft.rfftn(image)
    sharp, wide = np.ones(1, np.float32), np.full(1, haze, np.float32)
    for axis, (n, p, s) in enumerate(zip(image.shape, pixel, sigma, strict=True)):
        last = axis == image.ndim - 1
        frequency = np.fft.rfftfreq(n, p) if last else np.fft.fftfreq(n, p)
        square = frequency.reshape([-1 if i == axis else 1 for i in range(image.ndim)]) ** 2
        sharp = sharp * np.exp(-2 * (np.pi * s) ** 2 * square).astype(np.float32)
        wide = wide * np.exp(-2 * (np.pi * 3.0) ** 2 * square).astype(np.float32)
    spectrum *= sharp + wide
    return np.fft.irfftn(spectrum, image.shape, axes=range(image.ndim)).astype(np.float32)


def write(folder: str | Path, n: int = 4) -> list[Path]:
    """Write noisy 2-D samples of different seeds as ImageJ TIFFs, to try things on.

    Parameters
    ----------
    folder : path
        Made if missing.
    n : int
        How many.

    Returns
    -------
    list of Path
        ``nuclei_0.tif`` and so on.
    """
    import tifffile  # late: making samples needs numpy alone

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"nuclei_{seed}.tif" for seed in range(n)]
    for seed, path in enumerate(paths):
        sample = load("nuclei", seed)
        resolution = (1 / sample.pixel_size["X"], 1 / sample.pixel_size["Y"])
        metadata = {"axes": sample.axes, "unit": "um"}
        tifffile.imwrite(path, sample.noisy, imagej=True, resolution=resolution, metadata=metadata)
    return paths


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m careamics_dm.samples FOLDER (writes four noisy TIFFs)")
    print(*write(sys.argv[1]), sep="\n")
