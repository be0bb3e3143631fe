"""What is blamed on a file, and what is not."""

import errno

import pytest

from careamics_dm.errors import DataError, blame_others, parsed


class ServerTimeoutError(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("no answer for 30 s"),
        ServerTimeoutError(),
        ValueError("DEADLINE_EXCEEDED: reading s3://a/b"),
        RuntimeError("Read timed out. (read timeout=60)"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.EMFILE, "Too many open files"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_slow_networks_and_lacking_rights_are_no_damage(error, wrapped):
    if wrapped:
        outer = RuntimeError("cannot decode")
        outer.__cause__ = error
    with pytest.raises(DataError, match=r"a\.tif: cannot be read at present \(.*try again"):
        blame_others(outer if wrapped else error, "a.tif")


def test_nor_is_lack_of_memory():
    error = RuntimeError("cannot decode")
    error.__cause__ = MemoryError("no 8 GiB")
    with pytest.raises(MemoryError, match="no 8 GiB"):
        blame_others(error, "a.tif")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad magic number"),
        KeyError("time"),
        FileNotFoundError(errno.ENOENT, "No such file"),
        IsADirectoryError(errno.EISDIR, "Is a directory"),
        OSError(errno.EINVAL, "Invalid argument"),
        OSError("Failed to interpret file as a pickle"),
    ],
    ids=repr,
)
def test_other_errors_are(error):
    blame_others(error, "a.tif")


@pytest.mark.parametrize("n_faults", [0, 1, 2])
def test_what_python_itself_failed_to_parse_is_read_once_more(n_faults):
    faults = [SystemError("AST constructor recursion depth mismatch")] * n_faults

    def read():
        if faults:
            raise faults.pop()
        return "pixels"

    if n_faults < 2:
        assert parsed(read) == "pixels"
    else:
        with pytest.raises(SystemError):
            parsed(read)
