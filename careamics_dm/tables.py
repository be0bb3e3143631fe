"""Tables for people: aligned text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write a table as text: numbers to the right, all else to the left.

    Parameters
    ----------
    header : sequence of str
        Names of the columns.
    rows : sequence of sequence
        As many cells each.

    Returns
    -------
    str
        Lines.
    """
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(_is_number(cell) for cell in column[1:]) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        columns = zip(line, widths, right, strict=True)
        padded = [cell.rjust(n) if to_right else cell.ljust(n) for cell, n, to_right in columns]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def number(value: Any) -> str:
    """Write a number with four digits or so; what is no number as it is, None as nothing."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def _is_number(text: str) -> bool:
    try:
        float(text.split(" ")[0] or "0")
    except ValueError:
        return False
    return True
