"""Simulated fluorescence micrographs with their noise-free truth.

Three small images for examples, tests and first runs without a download: nuclei with a
network of filaments around them, in 2-D (camera, 40x, 6.5 um pixels), in 3-D (a Z stack) and
in 2-D with noise in short stripes along the rows.
Both are drawn in micrometres, blurred with a Gaussian point spread function (a good
approximation of the true one, Zhang, Zerubia and Olivo-Marin, Applied Optics 46, 2007) and
recorded by a camera with Poisson photon noise, Gaussian read noise and an offset (the model
of Foi et al., IEEE Trans. Image Processing 17, 2008). The noise of a pixel is independent of
its neighbours', which is what Noise2Void assumes.

The exception is ``rows``, for structN2V. Where a detector is read out pixel after pixel along a
line, as in laser scanning, an amplifier slower than the pixel clock smears the noise of a pixel
over those that follow, so that it is correlated along X and independent along Y. Broaddus et al.
(ISBI 2020) show such noise and why it defeats Noise2Void. Here each pixel's noise, of the same
variance as in the other samples, is a moving average over `SMEAR` pixels: neighbours correlate
by 2/3, the next by 1/3, and all further ones not at all. The light itself is not smeared.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from careamics_dm._scene import scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float32] | NDArray[np.float64]

OFFSET = 100.0  # camera counts without light
GAIN = 2.2  # camera counts per photo-electron
READ_NOISE = 1.6  # standard deviation, photo-electrons
SMEAR = 3  # pixels along X that share noise in "rows"

Name: TypeAlias = Literal["nuclei", "filaments", "rows"]
"""Of a sample."""


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


def nuclei(size: tuple[int, int] = (512, 512), seed: int = 0, recording: int = 0) -> Sample:
    """Simulate a 2-D widefield image of nuclei and thin filaments in low light.

    Parameters
    ----------
    size : tuple of int
        Pixels along Y and X, each at least 16.
    seed : int
        The same seed gives the same scene.
    recording : int
        Of the same scene: 0, 1, 2 and so on differ in their noise, which is independent.

    Returns
    -------
    Sample
        ``YX``, 0.1625 um per pixel, about 24 dB of peak signal-to-noise ratio.

    Raises
    ------
    ValueError
        If ``size`` is not two numbers of at least 16.
    """
    return _simulate("nuclei", size, seed, recording)


def filaments(
    size: tuple[int, int, int] = (32, 256, 256), seed: int = 0, recording: int = 0
) -> Sample:
    """Simulate a Z stack of filaments that run through a volume, around nuclei.

    Parameters
    ----------
    size : tuple of int
        Pixels along Z (at least 4), Y and X (at least 16).
    seed : int
        The same seed gives the same scene.
    recording : int
        Of the same scene: 0, 1, 2 and so on differ in their noise, which is independent.

    Returns
    -------
    Sample
        ``ZYX``, 0.5 x 0.2 x 0.2 um per pixel; three times blurrier along Z than in the plane.

    Raises
    ------
    ValueError
        If ``size`` is not three numbers of at least 4, 16 and 16.
    """
    return _simulate("filaments", size, seed, recording)


def rows(size: tuple[int, int] = (512, 512), seed: int = 0, recording: int = 0) -> Sample:
    """Simulate the scene of `nuclei` with noise that is correlated along X.

    Parameters
    ----------
    size : tuple of int
        Pixels along Y and X, each at least 16.
    seed : int
        The same seed gives the same scene.
    recording : int
        Of the same scene: 0, 1, 2 and so on differ in their noise, which is independent.

    Returns
    -------
    Sample
        ``YX``, 0.1625 um per pixel, about 24 dB of peak signal-to-noise ratio.

    Raises
    ------
    ValueError
        If ``size`` is not two numbers of at least 16.
    """
    return _simulate("rows", size, seed, recording)


def load(name: Name, seed: int = 0, recording: int = 0) -> Sample:
    """Simulate a sample by name, in its default size.

    Parameters
    ----------
    name : {"nuclei", "filaments", "rows"}
        Which one.
    seed : int
        The same seed gives the same scene.
    recording : int
        Of the same scene: 0, 1, 2 and so on differ in their noise, which is independent.

    Returns
    -------
    Sample
        The noisy image with its truth.

    Raises
    ------
    ValueError
        If there is no sample of that name, or ``recording`` is negative.
    """
    if name == "nuclei":
        return nuclei(seed=seed, recording=recording)
    if name == "filaments":
        return filaments(seed=seed, recording=recording)
    if name == "rows":
        return rows(seed=seed, recording=recording)
    raise ValueError(f"no sample is named {name!r}; there are 'nuclei', 'filaments' and 'rows'")


def noisy(name: Name, seed: int = 0, recording: int = 0) -> NDArray[np.uint16]:
    """Give the noisy array of a sample alone, for instance to a Hydra ``_target_``.

    Parameters
    ----------
    name : {"nuclei", "filaments", "rows"}
        Which one.
    seed : int
        The same seed gives the same scene.
    recording : int
        Of the same scene: 0, 1, 2 and so on differ in their noise, which is independent.

    Returns
    -------
    ndarray of uint16
        ``Y X`` or ``Z Y X``, camera counts.

    Raises
    ------
    ValueError
        If there is no sample of that name, or ``recording`` is negative.
    """
    return load(name, seed, recording).noisy


def clean(name: Name, seed: int = 0) -> NDArray[np.float32]:
    """Give the noise-free array of a sample alone, for instance to a Hydra ``_target_``.

    Parameters
    ----------
    name : {"nuclei", "filaments", "rows"}
        Which one.
    seed : int
        The same seed gives the same scene.

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


