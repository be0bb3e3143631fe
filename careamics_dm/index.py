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
    from collections.abc import Callable

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
        self.path = Path(path).expanduser()
        self._found: dict[str, tuple[Any, bytes]] = {}
        self._changed = False
        if not self.path.exists():
            return
        try:
            head, entries = _Descriptions(io.BytesIO(self.path.read_bytes())).load()
        except Exception as error:  # a file of another kind makes pickle raise all sorts
            raise DataError(
                f"index: {self.path} is not an index ({type(error).__name__}: {error}). Name "
                "another file, or remove it: it is made anew."
            ) from error
        if head == _head():  # another version may describe stacks otherwise
            self._found = entries

    def open(
        self, key: str, stamp: Any, opened: Callable[[], list[ImageStack]]
    ) -> list[ImageStack]:
        """Return the stacks of a source: as they are known, or else opened.

        Parameters
        ----------
        key : str
            Names the source and how it is opened.
        stamp
            Plain values that change when the source does; ``None`` where that can't be told, so
            that the source is opened in any case.
        opened : callable
            Opens it.

        Returns
        -------
        list of ImageStack
            Equal to what ``opened`` returns.
        """
        if stamp is None:
            return opened()
        known = self._found.get(key)
        if known is not None and known[0] == stamp:
            stacks: list[ImageStack] = _Descriptions(io.BytesIO(known[1])).load()
            return stacks
        stacks = opened()
        described = _describe(stacks)
        if described is not None:
            self._found[key] = (stamp, described)
            self._changed = True
        return stacks

    def save(self) -> None:
        """Write the file, if anything is new: whole or not at all.

        Raises
        ------
        DataError
            It can't be written.
        """
        if not self._changed:
            return
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(pickle.dumps((_head(), self._found)))
            part.replace(self.path)
        except OSError as error:
            raise DataError(
                f"index: {self.path} can't be written ({error.strerror}). Name another file."
            ) from error
        self._changed = False


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
        ours = module.startswith("careamics_dm.")
        plain = (module.partition(".")[0], name) in _PLAIN
        found = super().find_class(module, name) if ours or plain else None
        if not isinstance(found, type):  # no function is ever called
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a description")
        return found


_PLAIN = {
    ("numpy", "dtype"),
    *(("pathlib", name) for name in ("Path", "PosixPath", "WindowsPath")),
}
