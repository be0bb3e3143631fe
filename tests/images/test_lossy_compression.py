from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from careamics_dm.images.lossy_compression import ENOUGH, lossy_codec

NOISE = np.random.default_rng(0).integers(0, 255, (64, 64), "u1")
LOSSY = {
    "JPEG": imagecodecs.jpeg8_encode(NOISE, level=95),
    "JPEG XR": imagecodecs.jpegxr_encode(NOISE, level=0.99),
    "JPEG 2000": imagecodecs.jpeg2k_encode(NOISE, level=80),
    "WebP": imagecodecs.webp_encode(np.stack([NOISE] * 3, -1), level=90, lossless=False),
}
LOSSLESS = {
    "JPEG": imagecodecs.jpeg8_encode(NOISE, lossless=True),
    "JPEG-LS": imagecodecs.jpegls_encode(NOISE),
    "JPEG XR": imagecodecs.jpegxr_encode(NOISE, level=1.0),
    "JPEG 2000": imagecodecs.jpeg2k_encode(NOISE, level=0, reversible=True),
    "WebP": imagecodecs.webp_encode(np.stack([NOISE] * 3, -1), lossless=True),
    "zlib": imagecodecs.zlib_encode(NOISE),
    "nothing": b"",
}


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_codecs_are_named(name: str) -> None:
    assert lossy_codec(LOSSY[name][:ENOUGH]) == name


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_ones_are_not(name: str) -> None:
    assert lossy_codec(LOSSLESS[name][:ENOUGH]) == ""
