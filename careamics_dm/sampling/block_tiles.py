"""The tiles of some blocks, in the order of these."""

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from careamics_dm.images.region import Region
from careamics_dm.sampling.read_windows import Places
from careamics_dm.sampling.streams import Share
from careamics_dm.sampling.tiling import TileGrid

Numbers = NDArray[np.int64]


class BlockTiles:
    """The tiles of some blocks of a grid, each of which is read at once.

    Parameters
    ----------
    grid : TileGrid
        Made with blocks, which are its windows.
    blocks : ndarray
        ``(B,)`` their numbers.

    Attributes
    ----------
    blocks : ndarray
        As given.
    ends : ndarray
        ``(B + 1,)``: the first tile of each block and, at last, how many there are.
    """

    is_random: ClassVar[bool] = False

    def __init__(self, grid: TileGrid, blocks: Numbers) -> None:
        self.grid, self.blocks = grid, blocks
        first = {b: grid.first(b) for b in {*blocks.tolist(), *(blocks + 1).tolist()}}
        self._first = np.array([first[b] for b in blocks.tolist()], np.int64)
        n_tiles = np.array([first[b + 1] - first[b] for b in blocks.tolist()], np.int64)
        self.ends = np.concatenate([[0], np.cumsum(n_tiles)])

    def __len__(self) -> int:
        """Count tiles."""
        return int(self.ends[-1])

    def part(self, share: Share) -> "BlockTiles":
        """Return a rank's blocks: successive ones, with about as many tiles as the others have.

        Where there are fewer blocks than ranks, the first rank has one.
        """
        rank = self.ends[:-1] * share.world_size // max(len(self), 1)
        return BlockTiles(self.grid, self.blocks[rank == share.rank])

    def epoch(self, number: int) -> Self:
        """Return itself."""
        del number
        return self

    def places(self, numbers: Numbers) -> Places:
        """Return where tiles lie."""
        return self.grid.places(self._of_grid(numbers))

    def crops(self, numbers: Numbers) -> Numbers:
        """Return what of each tile to keep: ``(N, 2 D)`` start and stop, in image pixels."""
        return self.grid.crops(self._of_grid(numbers))

    def region(self, window: int, *, whole: bool = False) -> Region:
        """Return what to read of a block: as far as its tiles reach."""
        return self.grid.region(window, whole=whole)

    def _of_grid(self, numbers: Numbers) -> Numbers:
        block = np.searchsorted(self.ends, numbers, side="right") - 1
        of_grid: Numbers = self._first[block] + numbers - self.ends[block]
        return of_grid
