"""Colours in which programs display channels: RRGGBB, in hexadecimal."""

import re
from collections.abc import Sequence


def channel_colors(stated: Sequence[object]) -> tuple[str, ...]:
    """Return the colours of channels, of texts as in metadata (``#FF00FF00``, ``00ff00``).

    Nothing where one is missing, or where they do not tell several channels apart: programs state
    white where nothing is known.
    """
    texts = (re.fullmatch("#?(?:[0-9A-F]{2})?([0-9A-F]{6})", str(one).upper()) for one in stated)
    found = [match[1] for match in texts if match]
    different = len(found) == 1 or len(set(found)) > 1
    return tuple(found) if different and len(found) == len(stated) else ()


def red_green_blue(color: str) -> tuple[int, int, int]:
    """Return the parts of a colour, from 0 to 255."""
    red, green, blue = bytes.fromhex(color)
    return red, green, blue
