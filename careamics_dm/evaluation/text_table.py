"""Tables as CSV and as aligned text."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_NUMBER = re.compile(r"(-?[\d.]+(e[-+]?\d+)?|-?inf|nan)?( .*)?")
"""A number, with whatever follows a space, or nothing."""


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows, mappings of column to value, as CSV; missing values stay blank."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, header, restval="")
        writer.writeheader()
        writer.writerows(rows)


def align(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write a table as text, a line per row: numbers aligned right, all others left."""
    lines = [list(header), *([str(value) for value in row] for row in rows)]
    padded = []
    for column in zip(*lines, strict=True):
        width = max(map(len, column))
        numbers = all(_NUMBER.fullmatch(text) for text in column[1:])
        padded.append([text.rjust(width) if numbers else text.ljust(width) for text in column])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def format_number(value: Any) -> str:
    """Write a float with about four digits, None as nothing, and anything else as it is."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"
