"""Which blocks of an unfinished result are written: a small file beside it, and its lock.

Two lines of text say what the result is made of and which prediction writes it; then there is a
character for each block, 1 where it is written. Blocks are marked after their pixels are on disk.

Whoever holds the only lock may begin the result anew. All processes of a prediction then share the
lock, so that no other prediction can: they know each other by the second line. The last one to mark
a block finishes the result: the one that gets to rename the record.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from careamics_dm.errors import DataError
from careamics_dm.prediction.result_file import part_of

try:
    import fcntl

    _SHARED, _ALONE = fcntl.LOCK_SH, fcntl.LOCK_EX | fcntl.LOCK_NB
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]
    _SHARED = _ALONE = 0

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
        self.alone = self._open()
        while self.alone and self._is_gone():  # another prediction has finished meanwhile
            self.close()
            self.alone = self._open()
        if not self.alone:
            self._lock(_SHARED)
            self._check_run()

    def goes_on(self) -> bool:
        """Whether there are blocks of the same result already, or could be."""
        return self._content()[:_START] == f"{self._made_of}\n" and self._has_size()

    def clear(self) -> None:
        """Forget all blocks, before the result is begun anew."""
        os.ftruncate(self._file, 0)

    def share(self) -> None:
        """Let the other processes of this prediction in, once the result is there."""
        if not self.goes_on():
            self.clear()
            os.pwrite(
                self._file, f"{self._made_of}\n{self._run}\n{'0' * self.n_blocks}".encode(), 0
            )
        os.pwrite(self._file, self._run.encode(), _START)
        self._lock(_SHARED)
        self._check_run()

    def mark(self, blocks: Iterable[int]) -> None:
        """Note that blocks are on disk."""
        for block in blocks:
            os.pwrite(self._file, b"1", _END + block)
        if self.n_blocks > 1:
            os.fsync(self._file)

    def marked(self) -> set[int]:
        """Return the blocks that are on disk."""
        return _marked(self._content())

    def claim(self) -> bool:
        """Whether all blocks are there and it falls to this process to finish the result."""
        if len(self.marked()) < self.n_blocks:
            return False
        try:
            self.path.rename(_claimed(self.result))
        except FileNotFoundError:
            return False
        return True

    def remove(self) -> None:
        """Remove it, after the result has got its final name or was removed."""
        _claimed(self.result).unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def is_last(self) -> bool:
        """Whether no other process of this prediction has it open; then it is locked again."""
        return self._lock(_ALONE)

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._file)

    def _open(self) -> bool:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        return self._lock(_ALONE)

    def _is_gone(self) -> bool:
        return os.fstat(self._file).st_nlink == 0

    def _content(self) -> str:
        return os.pread(self._file, _END + self.n_blocks + 1, 0).decode("ascii", "replace")

    def _has_size(self) -> bool:
        return os.fstat(self._file).st_size == _END + self.n_blocks

    def _lock(self, how: int) -> bool:
        if fcntl is None:
            return True
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


class NoRecord:
    """Stands for a record where no file is locked or read again: behind a URL."""

    alone = True

    def __init__(self, n_blocks: int) -> None:
        self._missing = set(range(n_blocks))
        self._n_blocks = n_blocks

    def goes_on(self) -> bool:
        """Say that nothing is there."""
        return False

    def mark(self, blocks: Iterable[int]) -> None:
        """Note that blocks are written."""
        self._missing -= set(blocks)

    def marked(self) -> set[int]:
        """Return the blocks that are written."""
        return set(range(self._n_blocks)) - self._missing

    def claim(self) -> bool:
        """Whether all blocks are there."""
        return not self._missing

    def is_last(self) -> bool:
        """Say that no other process has it."""
        return True

    def share(self) -> None:
        """Do nothing, as in all that follows."""

    clear = remove = close = share


def record_of(result: Path) -> Path:
    """Return the name of the record of a result."""
    return part_of(result).with_suffix(".blocks")


def is_begun(result: Path) -> bool:
    """Whether a result was begun and not finished."""
    return record_of(result).exists() or _claimed(result).exists()


def blocks_there(result: Path, made_of: str, n_blocks: int) -> set[int] | None:
    """Return the blocks of an unfinished result that are on disk; None if it is another result."""
    path = record_of(result)
    try:
        if (claimed := _claimed(result)).exists():  # it was killed while it was finished
            claimed.rename(path)
        content = path.read_text("ascii", "replace")
    except FileNotFoundError:
        return set()
    same = content[:_START] == f"{made_of}\n" and len(content) == _END + n_blocks
    return _marked(content) if same else None


def _claimed(result: Path) -> Path:
    return part_of(result).with_suffix(".blocks.all")


def _marked(content: str) -> set[int]:
    return {i for i, mark in enumerate(content[_END:]) if mark == "1"}
