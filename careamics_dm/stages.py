"""Stages: the sources of each are found, opened and checked."""

from __future__ import annotations

import inspect
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn

from careamics_dm.arguments import Arguments
from careamics_dm.axes import DataError
from careamics_dm.index import Index
from careamics_dm.memory import available_bytes
from careamics_dm.notices import tell_gaps, tell_odd, tell_without_place
from careamics_dm.opening import open_images
from careamics_dm.sources import CHANNELS, COLUMNS, Listing, pair
from careamics_dm.split import make_split

if TYPE_CHECKING:
    from careamics_dm.image_stack import ImageStack
    from careamics_dm.images import Images
    from careamics_dm.split import Split

ROLES = {
    "fit": ("train", "val"),
    "validate": ("train", "val"),
    "test": ("test",),
    "predict": ("predict",),
}


class Stages(Arguments):
    """A DataModule that opens its sources; see `PatchDataModule`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._images: dict[str, Images] = {}
        self._split: Split | None = None
        self._restored: dict[str, Any] = {}

    def list_sources(self, data: Any, what: str) -> Listing:
        """Find the sources that a data argument names.

        Parameters
        ----------
        data
            The argument.
        what : str
            Its name, for messages.

        Returns
        -------
        Listing
            Sources, each as `open_source` takes it.

        Raises
        ------
        DataError
            Nothing there.
        """
        raise TypeError(f"{type(self).__name__} does not say how to find its sources.")

    def open_source(self, source: Any, axes: str) -> list[ImageStack]:
        """Open a source, reading no pixel.

        Its keyword-only parameters, where a format has any, are what a manifest's rows may say
        of their file (``scene``, ``level``): they come as text, or not at all.

        Parameters
        ----------
        source
            As listed by `list_sources`.
        axes : str
            The ``axes`` argument, or ``"auto"``.

        Returns
        -------
        list of ImageStack
            The images in it.

        Raises
        ------
        DataError
            It can't be read, or is not what ``axes`` says.
        """
        raise TypeError(f"{type(self).__name__} does not say how to open its sources.")

    def stamp(self, source: Any) -> Any:
        """Return plain values that change when a source does; ``None`` if that can't be told.

        What ``index`` knows of a source counts as long as its stamp stays the same.
        """
        if not isinstance(source, Path) or not source.is_file():
            return None
        found = source.stat()
        return [found.st_mtime_ns, found.st_size]

    def setup(self, stage: str) -> None:
        """Open and check the sources of a stage.

        Parameters
        ----------
        stage : {"fit", "validate", "test", "predict"}
            In any order, and repeatedly.

        Raises
        ------
        DataError
            All faults of all sources in one message.
        """
        roles = [role for role in ROLES[stage] if self.data[role] is not None]
        if stage == "validate" and "val" in roles:
            roles = ["val"]
        if not roles or (stage == "fit" and "train" not in roles):
            needed = {"validate": "val_data (or train_data)"}.get(stage, f"{ROLES[stage][0]}_data")
            raise DataError(f"{needed} is not given, but {stage} needs it.")
        faults = []
        for role in roles:
            if role not in self._images:
                try:
                    self._images[role] = self._open(role)
                except DataError as error:
                    faults.append(str(error))
        if faults:
            raise DataError("\n".join(faults))
        self._check_channels()
        if "train" in roles and self._split_is_missing:
            self._split = make_split(self, self._images["train"], self._restored)

    def teardown(self, stage: str) -> None:
        """Close every file; they open again when they are needed."""
        del stage
        for images in self._images.values():
            images.close()

    def _open(self, role: str) -> Images:
        what = f"{role}_data"
        inputs, targets, masks = self._list(role)
        if self.repeats and targets is not None:
            raise DataError(
                f"{what}: the manifest names targets, but repeats={self.repeats} makes them of "
                "every second frame. Leave one of them out."
            )
        index, manner = None if self.index is None else Index(self.index), self._manner()
        images, skipped = open_images(
            what,
            self.open_source if index is None else partial(self._open_new, index, manner),
            inputs,
            targets,
            masks,
            axes=(self.axes, self.target_axes or self.axes, _without_channels(self.axes)),
            channels=self.channels,
            target_channels=self.target_channels,
            patch_size=None if role in ("test", "predict") else self.patch_size,
            small_images=self.small_images,
            within=role != "predict" and self._targets_within(inputs, targets),
            repeats=None if role == "predict" else self.repeats,
            recall=None if index is None else partial(self._recall, index, manner),
        )
        if index is not None:
            index.save()
        small = images.bytes_to_load() < available_bytes() // 4
        tiles = role in ("test", "predict")
        if not tiles and (self.in_memory is True or (self.in_memory == "auto" and small)):
            images.load()
        if images.target_channels and not images.targets:
            images.pair_within(self.repeats)
            tell_odd(images)
        if tiles:
            self._check_tiles(what, images)
            tell_gaps(what, images)
            return images
        if skipped:
            rank_zero_warn(
                f"{what}: {len(skipped)} image(s) smaller than patch_size {self.patch_size} are "
                f"left out: {', '.join(skipped[:5])}{', ...' if len(skipped) > 5 else ''}."
            )
        if role == "train":
            tell_without_place(images, self.patch_size)
        return images

    def _targets_within(self, inputs: Listing, targets: Listing | None) -> bool:
        """Whether targets are channels of the images themselves."""
        if targets is not None:
            return False
        if any("target_channel" in row for row in inputs.keys or ()):
            return True
        given = any(target is not None for target in self.target_data.values())
        # Those of a manifest are known once it was opened.
        given |= any(i.targets and i.targets is not i.stacks for i in self._images.values())
        return self.target_channels is not None and not given

    def _key(self, manner: str, source: Any, axes: str, keys: dict[str, str]) -> str:
        """Name a source, and how it is opened, in an index."""
        # A description has the path as it was given, which may mean another file elsewhere.
        place = Path.cwd() if isinstance(source, Path) and not source.is_absolute() else ""
        return f"{place} {source!r} {axes} {keys} {manner}"

    def _recall(
        self, index: Index, manner: str, source: Any, axes: str, **keys: str
    ) -> list[ImageStack] | None:
        """Return what the index knows of a source."""
        try:
            stamp = self.stamp(source)
        except OSError:  # told when it is opened
            return None
        return index.recall(self._key(manner, source, axes, keys), stamp)

    def _open_new(
        self, index: Index, manner: str, source: Any, axes: str, **keys: str
    ) -> list[ImageStack]:
        """Open a source that the index does not know."""
        stamp = self.stamp(source)  # before: it may change meanwhile
        stacks = self.open_source(source, axes, **keys)
        index.remember(self._key(manner, source, axes, keys), stamp, stacks)
        return stacks

    def _manner(self) -> str:
        """Summarise what decides how sources are opened, without showing it: it may be a secret."""
        shared = inspect.signature(Arguments.__init__).parameters
        names = [n for n in inspect.signature(type(self)).parameters if n not in shared]
        own = {name: getattr(self, name) for name in names}
        how = [type(self).__qualname__, own, self.trust_axes, len(self.patch_size)]
        return sha256(repr(how).encode()).hexdigest()

    def _listed(self, data: Any, what: str) -> Listing:
        """List sources; refuse columns of a manifest that mean nothing to this format."""
        listing = self.list_sources(data, what)
        parameters = inspect.signature(self.open_source).parameters.values()
        known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} | set(CHANNELS)
        used = {key for row in listing.keys or () for key in row}
        if unknown := sorted(used - known):
            raise DataError(
                f"{what}: the manifest has the column(s) {', '.join(unknown)}, which "
                f"{type(self).__name__} does not know. There may be "
                f"{', '.join([*COLUMNS, *sorted(known)])}."
            )
        return listing

    def _list(self, role: str) -> tuple[Listing, Listing | None, Listing | None]:
        """Find inputs, targets and masks of a role, paired; all faults in one message."""
        partners = {f"{role}_target": self.target_data.get(role)}
        if role == "train":
            partners["train_mask"] = self.train_mask
        given = {f"{role}_data": self.data[role]} | partners
        found, faults = {}, []
        for name, data in given.items():
            try:
                found[name] = None if data is None else self._listed(data, name)
            except DataError as error:
                faults.append(str(error))
        if faults:
            raise DataError("\n".join(faults))
        inputs = found.pop(f"{role}_data")
        assert inputs is not None
        for name, listed in zip(found, (inputs.targets, inputs.masks), strict=False):
            if listed is not None and found[name] is not None:
                raise DataError(
                    f"{name} is given, and the manifest of {role}_data has a column "
                    f"{name.split('_')[1]} too. Leave one of them out."
                )
        paired: list[Listing | None] = []
        for name, other in found.items():
            try:
                paired.append(None if other is None else pair(inputs, other, name))
            except DataError as error:
                faults.append(str(error))
        if faults:
            raise DataError("\n".join(faults))
        paired += [None] * (2 - len(paired))
        masks = paired[1] or (inputs.beside("masks") if role == "train" else None)
        return inputs, paired[0] or inputs.beside("targets"), masks

    def _check_channels(self) -> None:
        """All roles, and a restored checkpoint, must agree on channels."""
        targets = {
            f"{role}_target": i.n_target_channels for role, i in self._images.items() if i.targets
        }
        if len(set(targets.values())) > 1:
            found = ", ".join(f"that of {name} has {n}" for name, n in targets.items())
            raise DataError(
                f"the number of target channels differs: {found}. Select with target_channels."
            )
        counts = {f"{role}_data": images.n_channels for role, images in self._images.items()}
        if self._restored.get("n_channels") is not None:
            counts["the checkpoint"] = self._restored["n_channels"]
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{name} has {n}" for name, n in counts.items())
            raise DataError(f"the number of channels differs: {found}. Select with channels.")

    def _check_tiles(self, what: str, images: Images) -> None:
        for stack in images.stacks:
            n = len(stack.data_shape) - 2
            if n != len(self.patch_size) or (self.tile_size and n != len(self.tile_size)):
                raise DataError(
                    f"{what}: {stack.source} has axes {stack.original_axes}, so patch_size "
                    f"and tile_size need {n} numbers, but are {self.patch_size} and "
                    f"{self.tile_size}."
                )

    @property
    def _split_is_missing(self) -> bool:
        return self._split is None and self.data["val"] is None and self.n_val_patches != 0


def _without_channels(axes: str) -> str:
    return axes if axes == "auto" else axes.replace("C", "").replace("c", "")
