"""Which blocks of an unfinished result are written: a small file beside it, and its lock.

Two lines of text say what the result is made of and which prediction writes it; then there is a
character for each block, 1 where it is written. Blocks are marked after their pixels are on disk.

Whoever holds the only lock may begin the result anew. All processes of a prediction then share the
lock, so that no other prediction can: they know each other by the second line. The last one to mark
a block finishes the result: the one that gets to rename the record. Windows has no shared locks and
renames no open file: there, one process writes all of a result.
"""

import errno
import importlib
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from careamics_dm.errors import DataError
from careamics_dm.prediction.result_file import part_of
from careamics_dm.prediction.result_paths import explained
from careamics_dm.sources.source_path import as_text, is_url

try:
    import fcntl

    _SHARED, _ALONE = fcntl.LOCK_SH, fcntl.LOCK_EX | fcntl.LOCK_NB
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]
    _SHARED = _ALONE = 0

_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
_BEYOND = 2**30
"""Which byte is locked on Windows, where nobody may read a locked one."""
_START, _END = 65, 98
"""Of the second line, and of the blocks."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Answers of file systems that have none."""


class BlockRecord:
    """The record of a result, locked.

    Parameters
    ----------
    result : path
        The final name of the result.
    made_of : str
        64 characters: what the result is made of.
    run : str
        32 characters: the prediction that all processes which write it belong to.
    n_blocks : int
        Of the result.

    Attributes
    ----------
    alone : bool
        Whether no other process holds it, so that the result is to be begun or opened before
        others `share` it.

    Raises
    ------
    DataError
        Another prediction writes the result.
    """

    def __init__(self, result: Path, made_of: str, run: str, n_blocks: int) -> None:
        self.result, self.path, self.n_blocks = result, record_of(result), n_blocks
        self._made_of, self._run = made_of, run
        self._file, self._is_locked = -1, False
        self.alone = self._open()
        while self._is_gone():  # another prediction has finished meanwhile
            self.close()
            self.alone = self._open()
        if not self.alone:
            self._check_run()

    def goes_on(self) -> bool:
        """Whether there are blocks of the same result already, or could be."""
        same = blocks_in(self._content(), self._made_of, self.n_blocks) is not None
        return same and part_of(self.result).exists()

    def clear(self) -> None:
        """Forget all blocks, before the result is begun anew."""
        os.ftruncate(self._file, 0)

    def share(self) -> None:
        """Let the other processes of this prediction in, once the result is there."""
        if not self.goes_on():
            self.clear()
            self._write(0, f"{self._made_of}\n{self._run}\n{'0' * self.n_blocks}")
        self._write(_START, self._run)
        self._lock(_SHARED)
        self._check_run()

    def mark(self, blocks: Iterable[int]) -> None:
        """Note that blocks are on disk."""
        for block in blocks:
            self._write(_END + block, "1")
        if self.n_blocks > 1:
            os.fsync(self._file)

    def marked(self) -> set[int]:
        """Return the blocks that are on disk."""
        return _marked(self._content())

    def claim(self) -> bool:
        """Whether all blocks are there and it falls to this process to finish the result."""
        if len(self.marked()) < self.n_blocks:
            return False
        if fcntl is None:
            return True
        try:
            self.path.rename(_claimed(self.result))
        except FileNotFoundError:
            return False
        return True

    def remove(self) -> None:
        """Remove it, after the result has got its final name or was removed."""
        if fcntl is None:  # Windows removes no open file
            self.close()
        _claimed(self.result).unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def is_last(self) -> bool:
        """Whether no other process of this prediction has it open; then it is locked again."""
        return self._lock(_ALONE)

    def close(self) -> None:
        """Give the lock back."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._is_locked = -1, False

    def _open(self) -> bool:
        self._file = os.open(self.path, _FLAGS, 0o666)
        if not self._lock(_ALONE):
            self._lock(_SHARED)
            return False
        return True

    def _is_gone(self) -> bool:
        return os.fstat(self._file).st_nlink == 0

    def _content(self) -> str:
        os.lseek(self._file, 0, os.SEEK_SET)
        return os.read(self._file, _END + self.n_blocks + 1).decode("ascii", "replace")

    def _write(self, place: int, text: str) -> None:
        os.lseek(self._file, place, os.SEEK_SET)
        os.write(self._file, text.encode())

    def _lock(self, how: int) -> bool:
        if fcntl is None:
            self._is_locked = self._is_locked or _lock_on_windows(self._file)
            return self._is_locked
        try:
            fcntl.flock(self._file, how)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        return True

    def _check_run(self) -> None:
        if self._is_gone() or self._content()[_START : _END - 1] != self._run:
            self.close()
            raise DataError(
                f"writer: another prediction is writing {self.result} at this time. Wait until it "
                "ends, or stop it; or write to another folder."
            )


class UrlRecord:
    """The record of a result behind a URL, in its store: one process writes it, without a lock."""

    alone = True

    def __init__(
        self, result: Path, made_of: str, run: str, n_blocks: int, options: Mapping[str, Any]
    ) -> None:
        self._result, self._head, self._n_blocks = result, f"{made_of}\n{run}\n", n_blocks
        self._system, self._name = _in_store(result, options)
        self._there = blocks_in(_read_url(self._system, self._name), made_of, n_blocks) or set()

    def goes_on(self) -> bool:
        """Whether there are blocks of the same result already."""
        return bool(self._there)

    def clear(self) -> None:
        """Forget all blocks, before the result is begun anew."""
        self._there.clear()
        self.remove()

    def mark(self, blocks: Iterable[int]) -> None:
        """Note that blocks are written."""
        self._there.update(blocks)
        marks = "".join(str(int(block in self._there)) for block in range(self._n_blocks))
        with explained(self._result):
            self._system.pipe_file(self._name, f"{self._head}{marks}".encode())

    def marked(self) -> set[int]:
        """Return the blocks that are written."""
        return set(self._there)

    def claim(self) -> bool:
        """Whether all blocks are there."""
        return len(self._there) == self._n_blocks

    def is_last(self) -> bool:
        """Say that no other process has it."""
        return True

    def remove(self) -> None:
        """Remove it, after the result is complete or was removed."""
        with suppress(FileNotFoundError):
            self._system.rm_file(self._name)

    def share(self) -> None:
        """Do nothing, as no other process writes the result."""

    close = share


def record_of(result: Path) -> Path:
    """Return the name of the record of a result."""
    return part_of(result).with_suffix(".blocks")


def read_record(result: Path, options: Mapping[str, Any]) -> str | None:
    """Return the record of an unfinished result; None where there is none, or no such result."""
    path = record_of(result)
    try:
        if is_url(result):
            return _read_url(*_in_store(result, options))
        if (claimed := _claimed(result)).exists():  # it was killed while it was finished
            claimed.replace(path)
        return path.read_text("ascii", "replace") if part_of(result).exists() else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def remove_rest(result: Path, options: Mapping[str, Any]) -> None:
    """Remove what is left by a process that was killed just after its result had got its name."""
    if is_url(result):
        system, name = _in_store(result, options)
        with suppress(FileNotFoundError):
            system.rm_file(name)
        return
    part = part_of(result)
    if not (record_of(result).exists() or _claimed(result).exists()) or _is_begun(result):
        return
    with suppress(DataError):  # of another prediction, which replaces the result
        record = BlockRecord(result, "", "", 0)
        if record.alone and not _is_begun(result):
            part.unlink(missing_ok=True)
            for rest in (".parts", ".old"):
                shutil.rmtree(part.with_suffix(rest), ignore_errors=True)
            record.remove()
        record.close()


def blocks_in(record: str | None, made_of: str, n_blocks: int) -> set[int] | None:
    """Return the blocks that are written; None if the record is of another result."""
    same = record and record[:_START] == f"{made_of}\n" and len(record) == _END + n_blocks
    return _marked(record) if record and same else None


def _in_store(result: Path, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the file system of a URL, and the name of the record there."""
    system, name = url_to_fs(as_text(result / ".blocks"), **options)
    return system, name


def _read_url(system: Any, name: str) -> str | None:
    try:
        content: bytes = system.cat_file(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content.decode("ascii", "replace")


def _claimed(result: Path) -> Path:
    return part_of(result).with_suffix(".blocks.all")


def _is_begun(result: Path) -> bool:
    """Whether there are pixels of another result than the one that is there.

    A file that was made of all pixels is newer than these, which are removed after it has its name.
    """
    part = part_of(result)
    with suppress(FileNotFoundError):
        if part.is_file() and _claimed(result).exists():
            return part.stat().st_mtime_ns > result.stat().st_mtime_ns
    return part.exists()


def _lock_on_windows(file: int) -> bool:
    """Lock an open file for this process, unless another has it locked."""
    msvcrt: Any = importlib.import_module("msvcrt")
    os.lseek(file, _BEYOND, os.SEEK_SET)
    try:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True


def _marked(content: str) -> set[int]:
    return {i for i, mark in enumerate(content[_END:]) if mark == "1"}
