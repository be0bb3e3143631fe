"""Simulated fluorescence micrographs with their noise-free ground truth.

Three small images for examples, tests and first runs without a download; see `Name`. Each is
simulated in micrometres, blurred with a Gaussian point spread function (a good approximation of the
true one; Zhang, Zerubia and Olivo-Marin, Applied Optics 46, 2007) and recorded by a camera with
Poisson photon noise, Gaussian read noise and an offset (the model of Foi et al., IEEE Trans. Image
Processing 17, 2008). The noise of each pixel is independent of that of its neighbours, as
Noise2Void assumes.

The exception is "rows", for structN2V. Where a detector is read out pixel by pixel along a line,
as in laser scanning, an amplifier slower than the pixel clock smears the noise of a pixel over the
pixels that follow: noise is then correlated along X and independent along Y. Broaddus et al. (ISBI
2020) show such noise and why it defeats Noise2Void. Here the noise of each pixel, with the same
variance as in the other samples, is a moving average over `SMEAR` pixels: direct neighbours
correlate by 2/3, the next by 1/3, all others not at all. The light itself is not smeared.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from careamics_dm.samples.scene import scene

Numbers = NDArray[np.float32] | NDArray[np.float64]

OFFSET = 100.0  # camera counts without light
GAIN = 2.2  # camera counts per photo-electron
READ_NOISE = 1.6  # standard deviation, photo-electrons
SMEAR = 3  # pixels along X that share noise in "rows"

Name: TypeAlias = Literal["nuclei", "filaments", "rows"]
"""The samples, all about 24 dB of peak signal-to-noise ratio:

- "nuclei", ``YX``: a widefield image of nuclei and thin filaments in low light, 0.1625 µm per pixel
  (6.5 µm camera pixels, 40x);
- "filaments", ``ZYX``: a stack of filaments that run through a volume, around nuclei, 0.5 x 0.2 x
  0.2 µm per pixel, three times blurrier along Z than in the plane;
