"""An index: what opening thousands of sources found, kept in a file for the next run."""

from __future__ import annotations

import io
import os
import pickle
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from careamics_dm.axes import DataError

if TYPE_CHECKING:
    from careamics_dm.image_stack import ImageStack

LARGEST = 2**14
"""Bytes of a source's stacks beyond which they are not kept: they hold more than a description."""


class Index:
    """Stacks by source, in a file; those of a source that has changed are opened anew.

    Stacks that read from files pickle to a few hundred bytes; these are kept. Reading the file
    back makes nothing but such descriptions: classes of this package, paths and dtypes.

    Parameters
    ----------
    path : path
        The file; made when `save` is called, if it is missing.

    Raises
    ------
    DataError
        The file is not an index.
    """

    def __init__(self, path: str | Path) -> None:
        if not isinstance(path, str | os.PathLike) or not str(path):
            raise DataError(f"index={path!r} is not a path. Name a file; it is made if missing.")
        self.path = Path(path).expanduser()
        if self.path.is_dir():
            raise DataError(f"index: {self.path} is a folder. Name a file: {self.path / 'index'}.")
        self._found = self._read()
        self._new: dict[str, tuple[Any, bytes]] = {}

    def recall(self, key: str, stamp: Any) -> list[ImageStack] | None:
        """Return the stacks of a source, if they are known.

        Parameters
        ----------
        key : str
            Names the source and how it is opened.
        stamp
            Plain values that change when the source does; ``None`` where that can't be told.

        Returns
        -------
        list of ImageStack, or None
            ``None`` if the source is unknown, or has changed.
        """
        known = self._found.get(key)
        if stamp is None or known is None or known[0] != stamp:
            return None
        stacks: list[ImageStack] = _Descriptions(io.BytesIO(known[1])).load()
        return stacks

    def remember(self, key: str, stamp: Any, stacks: list[ImageStack]) -> None:
        """Keep the stacks of a source, if they are no more than descriptions; see `recall`."""
        described = None if stamp is None else _describe(stacks)
        if described is not None:
            self._new[key] = (stamp, described)

    def save(self) -> None:
        """Write the file, if anything is new: whole or not at all, with what others found since.

        Raises
        ------
        DataError
            It can't be written.
        """
        if not self._new:
            return
        self._found = self._read() | self._new
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(pickle.dumps((_head(), self._found)))
            part.replace(self.path)
        except OSError as error:
            raise DataError(
                f"index: {self.path} can't be written ({error.strerror}). Name another file."
            ) from error
        self._new = {}

    def _read(self) -> dict[str, tuple[Any, bytes]]:
        if not self.path.exists():
            return {}
        try:
            head, entries = _Descriptions(io.BytesIO(self.path.read_bytes())).load()
            entries = dict(entries)
        except Exception as error:  # a file of another kind makes pickle raise all sorts
            raise DataError(
                f"index: {self.path} is not an index ({type(error).__name__}: {error}). Name "
                "another file: one that does not exist yet is made."
            ) from error
        return entries if head == _head() else {}  # another version may describe otherwise


def _head() -> tuple[str, str]:
    return ("careamics_dm index", version("careamics_dm"))


def _describe(stacks: list[ImageStack]) -> bytes | None:
    """Pickle stacks that are descriptions; ``None`` for those that could not be read back."""
    try:
        described = pickle.dumps(stacks)
        if len(described) > LARGEST * max(len(stacks), 1):
            return None
        _Descriptions(io.BytesIO(described)).load()
    except (pickle.PickleError, AttributeError, TypeError):
        return None  # of a class of someone else's: opened anew each time
    return described


class _Descriptions(pickle.Unpickler):
    """Makes descriptions of stacks and nothing else, whatever the file says."""

    def find_class(self, module: str, name: str) -> Any:
        ours = module.startswith(_OURS) and "." not in name  # of a module they import: io.FileIO
        plain = (module.partition(".")[0], name) in _PLAIN
        found = super().find_class(module, name) if ours or plain else None
        # No function is ever called, and no class that a module of ours only imports.
        if not isinstance(found, type) or (ours and found.__module__ != module):
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a description")
        return found


_OURS = tuple(f"careamics_dm.{part}" for part in ("formats.", "image_stack", "axes", "pixels"))
"""Modules whose classes describe stacks."""
_PLAIN = {
    ("numpy", "dtype"),
    *(("pathlib", name) for name in ("Path", "PosixPath", "WindowsPath")),
}
