"""Where predictions are written: names after the inputs, in a folder that can be written to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from careamics_dm.errors import DataError
from careamics_dm.sources.source_path import TIFF, absolute, bare, file_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from careamics_dm.images.image_stack import ImageStack


def output_paths(stacks: Sequence[ImageStack], folder: Path) -> list[Path]:
    """Name results after their images, ``.tif``, and keep sub-folders below a common one.

    Images inside a container (``a.zarr/0``, ``b.czi/scene_1``) go to a folder named after it
    (``a/0.tif``, ``b/scene_1.tif``). A result that would replace another or an input is an error.
    """
    split = [_folder_and_name(stack.source) for stack in stacks]
    root = Path(os.path.commonpath([outer for outer, _ in split]))
    paths = [folder / outer.relative_to(root) / name for outer, name in split]
    if clashes := sorted({str(path) for path in paths if paths.count(path) > 1}):
        raise DataError(
            f"writer: several images would be written to {', '.join(clashes[:5])}. Name each image "
            "once; predict channels of the same image, and images with the same name, one after "
            "another into different folders."
        )
    inputs = {Path(stack.source).resolve() for stack in stacks}
    if lost := [path for path in paths if path.resolve() in inputs and path.exists()]:
        raise DataError(
            f"writer: {len(lost)} result(s) would replace inputs, the first is {lost[0]}. Write to "
            "another folder."
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


def _folder_and_name(name: str) -> tuple[Path, Path]:
    """Return the folder of a source, and the result's path below it, without containers."""
    source, file = absolute(name), file_of(name)
    if file != source:
        inner = source.relative_to(file.parent).parts
        # Inside a container, what follows a dot is part of the name.
        return file.parent, Path(*map(bare, inner[:-1]), f"{inner[-1]}.tif")
    if source.suffix.lower() in TIFF:
        return source.parent, Path(source.name)
    plain = bare(source.name)
    stem = source.stem if plain == source.name else plain
    return source.parent, Path(f"{stem}.tif")
