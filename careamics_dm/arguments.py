"""The arguments that all formats share: plain values, checked before anything is read."""

from __future__ import annotations

import inspect
import multiprocessing
from typing import TYPE_CHECKING, Any, Literal

import lightning as L

from careamics_dm import checks as check
from careamics_dm import normalization as methods
from careamics_dm.augmentation import Augmentation
from careamics_dm.axes import DataError
from careamics_dm.normalization import Normalization
from careamics_dm.patch_filter import PatchFilter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from careamics_dm.sides import NanPolicy

HoldOut = Literal["patches", "samples", "images", "files"]
HOLD_OUT = ("patches", "samples", "images", "files")
METHODS: dict[str, type[Normalization]] = {
    "mean_std": methods.MeanStd,
    "min_max": methods.MinMax,
    "quantile": methods.Quantile,
    "none": methods.NoNormalization,
}


class Arguments(L.LightningDataModule):
    """The arguments that the DataModules of all formats share, and their checks.

    Parameters
    ----------
    train_data, val_data, test_data, predict_data
        What to read: a path, a list of paths, a folder, a glob or a manifest, and what else
        the format takes. Each may be left out.
    train_target, val_target, test_target
        Targets, paired with the inputs: by file name for folders, else by order. If none is
        given but ``target_channels`` are, targets are these channels of the images themselves.
    train_mask
        Where patches may be drawn (non-zero), with the axes of the images without ``C``: a
        patch is drawn where its central pixel is inside.
    axes : str
        Order of the axes on disk, of ``STCZYX``; ``"auto"`` reads the metadata.
    target_axes : str, optional
        Of targets, where they differ.
    trust_axes : bool
        Take ``axes`` even where a file's metadata contradict it.
    channels, target_channels : sequence of int or str, optional
        Channels to use, by index or name; all by default.
    repeats : {"T", "S"}, optional
        Axis along which the same scene was recorded again and again: frames 0, 2, 4, ... of each
        image are inputs, and their targets are frames 1, 3, 5, ... (Noise2Noise). For training,
        validation and test; prediction takes every frame.
    patch_size : sequence of int
        ``Y X`` or ``Z Y X``, pixels.
    batch_size : int or None
        Patches per batch; ``None`` yields single patches, neither batched nor turned. Prediction
        then goes tile by tile.
    sampling : {"random", "grid"}
        Training patches: new random ones in each epoch, or side by side.
    patches_per_epoch : int, optional
        Random training patches per epoch; by default as many as cover the data side by side.
    patch_filter : PatchFilter, optional
        What training patches must meet (`MaxFilter`, `MeanStdFilter`, `EntropyFilter`), so that
        background is not trained on: random patches that do not are replaced by others that do.
        Of images in memory, what passes is found out beforehand, for all origins at once (but
        not by entropy): some 20 ns per pixel, and a bit and a quarter per origin (twice that with
        ``keep``) are held. Others are looked at roughly, a nanosecond per pixel, when they are
        read for the first time.
        Every patch counts by default.
    n_val_patches : int, optional
        Validation patches: held out of the training data (by default 8, but at most a quarter)
        when there is no ``val_data``; otherwise how many, chosen by seed, of the patches of
        ``val_data``, or of whole samples, images or files that are held out (all by default).
    hold_out : {"patches", "samples", "images", "files"}, optional
        What validation takes out of the training data when there is no ``val_data``: patches
        here and there; whole samples (indices along ``S``, frames of ``T`` too); whole images
        (scenes, fields and series are images of their own); or all images of a file or
        container. Patches by default, files with ``n_folds``. What is held out is neither trained
        on nor, but for patches, part of the statistics.
    n_folds, fold : int
        Samples, images or files are dealt into ``n_folds`` folds (10 by default, or as many as
        there are of them); fold number ``fold``, from 0 on, validates, the others train. Only
        their names below their common folder count, so a fold is the same on every machine and
        for every seed. Adding files may move others; a checkpoint keeps the split of its run.
    small_images : {"error", "pad", "skip"}
        Images smaller than the patch: refuse, pad by reflection, or leave out with a warning.
    nan_policy : {"error", "zero", "skip"}
        NaN and infinity in a patch: refuse, replace by 0, or draw another patch instead.
    in_memory : {"auto"} or bool
        Load training and validation data, in their stored dtype, or stream them from disk.
        ``"auto"`` loads what takes less than a quarter of the free memory.
    pool_mib : int
        Memory for decoded blocks when streaming, in MiB.
    normalization : Normalization or str
        ``"mean_std"``, ``"min_max"``, ``"quantile"``, ``"none"``, or an object with settings.
    normalize_target : bool
        Targets by their own statistics, or left as they are.
    exact_statistics : bool
        Use all of the training data for statistics, not a random 256 MiB.
    augmentation : Augmentation or bool
        Flips and turns of training patches: an object with settings, or all in ``YX``, or none.
    tile_size : sequence of int, optional
        Size of prediction tiles, ``(Z) Y X``, pixels; ``None`` predicts whole images.
    tile_overlap : sequence of int, optional
        Pixels that neighbouring tiles share; half a tile, but at most 48, by default.
    batch_format : {"dict", "tuple", "tensor"}
        What modules get: ``{"image", "target", "region"}``; ``(image, target or region)``; or
        the image alone.
    num_workers : int
        Loader processes. 0 reads ahead in threads, which is faster unless decoding needs more
        than the cores of one process can do.
    start_method : {"fork", "spawn", "forkserver"}, optional
        How loader processes start; the platform's default if not given.
    seed : int
        Of patches, split, augmentation and statistics.
    index : path, optional
        A file that keeps what opening found, so that the next run opens only what has changed:
        for thousands of sources.

    Raises
    ------
    DataError
        A value out of range.
    """

    def __init__(
        self,
        *,
        train_data: Any = None,
        train_target: Any = None,
        train_mask: Any = None,
        val_data: Any = None,
        val_target: Any = None,
        test_data: Any = None,
        test_target: Any = None,
        predict_data: Any = None,
        axes: str = "auto",
        target_axes: str | None = None,
        trust_axes: bool = False,
        channels: Sequence[int | str] | None = None,
        target_channels: Sequence[int | str] | None = None,
        repeats: Literal["T", "S"] | None = None,
        patch_size: Sequence[int] = (64, 64),
        batch_size: int | None = 16,
        sampling: Literal["random", "grid"] = "random",
        patches_per_epoch: int | None = None,
        patch_filter: PatchFilter | None = None,
        n_val_patches: int | None = None,
        hold_out: HoldOut | None = None,
        n_folds: int | None = None,
        fold: int = 0,
        small_images: Literal["error", "pad", "skip"] = "error",
        nan_policy: NanPolicy = "error",
        in_memory: Literal["auto"] | bool = "auto",
        pool_mib: int = 512,
        normalization: Normalization | str = "mean_std",
        normalize_target: bool = True,
        exact_statistics: bool = False,
        augmentation: Augmentation | bool = True,
        tile_size: Sequence[int] | None = None,
        tile_overlap: Sequence[int] | None = None,
        batch_format: Literal["dict", "tuple", "tensor"] = "dict",
        num_workers: int = 0,
        start_method: Literal["fork", "spawn", "forkserver"] | None = None,
        seed: int = 0,
        index: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.data = {"train": train_data, "val": val_data, "test": test_data}
        self.data["predict"] = predict_data
        self.target_data = {"train": train_target, "val": val_target, "test": test_target}
        self.train_mask = train_mask
        for name, role in (("target", "train"), ("target", "val"), ("target", "test")):
            if self.target_data[role] is not None and self.data[role] is None:
                raise DataError(f"{role}_{name} is given without {role}_data.")
        if train_mask is not None and train_data is None:
            raise DataError("train_mask is given without train_data.")
        self.axes = check.axes("axes", axes)
        self.target_axes = None if target_axes is None else check.axes("target_axes", target_axes)
        self.trust_axes = check.truth("trust_axes", trust_axes)
        self.channels = check.channels("channels", channels)
        self.target_channels = check.channels("target_channels", target_channels)
        self.repeats = check.one_of("repeats", repeats, (None, "T", "S"))
        if repeats and any(target is not None for target in self.target_data.values()):
            raise DataError(
                f"repeats={repeats} makes targets of every second frame, but targets are given "
                "too. Leave one of them out."
            )
        self.patch_size = check.sizes("patch_size", patch_size)
        self.batch_size = check.number("batch_size", batch_size, 1, optional=True)
        self.sampling = check.one_of("sampling", sampling, ("random", "grid"))
        self.patches_per_epoch = check.number(
            "patches_per_epoch", patches_per_epoch, 1, optional=True
        )
        if sampling == "grid" and patches_per_epoch is not None:
            raise DataError(
                f"patches_per_epoch={patches_per_epoch} goes with sampling=random: a grid has as "
                "many patches as cover the data."
            )
        self.patch_filter = _filter(patch_filter, sampling)
        self.n_val_patches = check.number("n_val_patches", n_val_patches, 0, optional=True)
        self.n_folds = check.number("n_folds", n_folds, 2, optional=True)
        self.fold = check.number("fold", fold, 0)
        check.one_of("hold_out", hold_out, (None, *HOLD_OUT))
        self.hold_out: HoldOut = hold_out or ("patches" if n_folds is None else "files")
        self._check_split(hold_out is not None or n_folds is not None or self.fold > 0)
        self.small_images = check.one_of("small_images", small_images, ("error", "pad", "skip"))
        self.nan_policy = check.one_of("nan_policy", nan_policy, ("error", "zero", "skip"))
        self.in_memory = check.one_of("in_memory", in_memory, ("auto", True, False))
        self.pool_bytes = check.number("pool_mib", pool_mib, 1) * 2**20
        self.normalization = _method(normalization)
        self.normalize_target = check.truth("normalize_target", normalize_target)
        self.exact_statistics = check.truth("exact_statistics", exact_statistics)
        self.augmentation = _augmentation(augmentation)
        self.orientations = self.augmentation.orientations(self.patch_size)
        self.tile_size = None if tile_size is None else check.sizes("tile_size", tile_size)
        self.tile_overlap = _overlap(self.patch_size, self.tile_size, tile_overlap)
        self.batch_format = check.one_of("batch_format", batch_format, ("dict", "tuple", "tensor"))
        self.num_workers = check.number("num_workers", num_workers, 0)
        self.start_method = check.one_of(
            "start_method", start_method, (None, *multiprocessing.get_all_start_methods())
        )
        self.seed = check.number("seed", seed, 0)
        self.index = index

    def _check_split(self, asked: bool) -> None:
        """Refuse what contradicts a wish for what validates."""
        wish = f"hold_out={self.hold_out}, n_folds={self.n_folds}, fold={self.fold}"
        if asked and self.data["val"] is not None:
            raise DataError(
                f"{wish} hold validation out of the training data, but val_data is given too. "
                "Leave one of them out."
            )
        if asked and self.n_val_patches == 0:
            raise DataError(
                f"{wish} hold out validation, but n_val_patches=0 means none. Leave one of them "
                "out."
            )
        if self.hold_out == "patches" and (self.n_folds is not None or self.fold):
            raise DataError(
                f"{wish}: folds are of samples, images or files. Choose one with hold_out, or "
                "leave out n_folds and fold."
            )
        if self.n_folds is not None and self.fold >= self.n_folds:
            raise DataError(
                f"fold={self.fold}, but n_folds={self.n_folds}: folds are numbered from 0 to "
                f"{self.n_folds - 1}."
            )
        if self.hold_out == "samples" and self.repeats:
            raise DataError(
                f"hold_out=samples, but with repeats={self.repeats} samples of an image show the "
                "same scene: validation would see what is trained on. Use hold_out=images or files."
            )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show the shared arguments in the signature of a format that takes ``**shared``."""
        super().__init_subclass__(**kwargs)
        own = inspect.signature(cls.__init__).parameters
        named = {n: p for n, p in own.items() if p.kind is not p.VAR_KEYWORD}
        takes_shared = len(named) < len(own)
        shared = dict(inspect.signature(Arguments.__init__).parameters) if takes_shared else {}
        every = [p for n, p in (shared | named).items() if n != "self"]
        cls.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            sorted(every, key=lambda p: p.kind)
        )


def _overlap(
    patch_size: tuple[int, ...], tile_size: tuple[int, ...] | None, overlap: Sequence[int] | None
) -> tuple[int, ...]:
    if tile_size is None:
        if overlap is not None:
            raise DataError(f"tile_overlap={tuple(overlap)} goes with tile_size, which is not set.")
        return (0,) * len(patch_size)
    if len(tile_size) != len(patch_size):
        raise DataError(
            f"tile_size={tile_size} must have as many numbers as patch_size={patch_size}."
        )
    if overlap is None:
        # Half of 48 on each side covers most of what a U-Net of depth 2 sees.
        return tuple(min(48, tile // 2) for tile in tile_size)
    checked = check.sizes("tile_overlap", overlap, least=0)
    if len(checked) != len(tile_size) or any(
        o >= t for t, o in zip(tile_size, checked, strict=True)
    ):
        raise DataError(
            f"tile_overlap={checked} must have as many numbers as tile_size={tile_size}, each "
            "smaller."
        )
    return checked


def _method(value: Normalization | str) -> Normalization:
    if isinstance(value, Normalization):
        return value
    return METHODS[check.one_of("normalization", value, tuple(METHODS))]()


def _filter(value: PatchFilter | None, sampling: str) -> PatchFilter | None:
    if value is None:
        return None
    if not isinstance(value, PatchFilter):
        raise DataError(
            f"patch_filter={value!r}: give an object, such as MaxFilter(threshold=500), or null."
        )
    if sampling == "grid":
        raise DataError(
            "patch_filter goes with sampling=random: patches that are rejected are replaced by "
            "others at random, and a grid has no others. Leave one of them out."
        )
    return value


def _augmentation(value: Augmentation | bool) -> Augmentation:
    if isinstance(value, Augmentation):
        return value
    if check.truth("augmentation", value):
        return Augmentation()
    return Augmentation(flip="", quarter_turns=False)
