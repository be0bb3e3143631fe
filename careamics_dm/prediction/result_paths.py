"""The names of results, and whether they can be written."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from careamics_dm.errors import DataError
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.sources.source_path import absolute, as_text, bare, file_of, is_url

_NOT_ON_WINDOWS = re.compile(
    r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE
)
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
    below = [outer.relative_to(outer.anchor) for outer, _ in split]  # Windows has many drives
    root = os.path.commonpath(below)
    paths = [folder / b.relative_to(root) / name for b, (_, name) in zip(below, split, strict=True)]
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


def check_writable(folder: Path, results: Sequence[Path] = ()) -> None:
    """Create a folder and try to write to it, before hours of work depend on it.

    The names of its ``results`` must suit the file system, too.
    """
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        ignores_case = probe.with_name(probe.name.upper()).exists()
        probe.unlink()
    except OSError as error:
        raise DataError(
            f"the output folder {folder} can't be written to ({error.strerror}). Choose another."
        ) from error
    names = [path.relative_to(folder) for path in results]
    if ignores_case:
        check_case(names)
    if os.name == "nt":
        check_windows_names(names)


def check_case(names: Sequence[Path]) -> None:
    """Refuse results that are the same where upper and lower case are."""
    one: dict[str, Path] = {}
    for name in names:
        if (other := one.setdefault(str(name).casefold(), name)) != name:
            raise DataError(
                f"writer: {other} and {name} would be the same file, as this file system does not "
                "tell upper from lower case. Predict them one after another into different folders."
            )


def check_windows_names(names: Sequence[Path]) -> None:
    """Refuse results that Windows would call something else, or write into a device."""
    for name in names:
        if bad := next(filter(_NOT_ON_WINDOWS.search, name.parts), None):
            raise DataError(
                f"writer: {name} can't be the name of a result, as Windows does not allow {bad!r}. "
                "Rename the image."
            )


def check_space(folder: Path, needed: int) -> None:
    """Refuse to begin where so many bytes do not fit."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"writer: the results take {needed / 2**20:.0f} MiB or more, but in {folder} "
            f"{free / 2**20:.0f} MiB are free. Free space, write to another folder, or predict "
            "fewer images."
        )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn whatever a store raises into one message."""
    try:
        yield
    except (DataError, FileExistsError, MemoryError):
        raise
    except Exception as error:  # stores raise what they like
        text = " ".join(str(getattr(error, "strerror", None) or error).split())
        where = "Check the URL, the network and writer.storage_options"
        advice = where if is_url(path) else "Free space or write to another folder"
        raise DataError(
            f"writer: {as_text(path)} can't be written ({type(error).__name__}: {text[:300]}). "
            f"{advice}; with writer.existing=skip, the same command goes on with this image."
        ) from error


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
