"""Files that are written again after set-up, when what is known of them no longer holds."""

from pathlib import Path
from typing import NamedTuple

from careamics_dm.errors import DataError


class FileStamp(NamedTuple):
    """What changes when a file is written again."""

    path: str
    mtime_ns: int
    size: int

    @classmethod
    def of(cls, path: Path | str) -> "FileStamp":
        """Look at a file."""
        found = Path(path).stat()
        return cls(str(path), found.st_mtime_ns, found.st_size)

    def check(self) -> None:
        """Raise a DataError if the file has changed or is gone."""
        try:
            same = FileStamp.of(self.path) == self
        except OSError as error:
            raise DataError(f"{self.path}: is gone since set-up ({error}).") from error
        if not same:
            raise DataError(f"{self.path}: has changed since set-up. Set up anew.")
