"""Patches, copied out of decoded regions of images and their targets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from careamics_dm.errors import DataError
from careamics_dm.images.frame_pairs import read_pair
from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.nan_message import nan_message
from careamics_dm.images.region import Blocks, Region, read_samples

Patches = list[NDArray[Any]]
NanPolicy = Literal["error", "zero", "skip"]


class PairedImages:
    """Images and, where there are any, their targets, read and cut alike.

    ``dtypes`` are those of batches, of images and targets.
    """

    def __init__(self, images: ImageSet, nan_policy: NanPolicy) -> None:
        self.nan_policy = nan_policy
        self._pair = images.sides
        # Of all images: a batch mixes them, and one may be of a wider dtype than another.
        self.dtypes = [batch_dtype([stack.data_dtype for stack in of]) for of, _ in self._pair]

    def read(self, region: Region) -> Blocks:
        """Read a region: image and, where there is one, target, ``S C (Z) Y X``."""
        i = region.image
        (image, chosen), *rest = [(of[i], c[i] if c else None) for of, c in self._pair]
        if not rest:
            return (read_samples(image, region, chosen),)
        target, target_chosen = rest[0]
        return read_pair(image, target, region, chosen, target_chosen)

    def read_patch(self, region: Region) -> Blocks | None:
        """Read a patch alone: image and target, ``1 C (Z) Y X``, in the dtype of batches.

        ``None`` if it has NaN and is to be skipped; `DataError` if the policy is to refuse.
        """
        blocks = self.read(region)
        patches = [np.array(self.as_in_batches(i, block)) for i, block in enumerate(blocks)]
        if self.nan_policy == "skip" and not _all_finite(patches)[0]:
            return None
        self.apply_nan_policy(patches, lambda row: region, None)
        return tuple(patches)

    def as_in_batches(self, side: int, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return pixels of images (0) or targets (1) in the dtype of batches."""
        with np.errstate(over="ignore"):  # what is beyond float32 is reported as infinite
            return pixels.astype(self.dtypes[side], copy=False)

    def cut(
        self,
        blocks: Mapping[int, Blocks],
        of: Sequence[int],
        at: Sequence[Sequence[int]],
        size: Sequence[int],
    ) -> Patches:
        """Copy patches into a batch, ``N C (Z) Y X``.

        Patch ``i`` lies in the regions ``blocks[of[i]]``, each ``S C (Z) Y X``, at the sample and
        origin ``at[i]``. A plain loop is the fastest gather that NumPy has.
        """
        cuts: Patches = []
        for side, block in enumerate(blocks[of[0]]):
            cut = np.empty((len(of), block.shape[1], *size), self.dtypes[side])
            cuts.append(cut)
            pixels = {r: pair[side] for r, pair in blocks.items()}
            with np.errstate(over="ignore"):  # what is beyond float32 is reported as infinite
                if cut.ndim == 4:
                    h, w = size
                    for patch, r, (s, y, x) in zip(cut, of, at, strict=True):
                        patch[...] = pixels[r][s, :, y : y + h, x : x + w]
                else:
                    d, h, w = size
                    for patch, r, (s, z, y, x) in zip(cut, of, at, strict=True):
                        patch[...] = pixels[r][s, :, z : z + d, y : y + h, x : x + w]
        return cuts

    def apply_nan_policy(
        self,
        cuts: Patches,
        region_of: Callable[[int], Region],
        others: Callable[[], list[Blocks]] | None,
    ) -> None:
        """Do something about NaN and infinity in a batch, in place, images and targets alike.

        ``others`` reads finite patches from elsewhere, for when a whole batch must be skipped;
        ``None`` if each patch has its place.
        `DataError` if the policy is to refuse, or no other patch is finite.
        """
        finite = _all_finite(cuts)
        if finite.all():
            return
        row = int(finite.argmin())
        if self.nan_policy == "error":
            raise DataError(self._message(cuts, row, region_of(row)))
        if self.nan_policy == "zero" or others is None:
            for cut in cuts:
                if cut.dtype.kind == "f":
                    cut[~np.isfinite(cut)] = 0
        elif finite.any():
            instead = np.resize(np.flatnonzero(finite), (~finite).sum())
            for cut in cuts:
                cut[~finite] = cut[instead]
        else:
            found = others()
            if not found:
                message = self._message(cuts, row, region_of(row))
                raise DataError(f"{message} Other patches were tried, each has some too.")
            for i in range(len(finite)):
                for cut, other in zip(cuts, found[i % len(found)], strict=True):
                    cut[i] = other[0]

    def _message(self, cuts: Patches, row: int, region: Region) -> str:
        """Say where a patch has its first NaN or infinity."""
        side = next(i for i, cut in enumerate(cuts) if not np.isfinite(cut[row]).all())
        stacks, channels = self._pair[side]
        channel, *inside = np.argwhere(~np.isfinite(cuts[side][row]))[0].tolist()
        chosen = channels[region.image] if channels else None
        return nan_message(
            stacks[region.image].source,
            cuts[side][row][channel, *inside],
            region.sample,
            channel if chosen is None else chosen[channel],
            tuple(a + b for a, b in zip(region.start, inside, strict=True)),
        )


def batch_dtype(stored: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """Dtype of a batch: as stored where no wider than float32, which it becomes anyway."""
    dtype = np.result_type(*stored)
    narrow = {np.dtype(t) for t in ("u1", "i1", "u2", "i2", "f2", "f4")}
    return dtype if dtype in narrow else np.dtype(np.float32)


def _all_finite(cuts: Patches) -> NDArray[np.bool_]:
    """Whether image and target of each patch are finite, ``(N,)``."""
    finite = np.ones(len(cuts[0]), bool)
    for cut in cuts:
        if cut.dtype.kind == "f":
            good = np.isfinite(cut)
            if not good.all():  # the sum over each patch takes longer than that over all
                finite &= good.reshape(len(cut), -1).all(axis=1)
    return finite
