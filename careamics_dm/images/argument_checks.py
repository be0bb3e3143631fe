"""Checks of argument values, each with one message that says what to give."""

from collections.abc import Sequence
from difflib import get_close_matches
from math import inf
from numbers import Integral
from typing import Any, Literal, TypeVar, overload

import numpy as np

from careamics_dm.errors import DataError
from careamics_dm.images.axes import AXES

N = TypeVar("N")

MOST = 2**31 - 1
"""The largest whole number that a setting takes, where nothing else is said."""


def sizes(name: str, value: Any, least: int = 1) -> tuple[int, ...]:
    """Return 2 or 3 whole numbers of pixels."""
    if not _listed(value) or len(value) not in (2, 3):
        raise DataError(f"{written(name, value)}: give 2 numbers (Y X) or 3 (Z Y X), in pixels.")
    if not all(_whole(n) and least <= n <= MOST for n in value):
        raise DataError(
            f"{written(name, tuple(value))}: give whole numbers of pixels, at least {least} and at "
            f"most {MOST}."
        )
    return tuple(map(int, value))


def written(name: str, value: Any) -> str:
    """Write a wrong value for a message, in one short line."""
    text = " ".join(repr(value).split())
    return f"{name}={text if len(text) < 80 else f'{text[:77]}...'}"


@overload
def number(name: str, value: Any, least: int, most: int = MOST) -> int: ...
@overload
def number(
    name: str, value: Any, least: int, most: int = MOST, *, optional: Literal[True]
) -> int | None: ...
def number(
    name: str, value: Any, least: int, most: int = MOST, *, optional: bool = False
) -> int | None:
    """Return a whole number, or ``None`` where that is allowed."""
    if value is None and optional:
        return None
    if not _whole(value):
        raise DataError(f"{written(name, value)}: give a whole number{' or null' * optional}.")
    if value < least:
        raise DataError(f"{name}={value} is too small: give at least {least}.")
    if value > most:
        raise DataError(f"{written(name, value)} is too large: give at most {most}.")
    return int(value)


def positive(value: Any) -> float:
    """Return a positive, finite number of a file's metadata; 0 for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return 0.0
    return found if 0 < found < inf else 0.0


def key(name: str, value: str | None, otherwise: N) -> int | N:
    """Return the number in a field of a manifest, or ``otherwise`` where it is left out."""
    if value is None:
        return otherwise
    if not value.strip().isdecimal():
        raise DataError(f"{name}={value}: a manifest gives it as a whole number from 0 on.")
    return int(value)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    real = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return real and bool(-inf < value < inf)


def boolean(name: str, value: Any) -> bool:
    """Return true or false, and nothing that is merely like it."""
    if not isinstance(value, bool | np.bool_):
        raise DataError(f"{written(name, value)}: give true or false.")
    return bool(value)


def one_of(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """Return one of the choices; 1 is not true here."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        names = [choice for choice in choices if isinstance(choice, str)]
        raise DataError(
            f"{written(name, value)}: choose among {', '.join(map(str, choices))}."
            f"{similar(value, names)}"
        )
    return value


def similar(value: Any, names: Sequence[str]) -> str:
    """Suggest the name that was probably meant, if there is one."""
    close = get_close_matches(value, names, 1) if isinstance(value, str) else []
    return f" Did you mean {close[0]}?" if close else ""


def odd(name: str, value: Any) -> None:
    """Refuse what is not the odd size of something with a centre."""
    if not _whole(value) or not 3 <= value <= MOST or value % 2 == 0:
        raise DataError(f"{written(name, value)} has no centre; use an odd number of at least 3.")


def axes(name: str, value: Any) -> str:
    """Return an axes string, as far as it can be judged without an image."""
    if isinstance(value, str) and value == "auto":
        return "auto"
    letters = value.upper() if isinstance(value, str) else ""
    if set(letters) - set(AXES) or len(set(letters)) < len(letters) or not {"Y", "X"} <= {*letters}:
        raise DataError(
            f"{written(name, value)}: give letters of {AXES} in the order on disk, each once, Y "
            "and X among them, or auto."
        )
    return letters


def channels(name: str, value: Any) -> Sequence[int | str] | None:
    """Return a selection of channels; its members are checked with the images."""
    if value is None:
        return None
    valid = _listed(value) and len(value) > 0
    if not valid or not all(isinstance(c, str) or (_whole(c) and c <= MOST) for c in value):
        raise DataError(
            f"{written(name, value)}: give a list of channel numbers or names, or null."
        )
    return [c if isinstance(c, str) else int(c) for c in value]


def _listed(value: Any) -> bool:
    """Whether a value is a sequence, but no text; a set has no order."""
    if isinstance(value, np.ndarray):
        return bool(value.ndim == 1)
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
