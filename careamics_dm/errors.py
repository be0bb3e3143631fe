"""The error that every fault of data or settings raises."""

import errno
import re
from collections.abc import Callable
from typing import TypeVar

Read = TypeVar("Read")

OF_A_FILE = {None, errno.ENOENT, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.EOVERFLOW}
"""Numbers of operating system errors that say that a file is not as it should be."""
LATE = re.compile(r"(?i)timed? ?out|DEADLINE_EXCEEDED|UNAVAILABLE")
"""How clients of storage say that it does not answer."""


class DataError(ValueError):
    """Bad input, told in one message: what is wrong, where, and what to do."""


class FaultOfFirstRank(DataError):
    """What the first rank has found wrong and reports; in the others, which end with it."""


def truncated(path: object, end: int, size: int) -> DataError:
    """Make the error for a file that ends before what it refers to, in bytes."""
    return DataError(
        f"{path}: truncated: its content reaches to byte {end}, but it has {size} bytes. Copy or "
        "save it again."
    )


def blame_others(error: BaseException, place: object) -> None:
    """Raise what is no fault of a file at a place: lack of memory or rights, a slow network."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            raise cause
        late = isinstance(cause, TimeoutError) or LATE.search(f"{type(cause).__name__} {cause}")
        if late or (isinstance(cause, OSError) and cause.errno not in OF_A_FILE):
            raise DataError(
                f"{place}: cannot be read at present ({type(cause).__name__}: {cause}). Check "
                "rights, disk and network, and try again."
            ) from error
        cause = cause.__cause__


def parsed(read: Callable[[], Read]) -> Read:
    """Call a function once more after a SystemError.

    Python 3.11 may raise one where several threads parse at once, as ``numpy.load`` does with the
    header of a file (CPython issue 106905).
    """
    try:
        return read()
    except SystemError:
        return read()
