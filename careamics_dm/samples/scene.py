"""The light of a simulated scene: nuclei and a network of filaments; see `samples`."""

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Vector = NDArray[np.float64]


def scene(
    rng: np.random.Generator, shape: tuple[int, ...], pixel: Vector, psf: tuple[float, ...]
) -> Image:
    """Simulate nuclei, filaments, haze and background of ``(Z) Y X`` pixels, without noise.

    ``pixel`` and ``psf`` are micrometres along each axis: pixel size, and standard deviation of the
    point spread function. The result is not below zero, in arbitrary units.
    """
    flat = len(shape) == 2
    centres = _centres(rng, np.array(shape) * pixel)
    grain = _blur(rng.standard_normal(shape, np.float32), pixel, (0.35,) * len(shape), 0)
    grain /= grain.std()
    sharp, above = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for centre in centres:
        # The PSF defocuses a stack; in a single plane some nuclei lie above the focus.
        canvas = above if flat and rng.random() < 0.12 else sharp
        _add_nucleus(rng, canvas, centre, pixel, grain)
    # The cytoskeleton passes above and below nuclei rather than through them.
    fibres = _filaments(rng, shape, pixel, centres) * np.exp(-1.6 * (sharp + above))
    light = _blur(sharp + fibres, pixel, psf, 0.3 if flat else 0.15)
    if flat:
        light += _blur(above, pixel, (0.9, 0.9), 0.3)
    # A background that rises towards one corner, as from uneven illumination.
    corner = np.linspace(0, 1, shape[-2])[:, None] + np.linspace(0, 1, shape[-1])
    # The FFT rings below zero around thin curves, where there is no light.
    return np.asarray(np.maximum(light, 0) + 0.02 + 0.04 * corner, np.float32)


def _centres(rng: np.random.Generator, extent: Vector) -> list[Vector]:
    """Draw random nuclei, in µm, that are rarely closer than their width (a few overlap)."""
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
    """Add an ellipsoid with an uneven outline, chromatin and nucleoli to the canvas."""
    length, width, turn = rng.uniform(5.2, 6.8), rng.uniform(3.9, 5.8), rng.uniform(0, np.pi)
    low = np.maximum(0, ((centre - 1.5 * length) / pixel).astype(int))
    high = np.maximum(low, ((centre + 1.5 * length) / pixel).astype(int))
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grid = [np.arange(n, dtype=np.float32)[cut] for n, cut in zip(canvas.shape, box, strict=True)]
    microns = [i * p - c for i, p, c in zip(grid, pixel, centre, strict=True)]
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
    if not z:  # in 2-D brightness follows the thickness of the nucleus
        chromatin *= 0.5 + 0.5 * np.sqrt(np.clip(1 - radius**2, 0, 1))
    inside = 1 / (1 + np.exp(np.clip((radius - 1) / 0.03, -30, 30)))
    canvas[box] += rng.uniform(0.45, 1.0) * inside * chromatin


def _filaments(
    rng: np.random.Generator, shape: tuple[int, ...], pixel: Vector, centres: list[Vector]
) -> Image:
    """Draw winding curves that start beside each nucleus, pixel by pixel."""
    per_nucleus, steps, step = 24, 420, 0.08  # step in µm: half a pixel
    count = per_nucleus * len(centres)
    start = np.repeat(np.array(centres), per_nucleus, axis=0)
    start[:, -2:] += np.repeat(rng.normal(0, 3.5, (len(centres), 2)), per_nucleus, axis=0)
    start += rng.normal(0, 1.0, start.shape)
    way = step * np.arange(steps)
    angle = rng.uniform(0, 2 * np.pi, (count, 1)) + rng.normal(0, 0.02, (count, 1)) * way
    for length, swing in ((25.0, 0.6), (9.0, 0.25)):  # µm, radians
        period = length * rng.uniform(0.7, 1.4, (count, 1))
        angle += swing * np.sin(2 * np.pi * (way / period + rng.uniform(0, 1, (count, 1))))
    moves = [np.sin(angle), np.cos(angle)]
    if len(shape) == 3:  # curves rise and sink gently
        slope = rng.normal(0, 0.15, (count, 1))
        moves.insert(0, slope + 0.25 * np.sin(way / 4 + rng.uniform(0, 2 * np.pi, (count, 1))))
    points = start[:, None] + step * np.stack(moves, -1).cumsum(axis=1)
    index = np.rint(points / pixel).astype(int)
    drawn = way < rng.uniform(0.3, 1.0, (count, 1)) * way[-1]
    drawn &= np.all((index >= 0) & (index < np.array(shape)), axis=-1)
    bright = np.broadcast_to(rng.uniform(0.35, 1.0, (count, 1)), drawn.shape)[drawn]
    image = np.zeros(shape, np.float32)
    # In a stack the blur along Z dims a curve, so it is drawn brighter.
    np.add.at(image, tuple(index[drawn].T), (0.57 if len(shape) == 2 else 2.2) * bright)
    return image


def _blur(image: Image, pixel: Vector, sigma: tuple[float, ...], haze: float) -> Image:
    """Convolve with a Gaussian of ``sigma`` µm plus ``haze`` times one of 3 µm; wraps around."""
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