- "rows", ``YX``: the scene of "nuclei" with noise that is correlated along X.
"""


@dataclass(frozen=True)
class Sample:
    """A noisy image and its ground truth, with what is needed to save them."""

    noisy: NDArray[np.uint16]
    """What the camera recorded, in camera counts."""
    clean: NDArray[np.float32]
    """Expected camera counts, offset included: same shape and unit as ``noisy``."""
    axes: str
    """``"YX"`` or ``"ZYX"``."""
    name: str
    pixel_size: dict[str, float]
    """Micrometres per pixel along each letter of ``axes``."""


@dataclass(frozen=True)
class _Optics:
    """Scene and microscope of a sample."""

    size: tuple[int, ...]  # pixels, by default
    pixel: dict[str, float]  # µm along each axis
    psf: tuple[float, ...]  # standard deviation, µm
    photons: float  # at the brightest pixel
    smear: int = 1  # pixels along X that share noise


_NUCLEI = _Optics((512, 512), {"Y": 0.1625, "X": 0.1625}, (0.23, 0.23), 70.0)
_STACK = _Optics((32, 256, 256), {"Z": 0.5, "Y": 0.2, "X": 0.2}, (0.7, 0.23, 0.23), 50.0)
_SAMPLES: dict[str, _Optics] = {
    "nuclei": _NUCLEI,
    "filaments": _STACK,
    "rows": replace(_NUCLEI, smear=SMEAR),
}


def load(
    name: Name, seed: int = 0, recording: int = 0, *, size: tuple[int, ...] | None = None
) -> Sample:
    """Simulate a sample: the noisy image with its ground truth.

    Parameters
    ----------
    name, seed, recording
        See `noisy`.
    size : tuple of int, optional
        Pixels along Z (at least 4), Y and X (at least 16), one number per axis of the sample; by
        default 512 x 512, and 32 x 256 x 256 for "filaments".

    Returns
    -------
    Sample
        Both images, their axes and pixel size.

    Raises
    ------
    ValueError
        If there is no sample with that name, or ``recording`` or ``size`` is out of range.
    """
    if name not in _SAMPLES:
        raise ValueError(f"no sample is named {name!r}; there are 'nuclei', 'filaments' and 'rows'")
    if recording < 0:
        raise ValueError(f"recording={recording}: give 0, 1, 2 and so on")
    optics = _SAMPLES[name]
    expected, state = _expose(name, seed, _check_size(name, optics, size))
    rng = np.random.default_rng([seed, recording])
    if not recording:  # the first uses the generator that drew the scene
        rng.bit_generator.state = state
    electrons = _record(rng, expected, optics.smear)
    counts = np.clip(np.rint(OFFSET + GAIN * electrons), 0, 65535).astype(np.uint16)
    noise_free = (OFFSET + GAIN * expected).astype(np.float32)
    return Sample(counts, noise_free, "".join(optics.pixel), name, optics.pixel)


def noisy(name: Name, seed: int = 0, recording: int = 0) -> NDArray[np.uint16]:
    """Simulate the noisy image of a sample, as the camera recorded it.

    Parameters
    ----------
    name : {"nuclei", "filaments", "rows"}
        Which sample: "nuclei" and "rows" are ``YX``, 512 x 512 pixels, "filaments" is ``ZYX``,
        32 x 256 x 256. Noise is correlated along X in "rows", and independent in the others.
    seed : int
        The same seed gives the same scene.
    recording : int
        0, 1, 2 and so on: recordings of the same scene that differ in their noise only.

    Returns
    -------
    ndarray of uint16
        Camera counts.

    Raises
    ------
    ValueError
        If there is no sample with that name, or ``recording`` is negative.
    """
    return load(name, seed, recording).noisy


def clean(name: Name, seed: int = 0) -> NDArray[np.float32]:
    """Simulate the ground truth of a sample: what a recording without noise would be.

    Parameters
    ----------
    name : {"nuclei", "filaments", "rows"}
        Which sample; see `noisy`.
    seed : int
        The same seed gives the same scene.

    Returns
    -------
    ndarray of float32
        Expected camera counts, in the shape of the noisy image.

    Raises
    ------
    ValueError
        If there is no sample with that name.
    """
    return load(name, seed).clean


def _check_size(name: str, optics: _Optics, size: tuple[int, ...] | None) -> tuple[int, ...]:
    size = optics.size if size is None else tuple(size)
    least = (4, 16, 16)[-len(optics.pixel) :]
    if len(size) != len(least) or any(n < low for n, low in zip(size, least, strict=False)):
        raise ValueError(f"size={size}: give {len(least)} numbers for {name}, at least {least}")
    return size


@lru_cache(maxsize=4)
def _expose(
    name: str, seed: int, size: tuple[int, ...]
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Simulate and blur a scene: photo-electrons of each pixel, and the generator's state."""
    optics, rng = _SAMPLES[name], np.random.default_rng(seed)
    pixel = np.array(list(optics.pixel.values()))
    # The FFT wraps around: a margin of three standard deviations is blurred and cut off.
    margin = np.ceil(3 * np.array(optics.psf) / pixel).astype(int)
    light = scene(rng, tuple(int(n) for n in np.array(size) + 2 * margin), pixel, optics.psf)
    light = light[tuple(slice(m, m + n) for m, n in zip(margin, size, strict=True))]
    expected = np.asarray(optics.photons * light / light.max(), np.float32)
    return expected, dict(rng.bit_generator.state)


def _record(rng: np.random.Generator, expected: Numbers, smear: int) -> Numbers:
    """Add the noise of photons and read-out, in photo-electrons."""
    if smear == 1:
        return rng.poisson(expected) + rng.normal(0, READ_NOISE, expected.shape)
    white = rng.standard_normal((*expected.shape[:-1], expected.shape[-1] + smear - 1))
    smeared = np.lib.stride_tricks.sliding_window_view(white, smear, axis=-1).sum(axis=-1)
    electrons: Numbers = expected + np.sqrt((expected + READ_NOISE**2) / smear) * smeared
    return electrons


def write(folder: str | Path, n: int = 4) -> list[Path]:
    """Write noisy 2-D samples with different seeds as ImageJ TIFFs, ``nuclei_0.tif`` and so on."""
    import tifffile  # late: simulating needs only numpy

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"nuclei_{seed}.tif" for seed in range(n)]
    for seed, path in enumerate(paths):
        sample = load("nuclei", seed)
        resolution = (1 / sample.pixel_size["X"], 1 / sample.pixel_size["Y"])
        metadata = {"axes": sample.axes, "unit": "um"}
        tifffile.imwrite(path, sample.noisy, imagej=True, resolution=resolution, metadata=metadata)
    return paths
