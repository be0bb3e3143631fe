from __future__ import annotations

import pickle
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from careamics_dm import samples
from careamics_dm.evaluation.metrics import psnr
from careamics_dm.samples.simulation import (
    GAIN,
    OFFSET,
    READ_NOISE,
    Name,
    Sample,
    load,
    write,
)

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("nuclei", "filaments")
PIXELS = {"nuclei": 1969403503, "filaments": 2150964479, "rows": 2362271163}
if np.lib.NumpyVersion(np.__version__) < "2.3.0":  # older versions round differently
    PIXELS |= {"filaments": 1273455743, "rows": 3392239222}


@pytest.fixture(scope="module", params=NAMES)
def sample(request: pytest.FixtureRequest) -> Sample:
    return load(request.param)


def test_samples_describe_themselves(sample: Sample) -> None:
    flat = sample.name == "nuclei"
    assert sample.noisy.shape == sample.clean.shape == ((512, 512) if flat else (32, 256, 256))
    assert (sample.noisy.dtype, sample.clean.dtype) == (np.uint16, np.float32)
    assert sample.axes == "".join(sample.pixel_size) == ("YX" if flat else "ZYX")
    assert all(0.1 < microns < 1 for microns in sample.pixel_size.values())
    assert pickle.loads(pickle.dumps(sample)).name == sample.name


def test_noise_is_that_of_a_camera(sample: Sample) -> None:
    """Unbiased, of the Poisson-Gaussian variance, and independent from pixel to pixel."""
    noise = sample.noisy - sample.clean.astype(np.float64)
    assert abs(noise.mean()) < 0.1
    expected = GAIN * (sample.clean - OFFSET) + (GAIN * READ_NOISE) ** 2 + 1 / 12
    assert noise.var() == pytest.approx(expected.mean(), rel=0.02)
    white = noise / np.sqrt(expected)
    for axis in range(noise.ndim):
        neighbours = np.mean(white * np.roll(white, 1, axis))
        assert abs(neighbours) < 0.01


def test_noise_along_rows() -> None:
    """Of the same variance; correlated by 2/3 and 1/3 along X, and nowhere else."""
    sample = load("rows")
    np.testing.assert_array_equal(sample.clean, samples.clean("nuclei"))
    noise = sample.noisy - sample.clean.astype(np.float64)
    expected = GAIN * (sample.clean - OFFSET) + (GAIN * READ_NOISE) ** 2 + 1 / 12
    assert abs(noise.mean()) < 0.1
    assert noise.var() == pytest.approx(expected.mean(), rel=0.02)
    white = noise / np.sqrt(expected)
    for step, correlation in ((1, 2 / 3), (2, 1 / 3), (3, 0), (4, 0)):
        found = np.mean(white[:, step:] * white[:, :-step])
        assert found == pytest.approx(correlation, abs=0.015)
    assert abs(np.mean(white[1:] * white[:-1])) < 0.01


@pytest.mark.parametrize("name", [*NAMES, "rows"])
def test_recordings_of_a_scene_differ_in_their_noise_alone(name: Name) -> None:
    first, second, third = (load(name, 0, i) for i in range(3))
    np.testing.assert_array_equal(first.clean, second.clean)
    np.testing.assert_array_equal(first.noisy, samples.noisy(name))
    np.testing.assert_array_equal(second.noisy, samples.noisy(name, 0, 1))
    noise = [(s.noisy - s.clean.astype(np.float64)).ravel() for s in (first, second, third)]
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.01
    assert noise[1].std() == pytest.approx(noise[0].std(), rel=0.02)


def test_the_pixels_of_samples_stay_the_same() -> None:
    """Numbers that people have reported for them stay comparable."""
    found = {name: zlib.crc32(samples.noisy(name).tobytes()) for name in PIXELS}
    assert found == PIXELS


def test_low_light(sample: Sample) -> None:
    assert 22.5 < psnr(sample.clean, sample.noisy) < 26.5
    photons = (sample.clean - OFFSET) / GAIN
    assert photons.min() > 0
    assert 40 < photons.max() < 80
    assert sample.noisy.min() > 0


def test_truth_is_smooth_and_fills_the_field(sample: Sample) -> None:
    """Neighbouring pixels tell about each other, and no quarter of the field is empty."""
    truth = sample.clean.astype(np.float64)
    step = np.diff(truth, axis=-1)
    assert step.var() < 0.1 * truth.var()
    plane = truth if truth.ndim == 2 else truth.max(axis=0)
    half = plane.shape[0] // 2
    quarters = plane.reshape(2, half, 2, half).max(axis=(1, 3))
    assert np.all(quarters > OFFSET + 0.4 * (truth.max() - OFFSET))


def test_stack_is_blurrier_along_z() -> None:
    """Over the same half a micrometre light changes less along Z (with a round blur: more)."""
    truth = samples.clean("filaments").astype(np.float64)
    along_z = np.square(truth[1:] - truth[:-1]).mean()  # 0.5 um
    along_x = np.square(truth[..., 3:] - truth[..., :-3]).mean()  # 0.6 um
    assert along_z < 0.65 * along_x


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_seeds(name: Name) -> None:
    size = (48, 64) if name == "nuclei" else (6, 48, 64)
    first, again, other = (load(name, seed, size=size) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.noisy, again.noisy)
    np.testing.assert_array_equal(first.clean, again.clean)
    assert first.noisy.shape == size
    assert not np.array_equal(first.clean, other.clean)


def test_hydra_targets_give_the_arrays_of_load(sample: Sample) -> None:
    np.testing.assert_array_equal(samples.noisy(sample.name), sample.noisy)
    np.testing.assert_array_equal(samples.clean(sample.name), sample.clean)


def test_every_small_size_can_be_drawn() -> None:
    for seed in range(5):
        assert load("nuclei", seed, size=(16, 17)).clean.max() > OFFSET
        assert load("filaments", seed, size=(4, 16, 19)).clean.max() > OFFSET


def test_bad_requests_are_named() -> None:
    with pytest.raises(ValueError, match="'cells'"):
        load("cells")
    with pytest.raises(ValueError, match=r"\(8, 512\)"):
        load("nuclei", size=(8, 512))
    with pytest.raises(ValueError, match="3 numbers"):
        load("filaments", size=(32, 256))
    with pytest.raises(ValueError, match="recording=-1"):
        samples.noisy("nuclei", recording=-1)


def test_write_leaves_tiffs_that_say_their_axes_and_pixel_size(tmp_path: Path) -> None:
    from careamics_dm.formats.tiff.datamodule import open_tiff

    paths = write(tmp_path / "new", n=2)
    assert [path.name for path in paths] == ["nuclei_0.tif", "nuclei_1.tif"]
    (stack,) = open_tiff(paths[1])
    assert (stack.original_axes, stack.data_dtype) == ("YX", np.uint16)
    assert stack.scale["Y"] == pytest.approx((load("nuclei", 1).pixel_size["Y"], "µm"))
    assert np.array_equal(
        stack.extract_patch(0, None, (0, 0), (512, 512))[0], samples.noisy("nuclei", 1)
    )
