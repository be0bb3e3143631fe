"""What is held out of the training data: chosen once, kept in checkpoints, restored from them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from careamics_dm.datamodule.held_out_rows import from_rows, to_rows
from careamics_dm.datamodule.validation_split import Split, SplitRule, make_split
from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.region import Region


class HeldOutData:
    """The validation split of a data module.

    Parameters
    ----------
    rule : SplitRule or None
        What is held out; ``None``: nothing, as there are images of their own for validation.

    Attributes
    ----------
    split : Split or None
        What is held out, once `choose` was called.
    chosen : bool
        Whether it was.
    """

    def __init__(self, rule: SplitRule | None) -> None:
        self.rule = rule
        self.split: Split | None = None
        self.chosen = False
        self._restored: Mapping[str, Any] = {}

    def choose(self, images: ImageSet) -> None:
        """Choose what to hold out of the training data, or take what a checkpoint says."""
        rule, rows = self.rule, self._restored.get("held_out")
        if rule is None or rule.n_val_patches == 0:
            self.split = None
        # Patches of another size would not lie on the same grid.
        elif rows and (len(rows[0]) == 2 or tuple(self._restored["patch_size"]) == rule.patch_size):
            self.split = from_rows(rows, rule, images)
        else:
            self.split = make_split(rule, images)
        self.chosen = True

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` returned, for the next call of `choose`."""
        self._restored = state

    def state(self, images: ImageSet | None, patch_size: tuple[int, ...]) -> dict[str, Any]:
        """Return the split as plain values: ``held_out``, and the ``patch_size`` of its grid."""
        if self.split is None or images is None:
            # Rows of a checkpoint that were not used lie on the grid of its own patches.
            rows = self._restored.get("held_out", [])
            size = self._restored.get("patch_size") or list(patch_size)
            return {"patch_size": size, "held_out": rows}
        return {"patch_size": list(patch_size), "held_out": to_rows(self.split, images)}

    @property
    def trained(self) -> NDArray[Any] | None:
        """Whether each sample is trained on, image by image; ``None``: all are."""
        return None if self.split is None else self.split.trained

    def first_patch(self) -> Region | None:
        """Return the place of the first held-out patch; ``None`` where none is held out."""
        if self.split is None or not len(self.split.patches):
            return None
        return self.split.patches.places(np.array([0])).region(0)
