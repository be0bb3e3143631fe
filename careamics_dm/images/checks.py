"""Checks of argument values, each with one message that says what to give."""

from collections.abc import Sequence
from math import inf
from numbers import Integral
from typing import Any, Literal, TypeVar, overload

from careamics_dm.errors import DataError
from careamics_dm.images.axes import AXES

N = TypeVar("N")


def sizes(name: str, value: Any, least: int = 1) -> tuple[int, ...]:
    """Return 2 or 3 whole numbers of pixels."""
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) not in (2, 3):
        raise DataError(f"{name}={value}: give 2 numbers (Y X) or 3 (Z Y X), in pixels.")
    if not all(_whole(n) and n >= least for n in value):
        raise DataError(f"{name}={tuple(value)}: give whole numbers of pixels, at least {least}.")
    return tuple(map(int, value))


@overload
def number(name: str, value: Any, least: int) -> int: ...
@overload
def number(name: str, value: Any, least: int, *, optional: Literal[True]) -> int | None: ...
def number(name: str, value: Any, least: int, *, optional: bool = False) -> int | None:
    """Return a whole number, or ``None`` where that is allowed."""
    if value is None and optional:
        return None
    if not _whole(value):
        raise DataError(f"{name}={value!r}: give a whole number{' or null' * optional}.")
    if value < least:
        raise DataError(f"{name}={value} is too small: give at least {least}.")
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


def boolean(name: str, value: Any) -> bool:
    """Return true or false, and nothing that is merely like it."""
    if not isinstance(value, bool):
        raise DataError(f"{name}={value!r}: give true or false.")
    return value


def one_of(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """Return one of the choices; 1 is not true here."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise DataError(f"{name}={value!r}: choose among {', '.join(map(str, choices))}.")
    return value


def axes(name: str, value: Any) -> str:
    """Return an axes string, as far as it can be judged without an image."""
    if value == "auto":
        return "auto"
    letters = value.upper() if isinstance(value, str) else ""
    if set(letters) - set(AXES) or len(set(letters)) < len(letters) or not {"Y", "X"} <= {*letters}:
        raise DataError(
            f"{name}={value!r}: give letters of {AXES} in the order on disk, each once, Y and X "
            "among them, or auto."
        )
    return letters


def channels(name: str, value: Any) -> Sequence[int | str] | None:
    """Return a selection of channels; its members are checked with the images."""
    if value is None:
        return None
    listed = not isinstance(value, str) and hasattr(value, "__len__")
    if not listed or not len(value) or not all(_whole(c) or isinstance(c, str) for c in value):
        raise DataError(f"{name}={value!r}: give a list of channel numbers or names, or null.")
    return [c if isinstance(c, str) else int(c) for c in value]


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
