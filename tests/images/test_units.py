"""Units of length and time."""

from __future__ import annotations

import pytest

from careamics_dm.images.units import LENGTHS, convert, symbol


@pytest.mark.parametrize(
    ("size", "unit", "to", "expected"),
    [
        (5000, "Å", "µm", 0.5),
        (1, "\u212b", "nm", 0.1),
        (0.5, "micrometers", "um", 0.5),
        (1, "\\u00B5m", "nm", 1000),
        (1, "\u03bcm", "µm", 1),
        (0.1, "nm", "µm", 0.0001),
        (1, "in", "cm", 2.54),
        (1, "mm", "Mm", 1e-9),
        (250, "ms", "s", 0.25),
        (2, "minutes", "sec", 120),
        (3, "widgets", "widgets", 3),
        (3, "pixel", "µm", None),
        (1, "s", "µm", None),
    ],
)
def test_conversion(size, unit, to, expected):
    assert convert(size, unit, to) == expected


def test_symbols_of_ome_are_themselves():
    assert [symbol(unit) for unit in LENGTHS] == list(LENGTHS)
