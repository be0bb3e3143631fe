"""The sources of each role are found, paired, opened and checked."""

import inspect
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from careamics_dm.datamodule.settings import Settings
from careamics_dm.errors import DataError
from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.images.plane_stack import suit_patch
from careamics_dm.sampling.image_origins import gap_origins
from careamics_dm.sources.data_warnings import warn_of_dtypes, warn_of_gaps, warn_of_odd_frames
from careamics_dm.sources.free_memory import available_bytes
from careamics_dm.sources.listing import CHANNELS, COLUMNS, Listing, pair
from careamics_dm.sources.opening import check_no_image_in_both, open_images
from careamics_dm.sources.ranks import are_connected, gather

STAGE_ROLES = {
    "fit": ("train", "val"),
    "validate": ("train", "val"),
    "test": ("test",),
    "predict": ("predict",),
}


class SourceOpener:
    """Opens the images of each role once, with their targets and masks.

    Parameters
    ----------
    settings : Settings
        What the data arguments name, and how it is read.
    list_sources : callable
        The format's, see `PatchDataModule.list_sources`.
    open_source : callable
        The format's, see `PatchDataModule.open_source`. Its keyword-only parameters are the
        columns of a manifest that it understands.

    Attributes
    ----------
    images : dict of str to ImageSet
        What is open, by role.
    """

    def __init__(
        self,
        settings: Settings,
        list_sources: Callable[[Any, str], Listing],
        open_source: Callable[..., list[ImageStack]],
    ) -> None:
        self.settings = settings
        self.list_sources, self.open_source = list_sources, open_source
        self.images: dict[str, ImageSet] = {}
        self._of_checkpoint: tuple[int | None, int | None] = (None, None)
        self._loaded: dict[str, bool] = {}
        self._agreed: set[str] = set()

    def open(self, stage: str) -> list[str]:
        """Open what a stage needs, unless it is open, and return its roles.

        Raises
        ------
        DataError
            All faults of all sources in one message, or numbers of channels that differ.
        """
        roles, faults = self._roles(stage), []
        for role in roles:
            if role not in self.images:
                try:
                    self.images[role] = self._open(role)
                except DataError as error:
                    faults.append(str(error))
        if faults:
            raise DataError("\n".join(faults))
        self._load_alike()
        self._check_channels()
        if {"train", "val"} <= self.images.keys():
            check_no_image_in_both(self.images["train"], self.images["val"])
        return roles

    def expect(self, n_channels: int | None, n_target_channels: int | None) -> None:
        """Take the numbers of channels from a checkpoint.

        Raises
        ------
        DataError
            Images that are open have others.
        """
        self._of_checkpoint = n_channels, n_target_channels
        self._check_channels()

    @property
    def n_channels(self) -> int | None:
        """Channels of the images, or those of a checkpoint; ``None`` before either is known."""
        for images in self.images.values():
            return images.n_channels
        return self._of_checkpoint[0]

    @property
    def n_target_channels(self) -> int | None:
        """Channels of the targets, else those of a checkpoint, else of the images."""
        for images in self.images.values():
            if images.targets:
                return images.n_target_channels
        return self._of_checkpoint[1] or self.n_channels

    def _roles(self, stage: str) -> list[str]:
        """Return the roles that a stage needs."""
        given = [role for role in STAGE_ROLES[stage] if self.settings.data(role) is not None]
        if stage == "validate" and "val" in given:
            return ["val"]
        if not given or (stage == "fit" and "train" not in given):
            first = f"{STAGE_ROLES[stage][0]}_data"
            needed = "val_data (or train_data)" if stage == "validate" else first
            raise DataError(f"{needed} is not given, but {stage} needs it.")
        return given

    def close(self) -> None:
        """Close every file; reading opens them again."""
        for images in self.images.values():
            images.close()

    def _check_channels(self) -> None:
        """Refuse roles, or a checkpoint, that differ in their number of channels."""
        targets = {
            f"{role}_target": images.n_target_channels
            for role, images in self.images.items()
            if images.targets
        }
        if len(set(targets.values())) > 1:
            found = ", ".join(f"that of {name} has {n}" for name, n in targets.items())
            raise DataError(
                f"the number of target channels differs: {found}. Select with target_channels."
            )
        counts = {f"{role}_data": images.n_channels for role, images in self.images.items()}
        if self._of_checkpoint[0] is not None:
            counts["the checkpoint"] = self._of_checkpoint[0]
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{name} has {n}" for name, n in counts.items())
            raise DataError(f"the number of channels differs: {found}. Select with channels.")

    def _load_alike(self) -> None:
        """Have images in memory in all processes of a run, or in none if it is too little in one.

        Each may have found another amount of free memory, before they were connected.
        """
        for role in sorted(self._loaded.keys() - self._agreed) if are_connected() else ():
            self._agreed.add(role)
            if (load := all(gather(self._loaded[role]))) != self._loaded[role]:
                self.images[role].close()
                self.images[role] = self._open(role, load)

    def _open(self, role: str, load: bool | None = None) -> ImageSet:
        """Open the images of a role; ``load`` says whether to, where that is decided already."""
        settings, what, whole = self.settings, f"{role}_data", role in ("test", "predict")
        inputs, targets, masks = self._list(role)
        if settings.repeats and targets is not None:
            raise DataError(
                f"{what}: the manifest names targets, but repeats={settings.repeats} makes them of "
                "every second frame. Leave one of them out."
            )
        images, too_small = open_images(
            what,
            self._open_source,
            inputs,
            targets,
            masks,
            axes=(
                settings.axes,
                settings.target_axes or settings.axes,
                _without_channels(settings.axes),
            ),
            channels=settings.channels,
            target_channels=settings.target_channels,
            patch_size=None if whole else settings.patch_size,
            small_images=settings.small_images,
            within=role != "predict" and self._targets_within(inputs, targets),
            repeats=None if role == "predict" else settings.repeats,
        )
        if not whole:
            self._loaded[role] = self._fits_memory(images) if load is None else bool(load)
            if self._loaded[role]:
                images.load()
        if images.target_channels and not images.targets:
            images.pair_within(settings.repeats)
            warn_of_odd_frames(images)
        if whole:
            warn_of_gaps(what, images)
        elif too_small:
            rank_zero_warn(
                f"{what}: {len(too_small)} image(s) smaller than patch_size {settings.patch_size} "
                f"are left out: {', '.join(too_small[:5])}{', ...' * (len(too_small) > 5)}."
            )
        warn_of_dtypes(what, images)
        if role == "train":
            _warn_of_images_without_patch(images, settings.patch_size)
        return images

    def _open_source(self, source: Any, axes: str, **keys: str) -> list[ImageStack]:
        """Open a source, its images with as many dimensions as patches have."""
        settings, stacks = self.settings, self.open_source(source, axes, **keys)
        n_dims = len(settings.patch_size)
        return [suit_patch(stack, n_dims, settings.z_as_samples) for stack in stacks]

    def _fits_memory(self, images: ImageSet) -> bool:
        wanted = self.settings.in_memory
        if wanted != "auto":
            return wanted
        # Each process of a run has its own copy; workers that are not forked share another one.
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        method = self.settings.start_method or multiprocessing.get_all_start_methods()[0]
        copies = processes * (1 + (self.settings.num_workers > 0 and method != "fork"))
        return images.bytes_to_load() * copies < available_bytes() // 4

    def _targets_within(self, inputs: Listing, targets: Listing | None) -> bool:
        """Whether targets are channels of the images themselves."""
        if targets is not None:
            return False
        if any("target_channel" in row for row in inputs.keys or ()):
            return True
        # The targets of a manifest are found when it is opened.
        opened = any(i.targets and i.targets is not i.stacks for i in self.images.values())
        return self.settings.target_channels is not None and not (
            opened or self.settings.has_targets
        )

    def _listed(self, data: Any, what: str) -> Listing:
        """List sources; refuse columns of a manifest that mean nothing to this format."""
        listing = self.list_sources(data, what)
        accepted = inspect.signature(self.open_source).parameters.values()
        columns = {p.name for p in accepted if p.kind is p.KEYWORD_ONLY} | set(CHANNELS)
        used = {key for row in listing.keys or () for key in row}
        if unknown := sorted(used - columns):
            raise DataError(
                f"{what}: the manifest {data} has the column(s) {', '.join(unknown)}, which mean "
                f"nothing for this format. Columns are {', '.join([*COLUMNS, *sorted(columns)])}."
            )
        return listing

    def _list(self, role: str) -> tuple[Listing, Listing | None, Listing | None]:
        """Find inputs, targets and masks of a role, paired; all faults in one message."""
        settings, faults = self.settings, []
        given = {f"{role}_data": settings.data(role), f"{role}_target": settings.target(role)}
        if role == "train":
            given["train_mask"] = settings.train_mask
        found: dict[str, Listing | None] = {}
        for name, data in given.items():
            try:
                found[name] = None if data is None else self._listed(data, name)
            except DataError as error:
                faults.append(str(error))
        if faults:
            raise DataError("\n".join(faults))
        inputs = found.pop(f"{role}_data")
        assert inputs is not None
        columns = {f"{role}_target": inputs.beside("targets")}
        if role == "train":
            columns["train_mask"] = inputs.beside("masks")
        paired: dict[str, Listing | None] = columns
        for name, other in found.items():
            if other is None:
                continue
            if columns[name] is not None:
                raise DataError(
                    f"{name} is given, and the manifest of {role}_data has a column "
                    f"{name.split('_')[1]} too. Leave one of them out."
                )
            try:
                paired[name] = pair(inputs, other, name)
            except DataError as error:
                faults.append(str(error))
        if faults:
            raise DataError("\n".join(faults))
        return inputs, paired[f"{role}_target"], paired.get("train_mask")


def _without_channels(axes: str) -> str:
    return axes if axes == "auto" else axes.replace("C", "")


def _warn_of_images_without_patch(images: ImageSet, patch_size: Sequence[int]) -> None:
    """Warn of images, of several, whose gaps leave no place for a patch."""
    if images.masks:  # what they leave out is meant
        return
    allowed = gap_origins(images, patch_size)
    n_lost = Counter(i for (i, _), origins in allowed.items() if not origins.n_allowed)
    lost = [
        images.stacks[i].source for i, n in n_lost.items() if n == images.stacks[i].data_shape[0]
    ]
    if 0 < len(lost) < len(images.stacks):  # if all are, `origin_masks` says so
        rank_zero_warn(
            f"train_data: {len(lost)} image(s) give no patch of {tuple(patch_size)}, as so much "
            f"in one piece was not acquired: {', '.join(lost[:5])}{', ...' * (len(lost) > 5)}. "
            "Use a smaller patch_size, or channels that were acquired together."
        )
