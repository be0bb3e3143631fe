"""The arguments that all formats share: plain values, checked before anything is read."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

import numpy as np

from careamics_dm.datamodule.setting_checks import CHECKS, METHODS
from careamics_dm.datamodule.validation_split import HoldOut, SplitRule
from careamics_dm.errors import DataError
from careamics_dm.loading.patch_extraction import NanPolicy
from careamics_dm.sampling.filters.base import PatchFilter
from careamics_dm.transforms.augmentation import Augmentation, Orientation, OwnAugmentation
from careamics_dm.transforms.normalization import Normalization

PARTNERS = {
    "train_target": "train_data",
    "val_target": "val_data",
    "test_target": "test_data",
    "train_mask": "train_data",
}


class SharedSettings(TypedDict, total=False):
    """The same for type checkers and editors; `Settings` has defaults and explanations."""

    train_data: Any
    train_target: Any
    train_mask: Any
    val_data: Any
    val_target: Any
    test_data: Any
    test_target: Any
    predict_data: Any
    axes: str
    target_axes: str | None
    trust_axes: bool
    channels: Sequence[int | str] | None
    target_channels: Sequence[int | str] | None
    repeats: Literal["T", "S", "Z"] | None
    patch_size: Sequence[int]
    z_as_samples: bool
    batch_size: int | None
    sampling: Literal["random", "grid"]
    patches_per_epoch: int | None
    patch_filter: PatchFilter | None
    n_val_patches: int | None
    hold_out: HoldOut | None
    n_folds: int | None
    fold: int
    small_images: Literal["error", "pad", "skip"]
    nan_policy: NanPolicy
    in_memory: Literal["auto"] | bool
    pool_mib: int
    normalization: Normalization | str
    normalize_target: bool
    exact_statistics: bool
    augmentation: Augmentation | bool | OwnAugmentation
    tile_size: Sequence[int] | None
    tile_overlap: Sequence[int] | None
    shard: str | None
    batch_format: Literal["dict", "tuple", "tensor"]
    num_workers: int
    start_method: Literal["fork", "spawn", "forkserver"] | None
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """What can be set for the data modules of all formats, checked when it is made.

    Parameters
    ----------
    train_data
        Images to train on: a path, list, folder, glob or manifest. What else is taken
        depends on the format. This and the others may each be left out.
    val_data
        Images to validate on, instead of patches held out of ``train_data``.
    test_data
        Images to test the model on after training.
    predict_data
        Images to restore.
    train_target
        Targets of ``train_data``, paired by file name (folders) or by order. If there are none but
        ``target_channels`` are given, targets are these channels of the images themselves.
    val_target
        Targets of ``val_data``, paired likewise.
    test_target
        Targets of ``test_data``, paired likewise.
    train_mask
        Draw patches only where their centre lies in this mask (non-zero). It has the axes of the
        images without ``C``.
    axes : str
        Order of the axes on disk, letters of ``STCZYX``; ``"auto"`` reads the metadata.
    target_axes : str, optional
        Order of the axes of targets, where it differs.
    trust_axes : bool
        Take ``axes`` even where a file's metadata contradict it.
    channels : sequence of int or str, optional
        Channels to use, by index or name; all by default.
    target_channels : sequence of int or str, optional
        Channels of the targets or, without any, of the images to learn. By index or name; all of
        the targets by default.
    repeats : {"T", "S", "Z"}, optional
        Axis of repeated recordings of one scene, for Noise2Noise. Frames 0, 2, 4, ... of each
        image are inputs, and their targets are frames 1, 3, 5, .... With ``"Z"`` and patches ``Z Y
        X`` these are volumes: for movies with time as depth. Prediction takes every frame.
    patch_size : sequence of int
        Size of patches, ``Y X`` or ``Z Y X``, pixels; ``Y X`` too where Z has length 1.
    z_as_samples : bool
        Take every plane of Z stacks as a sample. With a patch size of two numbers; results have the
        axes of the images.
    batch_size : int or None
        Patches per batch; ``None`` for single patches. These are neither batched nor turned, and
        prediction then goes tile by tile. If a batch of tiles does not fit into GPU memory, our
        models restore it in smaller parts.
    sampling : {"random", "grid"}
        New random patches in every epoch, or side by side.
    patches_per_epoch : int, optional
        Random patches per epoch; by default as many as cover the data.
    patch_filter : PatchFilter, optional
        Requirement on training patches, so that background is left out. An object such as
        `MaxFilter`, `MeanStdFilter`, `EntropyFilter`, or a `PatchFilter` of your own. Patches that
        do not meet it are replaced by others that do. By default every patch counts.
    n_val_patches : int, optional
        Validation patches: by default 8 held out, or all of ``val_data``. Without ``val_data`` they
        are held out of the training data (at most a quarter of them by default); else they are
        chosen by seed among the patches of ``val_data``, or of whole samples, images or files that
        are held out.
    hold_out : {"patches", "samples", "images", "files"}, optional
        Hold out patches, samples, images or files for validation. Where there is no ``val_data``:
        patches here and there; whole samples (indices along ``S``, frames of ``T`` too); whole
        images (scenes, fields and series are images of their own); or all images of a file or
        container. Patches by default, files with ``n_folds``. What is held out is neither trained
        on nor, but for patches, part of the statistics.
    n_folds : int, optional
        Number of folds for cross-validation, of samples, images or files. 10 by default, or as many
        as there are of them. Only their names below their common folder count, so a fold is the
        same on every machine and for every seed. Adding files may move others; a checkpoint keeps
        the split of its run.
    fold : int
        Which fold validates, from 0 on; the others train.
    small_images : {"error", "pad", "skip"}
        Images smaller than a patch: error, pad (by reflection) or skip. The latter with a warning.
    nan_policy : {"error", "zero", "skip"}
        NaN and infinity: error, zero (replace), skip (draw another patch).
    in_memory : {"auto"} or bool
        Load the data (true), stream them (false), or decide by size (auto). Training and validation
        data are loaded in their stored dtype; ``"auto"`` loads what takes less than a quarter of
        the free memory.
    pool_mib : int
        Memory for decoded blocks when streaming, MiB.
    normalization : Normalization or str
        ``"mean_std"``, ``"min_max"``, ``"quantile"``, ``"none"``, or an object with settings.
    normalize_target : bool
        Whether targets are normalised by their own statistics.
    exact_statistics : bool
        Use all of the training data for statistics, not a random 256 MiB.
    augmentation : Augmentation, bool or callable
        Flip and turn training patches in ``YX``: true, false, or an object. Or a transform that
        gets normalised batches instead: a function of ``{"image": ..., "target": ...}`` that
        returns the like; a ``torch.nn.Module`` (Kornia, torchvision), to which image and target
        are channels of one tensor; or a random dictionary transform of MONAI, called per patch.
        Their random numbers follow from ``seed``.
    tile_size : sequence of int, optional
        Size of tiles, ``(Z) Y X``, pixels; ``None`` predicts whole images. They are rounded up as
        the network needs.
    tile_overlap : sequence of int, optional
        Least overlap of neighbouring tiles, pixels. By default twice what the network sees to each
        side (its ``reach``, or measured), so that tiles give what the whole image does; at most
        three quarters of a tile. Where that can't be, half a tile, at most 48.
    shard : str, optional
        Predict one of several shares of the images: ``"3/16"`` is the third of 16. For jobs that
        know nothing of each other; each image is predicted, and written, by one of them.
    batch_format : {"dict", "tuple", "tensor"}
        What modules get as a batch. ``{"image", "target", "region"}``; ``(image, target or
        region)``; or the image alone.
    num_workers : int
        Loader processes, at most 8 divided by the number of ranks in training. 0 reads ahead in
        threads, which is usually faster.
    start_method : {"fork", "spawn", "forkserver"}, optional
        How loader processes start. By default as is usual on the platform.
    seed : int
        Seed of patches, split, augmentation and statistics.

    Raises
    ------
    DataError
        A value out of range, or values that contradict each other.
    """

    train_data: Any = None
    train_target: Any = None
    train_mask: Any = None
    val_data: Any = None
    val_target: Any = None
    test_data: Any = None
    test_target: Any = None
    predict_data: Any = None
    axes: str = "auto"
    target_axes: str | None = None
    trust_axes: bool = False
    channels: Sequence[int | str] | None = None
    target_channels: Sequence[int | str] | None = None
    repeats: Literal["T", "S", "Z"] | None = None
    patch_size: tuple[int, ...] = (64, 64)
    z_as_samples: bool = False
    batch_size: int | None = 16
    sampling: Literal["random", "grid"] = "random"
    patches_per_epoch: int | None = None
    patch_filter: PatchFilter | None = None
    n_val_patches: int | None = None
    hold_out: HoldOut | None = None
    n_folds: int | None = None
    fold: int = 0
    small_images: Literal["error", "pad", "skip"] = "error"
    nan_policy: NanPolicy = "error"
    in_memory: Literal["auto"] | bool = "auto"
    pool_mib: int = 512
    normalization: Normalization | str = "mean_std"
    normalize_target: bool = True
    exact_statistics: bool = False
    augmentation: Augmentation | bool | OwnAugmentation = True
    tile_size: tuple[int, ...] | None = None
    tile_overlap: tuple[int, ...] | None = None
    shard: str | None = None
    batch_format: Literal["dict", "tuple", "tensor"] = "dict"
    num_workers: int = 0
    start_method: Literal["fork", "spawn", "forkserver"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value; sizes become tuples."""
        for name, partner in PARTNERS.items():
            if getattr(self, name) is not None and getattr(self, partner) is None:
                raise DataError(f"{name} is given without {partner}.")
        for name, check_value in CHECKS.items():
            object.__setattr__(self, name, check_value(name, getattr(self, name)))
        self._check_together()
        self._check_split()
        self._check_tiles()
        _ = self.orientations  # it checks that turned patches are square

    def data(self, role: str) -> Any:
        """Return what the argument ``train_data``, ``val_data``, ... says."""
        return getattr(self, f"{role}_data")

    def target(self, role: str) -> Any:
        """Return what ``train_target``, ``val_target`` or ``test_target`` says."""
        return getattr(self, f"{role}_target", None)

    @property
    def has_targets(self) -> bool:
        """Whether targets are given for any role."""
        return any(self.target(role) is not None for role in ("train", "val", "test"))

    @property
    def split_rule(self) -> SplitRule:
        """What decides which of the training data validate."""
        given = {field.name: getattr(self, field.name) for field in fields(SplitRule)}
        by_default = "patches" if self.n_folds is None else "files"
        repeats = None if self.repeats == "Z" and len(self.patch_size) == 3 else self.repeats
        return SplitRule(**(given | {"hold_out": self.hold_out or by_default, "repeats": repeats}))

    @property
    def pool_bytes(self) -> int:
        """The memory for decoded blocks, bytes."""
        return self.pool_mib * 2**20

    @property
    def method(self) -> Normalization:
        """The normalisation, as an object."""
        given = self.normalization
        return METHODS[given]() if isinstance(given, str) else given

    @property
    def orientations(self) -> list[Orientation]:
        """The orientations of training patches, see `Augmentation.orientations`."""
        given = self.augmentation
        if not isinstance(given, Augmentation):
            given = Augmentation() if given is True else Augmentation("", quarter_turns=False)
        return given.orientations(self.patch_size)

    @property
    def own_augmentation(self) -> OwnAugmentation | None:
        """The user's function, or transform of another library, that augments instead."""
        given = self.augmentation
        return None if isinstance(given, bool | Augmentation) else given

    def _check_tiles(self) -> None:
        """Refuse sizes of tiles and overlaps that contradict each other."""
        patch, tile, overlap = self.patch_size, self.tile_size, self.tile_overlap
        if tile is None and overlap is not None:
            raise DataError(f"tile_overlap={overlap} goes with tile_size, which is not set.")
        if tile is None:
            return
        if len(tile) != len(patch) or len(overlap or tile) != len(tile):
            many = f"tile_size={tile}" if len(tile) != len(patch) else f"tile_overlap={overlap}"
            raise DataError(f"{many} must have as many numbers as patch_size={patch}.")
        if overlap and (np.array(overlap) >= tile).any():
            raise DataError(f"tile_overlap={overlap} must be smaller than tile_size={tile}.")

    def _check_together(self) -> None:
        """Refuse values that contradict each other."""
        if self.z_as_samples and len(self.patch_size) == 3:
            raise DataError("z_as_samples=true takes planes: give patch_size 2 numbers, not 3.")
        if self.repeats and self.has_targets:
            raise DataError(
                f"repeats={self.repeats} makes targets of every second frame, but targets are "
                "given too. Leave one of them out."
            )
        if self.sampling == "grid" and self.patches_per_epoch is not None:
            raise DataError(
                f"patches_per_epoch={self.patches_per_epoch} goes with sampling=random: a grid "
                "has as many patches as cover the data."
            )
        if self.sampling == "grid" and self.patch_filter is not None:
            raise DataError(
                "patch_filter goes with sampling=random: patches that are rejected are replaced "
                "by others at random, and a grid has no others. Leave one of them out."
            )

    def _check_split(self) -> None:
        """Refuse what contradicts a wish for what validates."""
        asked = self.hold_out is not None or self.n_folds is not None or self.fold > 0
        held_out = self.split_rule.hold_out
        wish = f"hold_out={held_out}, n_folds={self.n_folds}, fold={self.fold}"
        if asked and (self.val_data is not None or self.n_val_patches == 0):
            other = "n_val_patches=0 means none" if self.val_data is None else "val_data is given"
            raise DataError(
                f"{wish} hold validation out of the training data, but {other}. Leave one of them "
                "out."
            )
        if held_out == "patches" and (self.n_folds is not None or self.fold):
            raise DataError(
                f"{wish}: folds are of samples, images or files. Choose one with hold_out, or "
                "leave out n_folds and fold."
            )
        if self.n_folds is not None and self.fold >= self.n_folds:
            last = self.n_folds - 1
            raise DataError(f"fold={self.fold}, but n_folds={self.n_folds}: give 0 to {last}.")
        if held_out == "samples" and self.split_rule.repeats:
            raise DataError(
                f"hold_out=samples, but with repeats={self.repeats} samples of an image show the "
                "same scene: validation would see what is trained on. Use hold_out=images or files."
            )