@dataclass(frozen=True)
class _Optics:
    """What scene and microscope of a sample are like."""

    pixel: dict[str, float]  # um along each axis
    psf: tuple[float, ...]  # standard deviation, um
    photons: float  # at the brightest pixel
    smear: int = 1  # pixels along X that share noise


_FLAT = _Optics({"Y": 0.1625, "X": 0.1625}, (0.23, 0.23), 70.0)
_SAMPLES: dict[str, _Optics] = {
    "nuclei": _FLAT,
    "filaments": _Optics({"Z": 0.5, "Y": 0.2, "X": 0.2}, (0.7, 0.23, 0.23), 50.0),
    "rows": replace(_FLAT, smear=SMEAR),
}


def _simulate(name: str, size: tuple[int, ...], seed: int, recording: int) -> Sample:
    """Draw, blur, light and record one scene."""
    optics = _SAMPLES[name]
    least = (4, 16, 16)[-len(optics.pixel) :]
    if len(size) != len(least) or any(n < low for n, low in zip(size, least, strict=False)):
        raise ValueError(f"size {size} of {name} must be {len(least)} numbers, at least {least}")
    if recording < 0:
        raise ValueError(f"recording={recording}: give 0, 1, 2 and so on")
    rng = np.random.default_rng(seed)
    pixel = np.array(list(optics.pixel.values()))
    # The FFT wraps around: a margin of three standard deviations is blurred and cut off.
    margin = np.ceil(3 * np.array(optics.psf) / pixel).astype(int)
    light = scene(rng, tuple(int(n) for n in np.array(size) + 2 * margin), pixel, optics.psf)
    light = light[tuple(slice(m, m + n) for m, n in zip(margin, size, strict=True))]
    expected = (optics.photons * light / light.max()).astype(np.float32)
    if recording:  # the first goes on with the generator that drew the scene
        rng = np.random.default_rng([seed, recording])
    electrons = _record(rng, expected, optics.smear)
    counts = np.clip(np.rint(OFFSET + GAIN * electrons), 0, 65535).astype(np.uint16)
    truth = (OFFSET + GAIN * expected).astype(np.float32)
    return Sample(counts, truth, "".join(optics.pixel), name, optics.pixel)


def _record(rng: np.random.Generator, expected: Numbers, smear: int) -> Numbers:
    """Add the noise of photons and read-out, in photo-electrons."""
    if smear == 1:
        return rng.poisson(expected) + rng.normal(0, READ_NOISE, expected.shape)
    white = rng.standard_normal((*expected.shape[:-1], expected.shape[-1] + smear - 1))
    smeared = np.lib.stride_tricks.sliding_window_view(white, smear, axis=-1).sum(axis=-1)
    electrons: Numbers = expected + np.sqrt((expected + READ_NOISE**2) / smear) * smeared
    return electrons


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
