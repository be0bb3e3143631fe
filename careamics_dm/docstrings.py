"""The explanations of parameters, read from NumPy-style docstrings."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple


class Parameter(NamedTuple):
    """What a docstring says of a parameter."""

    type: str
    """As written after the colon; empty where there is none."""
    text: str
    """The explanation, without its indentation; paragraphs and line breaks as written."""


def parameters(documented: type | str) -> dict[str, Parameter]:
    """Read the ``Parameters`` section of a docstring.

    Parameters
    ----------
    documented : type or str
        A class with a NumPy-style docstring, or the docstring.

    Returns
    -------
    dict of str to Parameter
        In order; several names before one colon each have the same entry.
    """
    text = documented if isinstance(documented, str) else documented.__doc__ or ""
    _, _, section = inspect.cleandoc(text).partition("Parameters\n----------\n")
    section = re.split(r"\n\n\w+\n-{3,}\n", section)[0]
    found: dict[str, Parameter] = {}
    for entry in re.split(r"\n(?=\S)", section):
        head, _, body = entry.partition("\n")
        names, _, kind = head.partition(" : ")
        for name in names.split(", "):
            found[name.strip()] = Parameter(kind, inspect.cleandoc(body))
    return {name: parameter for name, parameter in found.items() if name.isidentifier()}
