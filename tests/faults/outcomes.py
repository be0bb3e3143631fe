"""What becomes of faulty input: the pixels that it still gives, or one clear error."""

from __future__ import annotations

import resource
import signal
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from careamics_dm import (
    ArrayDataModule,
    CustomDataModule,
    CziDataModule,
    DataError,
    TiffDataModule,
    ZarrDataModule,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

MODULES: dict[str, Any] = {
    "array": ArrayDataModule,
    "tiff": TiffDataModule,
    "czi": CziDataModule,
    "zarr": ZarrDataModule,
    "custom": CustomDataModule,
}
SECONDS, MIB = 20, 1024
LONGEST = 1500


class Outcome(NamedTuple):
    """One of both."""

    pixels: list[NDArray[Any]] | None
    """Of each image, ``S C (Z) Y X``."""
    message: str | None


@contextmanager
def limits() -> Iterator[None]:
    """Fail what hangs, or takes far more memory than its small files need."""

    def fail(*_: Any) -> None:
        raise AssertionError(f"not done after {SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MIB * 1024


def outcome_of(kind: str, settings: dict[str, Any]) -> Outcome:
    """Set a data module up, read all of its images and draw a batch; only `DataError` may stop it.

    ``settings`` may replace any setting.
    """
    usual = {"patch_size": (8, 8), "n_val_patches": 0, "normalization": "none", "in_memory": False}
    with limits(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning beside the right pixels is fine
        try:
            data = MODULES[kind](**usual | settings)
            try:
                data.setup("fit")
                next(iter(data.train_dataloader()))
                return Outcome([read(stack) for stack in data.images_of("train").stacks], None)
            finally:
                data.teardown("fit")
        except DataError as error:
            return Outcome(None, str(error))


def read(stack: Any) -> NDArray[Any]:
    """Read all of an image."""
    samples, _, *size = stack.data_shape
    start = [0] * len(size)
    return np.stack([stack.extract_patch(s, None, start, size) for s in range(samples)])


def assert_clear(message: str | None, *names: str) -> None:
    """A message names what is wrong, and shows nothing of the inside of the package."""
    assert message is not None, "no error"
    for name in names:
        assert name in message, message
    assert 20 < len(message) < LONGEST, message
    for inside in ("Traceback", "object at 0x", "careamics_dm/"):
        assert inside not in message, message


def assert_refused(kind: str, path: Path, content: bytes, axes: str) -> None:
    """A file of this content is no image; the message names it."""
    path.write_bytes(content)
    assert_clear(outcome_of(kind, {"train_data": str(path), "axes": axes}).message, path.name)


def assert_right_or_clear(outcome: Outcome, name: str, *right: NDArray[Any] | None) -> None:
    """Either the pixels of one image are as expected in one way, or the message is clear."""
    if outcome.pixels is None:
        assert_clear(outcome.message, name)
        return
    assert len(outcome.pixels) == 1
    found = outcome.pixels[0]
    wanted = [pixels for pixels in right if pixels is not None and pixels.size == found.size]
    assert any(np.array_equal(found.ravel(), pixels.ravel()) for pixels in wanted), (
        f"wrong pixels in silence: {found.shape}, {found.dtype}"
    )
