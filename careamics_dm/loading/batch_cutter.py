"""Batches, cut out of decoded regions."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from careamics_dm.images.region import Blocks
from careamics_dm.loading.origin_marks import Loaded
from careamics_dm.loading.patch_extraction import PairedImages, region_of_patch
from careamics_dm.loading.prefetch import Reader
from careamics_dm.loading.schedule import FixedPass, Portion, RandomPass, Step
from careamics_dm.sampling.block_tiles import BlockTiles
from careamics_dm.sampling.random_patches import RandomEpoch
from careamics_dm.sampling.read_windows import PatchList
from careamics_dm.sampling.tiling import TileGrid

Batch = dict[str, Any]


class RawBatch(Batch):
    """A batch as stored, which a data module has yet to normalise and augment."""


TRIES = 100
"""Other patches to try where no patch of a batch can be used."""


@dataclass
class BatchCutter:
    """Cuts the batches of a pass out of the regions that its reader holds."""

    images: PairedImages
    schedule: RandomPass | FixedPass
    places: RandomEpoch | TileGrid | BlockTiles | PatchList
    reader: Reader[Loaded]
    seed: tuple[int, int, int]
    """Of the data, the epoch and the rank."""
    with_region: bool

    def locate(self, portion: Portion) -> NDArray[np.int64]:
        """Return, of each patch of a portion, sample and origin in the region that has it."""
        drawn = portion.drawn
        windows, inverse = np.unique(drawn.window, return_inverse=True)
        regions = [self.reader.region(window) for window in windows.tolist()]
        places = np.column_stack([drawn.sample, drawn.start])
        origins = np.array([(r.sample, *r.start) for r in regions], np.int64)
        origins = origins.reshape(len(regions), places.shape[1])  # also of none
        at: NDArray[np.int64] = places - origins[inverse]
        return at

    def batch(self, portion: Portion, step: Step, at: NDArray[np.int64]) -> Batch:
        """Cut the patches of a batch out of their regions."""
        rows, drawn = step.rows, portion.drawn
        windows: list[int] = drawn.window[rows].tolist()
        self.reader.load_ahead()
        blocks = {window: self.reader.get(window).blocks for window in set(windows)}
        cuts = self.images.cut(
            blocks, windows, at[rows].tolist(), portion.size[rows.start].tolist()
        )

        def place_of(row: int) -> tuple[int, int, list[int]]:
            i = rows.start + row
            image = self.reader.region(windows[row]).image
            return image, int(drawn.sample[i]), drawn.start[i].tolist()

        others = None if self.with_region else partial(self._read_others, step)
        self.images.apply_nan_policy(cuts, place_of, others)
        tensors = [torch.from_numpy(cut) for cut in cuts]
        batch: Batch = dict(zip(("image", "target"), tensors, strict=False))
        if self.with_region and isinstance(self.places, TileGrid | BlockTiles):
            image = [[self.reader.region(window).image] for window in windows]
            crops = self.places.crops(portion.numbers[rows])
            columns = (image, drawn.sample[rows, None], drawn.start[rows], crops)
            batch["region"] = torch.from_numpy(np.hstack(columns))
        return batch

    def _read_others(self, step: Step) -> list[Blocks]:
        """Read patches from all over the plan that have no NaN, instead of a batch."""
        # Of the place in the epoch alone, so that a resumed run takes the same ones.
        rng = np.random.default_rng([*self.seed, step.number, int(step.place[0]), 5])
        n = len(self.places)
        places = self.places.places(
            rng.permutation(n) if n <= TRIES else rng.integers(n, size=TRIES)
        )
        found: list[Blocks] = []
        for row in range(len(places.image)):
            patch = self.images.read_patch(region_of_patch(places, row))
            if patch is not None:
                found.append(patch)
            if len(found) == step.n:
                break
        return found
