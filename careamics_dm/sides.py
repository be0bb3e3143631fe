"""Images and their targets, read and cut alike, and what is done about NaN in them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from careamics_dm.axes import DataError
from careamics_dm.cutting import batch_dtype, copy_boxes, per_patch
from careamics_dm.images import nan_message
from careamics_dm.pairs import read_pair
from careamics_dm.regions import Region, read_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from careamics_dm.image_stack import ImageStack
    from careamics_dm.plan import Plan
    from careamics_dm.reader import Blocks

    Side = tuple[Sequence[ImageStack], Sequence[Sequence[int] | None] | None]

NanPolicy = Literal["error", "zero", "skip"]

TRIES = 100
"""Other patches to look at where no patch of a batch can be used."""


class Sides:
    """The images of a dataset and, where there are any, their targets.

    Parameters
    ----------
    sides : sequence of (sequence of ImageStack, sequence of (sequence of int, or None) or None)
        Images and targets, with the channels to read of each.
    nan_policy : {"error", "zero", "skip"}
        What to do about NaN and infinity.
    seed : int
        Of the patches that are looked at elsewhere.
    """

    def __init__(self, sides: Sequence[Side], nan_policy: NanPolicy, seed: int) -> None:
        self.sides, self.nan_policy, self.seed = sides, nan_policy, seed
        # Of all images: a batch mixes them, and one may be of a wider dtype than another.
        self.dtypes = [batch_dtype([stack.data_dtype for stack in s]) for s, _ in sides]

    def read(self, region: Region) -> Blocks:
        """Read a region of every side."""
        i = region.image
        (stacks, chosen), *rest = [(s, c[i] if c else None) for s, c in self.sides]
        if not rest:
            return (read_samples(stacks[i], region, chosen),)
        targets, target_chosen = rest[0]
        return read_pair(stacks[i], targets[i], region, chosen, target_chosen)

    def cut(
        self,
        blocks: Blocks,
        mine: Sequence[int],
        at: Sequence[Sequence[int]],
        size: Sequence[int],
        cuts: list[NDArray[Any]],
    ) -> list[NDArray[Any]]:
        """Copy the patches of a region, see `copy_boxes`, into a batch; make one if it is empty.

        A function of its own, so that its caller holds no block of a region afterwards.
        """
        cuts = cuts or [
            np.empty((len(at), block.shape[1], *size), dtype)
            for block, dtype in zip(blocks, self.dtypes, strict=True)
        ]
        for block, cut in zip(blocks, cuts, strict=True):
            copy_boxes(block, mine, at, size, cut)
        return cuts

    def mend(
        self, cuts: list[NDArray[Any]], plan: Plan, rows: slice, epoch: int, *, tiles: bool
    ) -> None:
        """Apply ``nan_policy`` to a batch, in place, to all sides alike.

        Parameters
        ----------
        cuts : list of ndarray
            ``N C (Z) Y X`` of each side.
        plan : Plan
            What this pass draws.
        rows : slice
            The batch, in the plan.
        epoch : int
            Of this pass.
        tiles : bool
            Each patch has its place, and none can stand for another.

        Raises
        ------
        DataError
            The policy is to refuse, or no other patch is finite.
        """
        if all(cut.dtype.kind != "f" or np.isfinite(cut).all() for cut in cuts):
            return
        finite = [np.isfinite(cut) for cut in cuts]
        if self.nan_policy == "zero" or (self.nan_policy == "skip" and tiles):
            for cut, good in zip(cuts, finite, strict=True):
                cut[~good] = 0
            return
        fine = np.logical_and.reduce([per_patch(good) for good in finite])
        row = int(fine.argmin())
        side = [bool(good[row].all()) for good in finite].index(False)
        at = rows.start + row
        where = np.array([plan.sample[at], *plan.start[at]], np.int64)
        place = self._place(cuts[side][row], side, int(plan.image[at]), where)
        if self.nan_policy == "error":
            raise DataError(place)
        if fine.any():
            instead = np.resize(np.flatnonzero(fine), (~fine).sum())
            for cut in cuts:
                cut[~fine] = cut[instead]
            return
        others = list(islice(self.elsewhere(plan, rows.start, epoch), rows.stop - rows.start))
        if not others:
            raise DataError(f"{place} Here {TRIES} other patches were tried, each has some too.")
        for side, cut in enumerate(cuts):
            for row in range(len(cut)):
                cut[row] = others[row % len(others)][side][0]

    def elsewhere(
        self,
        plan: Plan,
        row: int,
        epoch: int,
        of_use: Callable[[Plan], NDArray[np.bool_]] | None = None,
    ) -> Iterator[list[NDArray[Any]]]:
        """Read patches from all over a plan, one by one, `TRIES` at most.

        Parameters
        ----------
        plan : Plan
            What this pass draws.
        row : int
            Where the batch begins that needs them.
        epoch : int
            Of this pass.
        of_use : callable, optional
            Says which patches of a plan are worth reading.

        Yields
        ------
        list of ndarray
            Each side of a patch that may be used, ``1 C (Z) Y X``; see `usable`.
        """
        # Of the place in the epoch alone, so that a resumed run takes the same ones.
        rng = np.random.default_rng([self.seed, epoch, row, 5])
        tried = rng.permutation(len(plan))[:TRIES]
        if of_use is not None:
            tried = tried[of_use(plan.take(tried))]
        for i in tried.tolist():
            image, sample, start = int(plan.image[i]), int(plan.sample[i]), plan.start[i]
            size, stop = plan.size[i].tolist(), (start + plan.size[i]).tolist()
            blocks = self.read(Region(image, sample, tuple(start.tolist()), tuple(stop)))
            cuts = self.cut(blocks, [0], [[0] * (1 + len(size))], size, [])
            where = np.array([[sample, *start]], np.int64)
            here = plan.image[i : i + 1]
            if all(self.usable(cut, side, here, where)[0] for side, cut in enumerate(cuts)):
                yield cuts

    def usable(
        self,
        cut: NDArray[Any],
        side: int,
        image: NDArray[np.int64],
        places: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Apply ``nan_policy`` to patches that are candidates for a batch.

        Parameters
        ----------
        cut : ndarray
            ``N C (Z) Y X``; NaN and infinity become 0, in place.
        side : int
            0 for images, 1 for targets.
        image, places : ndarray of int64
            Where they are from: ``(N,)``, and sample and origin, ``(N, 1 + D)``.

        Returns
        -------
        ndarray of bool
            ``(N,)``, those to be used.

        Raises
        ------
        DataError
            The policy is to refuse.
        """
        every = np.ones(len(cut), bool)
        if cut.dtype.kind != "f" or (finite := np.isfinite(cut)).all():
            return every
        fine = per_patch(finite)
        if self.nan_policy == "error":
            row = int(fine.argmin())
            raise DataError(self._place(cut[row], side, int(image[row]), places[row]))
        cut[~finite] = 0
        return every if self.nan_policy == "zero" else fine

    def _place(self, cut: NDArray[Any], side: int, image: int, where: NDArray[np.int64]) -> str:
        """Say where a patch, of this sample and origin, has its first NaN or infinity."""
        stacks, channels = self.sides[side]
        channel, *inside = np.argwhere(~np.isfinite(cut))[0].tolist()
        chosen = channels[image] if channels else None
        return nan_message(
            stacks[image].source,
            cut[channel, *inside],
            int(where[0]),
            channel if chosen is None else chosen[channel],
            tuple((where[1:] + inside).tolist()),
        )
