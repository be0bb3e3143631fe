"""The error that every fault of data or settings raises."""


class DataError(ValueError):
    """Bad input, told in one message: what is wrong, where, and what to do."""


def truncated(path: object, end: int, size: int) -> DataError:
    """Make the error for a file that ends before what it refers to, in bytes."""
    return DataError(
        f"{path}: truncated: its content reaches to byte {end}, but it has {size} bytes. Copy or "
        "save it again."
    )
