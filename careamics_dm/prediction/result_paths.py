"""The names of results, and whether they can be written."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from careamics_dm.errors import DataError
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.sources.source_path import absolute, as_text, bare, file_of, is_url

ZARR = ".zarr"
"""The suffix of a store, in which results are, too, that come from one container."""


def result_paths(
    stacks: Sequence[ImageStack],
    folder: Path,
    suffixes: Callable[[ImageStack], Sequence[str]],
) -> list[Path]:
    """Name results after their images, and keep sub-folders below a common one.

    ``suffixes`` says those of the kind of file; the first is used, unless a source has one of them.
    Images inside a container (``a.zarr/0``, ``b.czi/scene_1``) go to a folder named after it
    (``a/0.tif``, ``b/scene_1.tif``), or into a store (``a.zarr/0``, ``b.zarr/scene_1``). A result
    that would replace another or an input, or be inside another, is an error.
    """
    split = [_folder_and_name(stack.source, suffixes(stack)) for stack in stacks]
    root = Path(os.path.commonpath([outer for outer, _ in split]))
    paths = [folder / outer.relative_to(root) / name for outer, name in split]
    outer = {parent for path in set(paths) for parent in path.parents}
    if clashes := sorted({as_text(p) for p, n in Counter(paths).items() if n > 1 or p in outer}):
        raise DataError(
            f"writer: several images would be written to {', '.join(clashes[:5])}. Name each image "
            "once; predict channels of the same image, and images with the same name, one after "
            "another into different folders."
        )
    inputs = {Path(stack.source).resolve() for stack in stacks}
    lost = [path for path in paths if path.resolve() in inputs and (path.exists() or is_url(path))]
    if lost:
        raise DataError(
            f"writer: results would replace inputs ({as_text(lost[0])}). Use another folder."
        )
    return paths


def check_writable(folder: Path) -> None:
    """Create a folder and try to write to it, before hours of work depend on it."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise DataError(
            f"the output folder {folder} can't be written to ({error.strerror}). Choose another."
        ) from error


def check_space(folder: Path, needed: int) -> None:
    """Refuse to begin where so many bytes do not fit."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"writer: the results take {needed / 2**20:.0f} MiB or more, but in {folder} "
            f"{free / 2**20:.0f} MiB are free. Free space, write to another folder, or predict "
            "fewer images."
        )


def _folder_and_name(name: str, suffixes: Sequence[str]) -> tuple[Path, Path]:
    """Return the folder of a source, and the result's path below it, without containers."""
    source, file, suffix = absolute(name), file_of(name), suffixes[0]
    if file != source:
        inner = source.relative_to(file.parent).parts
        if suffix == ZARR:
            store = inner[0] if inner[0].lower().endswith(ZARR) else f"{bare(inner[0])}{ZARR}"
            return file.parent, Path(store, *inner[1:])
        # Inside a container, what follows a dot is part of the name.
        return file.parent, Path(*map(bare, inner[:-1]), f"{inner[-1]}{suffix}")
    if source.suffix.lower() in suffixes:
        return source.parent, Path(source.name)
    plain = bare(source.name)
    stem = source.stem if plain == source.name else plain
    return source.parent, Path(f"{stem}{suffix}")
