"""Units of length and time, by their symbols in OME."""

PREFIXES = {
    **{"Y": 1e24, "Z": 1e21, "E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3},
    **{"h": 1e2, "da": 1e1, "": 1.0, "d": 1e-1, "c": 1e-2, "m": 1e-3, "µ": 1e-6, "n": 1e-9},
    **{"p": 1e-12, "f": 1e-15, "a": 1e-18, "z": 1e-21, "y": 1e-24},
}
LENGTHS = {f"{prefix}m": factor for prefix, factor in PREFIXES.items()} | {
    **{"Å": 1e-10, "thou": 2.54e-5, "li": 2.54e-2 / 12, "in": 2.54e-2, "ft": 0.3048},
    **{"yd": 0.9144, "mi": 1609.344, "ua": 1.495978707e11, "ly": 9.4607304725808e15},
    **{"pc": 3.0856775814913673e16, "pt": 2.54e-2 / 72},
}
"""Metres in each."""
TIMES = {f"{prefix}s": factor for prefix, factor in PREFIXES.items()} | {
    **{"min": 60.0, "h": 3600.0, "d": 86400.0},
}
"""Seconds in each."""
_SYMBOLS = {
    **dict.fromkeys(("um", "micron", "micrometer", "micrometre"), "µm"),
    **dict.fromkeys(("nanometer", "nanometre"), "nm"),
    **dict.fromkeys(("millimeter", "millimetre"), "mm"),
    **dict.fromkeys(("centimeter", "centimetre"), "cm"),
    **dict.fromkeys(("meter", "metre"), "m"),
    **dict.fromkeys(("angstrom", "ångström"), "Å"),
    **dict.fromkeys(("sec", "second"), "s"),
    **dict.fromkeys(("msec", "millisecond"), "ms"),
    **{"us": "µs", "microsecond": "µs", "minute": "min", "hour": "h", "day": "d"},
}


def symbol(unit: str) -> str:
    """Return the usual symbol of a unit, or the unit as it is if none is found."""
    unit = unit.strip().replace("\\u00B5", "µ").replace("\u03bc", "µ").replace("\u212b", "Å")
    name = unit.lower()
    return _SYMBOLS.get(name) or _SYMBOLS.get(name.removesuffix("s")) or unit


def convert(size: float, unit: str, to: str) -> float | None:
    """Convert a length or a time; None if the units don't measure the same."""
    unit, to = symbol(unit), symbol(to)
    if unit == to:
        return size
    for table in (LENGTHS, TIMES):
        if unit in table and to in table:
            return float(f"{size * table[unit] / table[to]:.12g}")  # 0.5, not 0.49999999999999994
    return None
