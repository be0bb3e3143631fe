"""The explanations of parameters, read from NumPy-style docstrings."""

import inspect
import re
from typing import NamedTuple


class Parameter(NamedTuple):
    """What a docstring says of a parameter: its type, if any, and the text as it is indented."""

    type: str
    text: str


def parameters(documented: type | str) -> dict[str, Parameter]:
    """Read the ``Parameters`` section of a class or of a docstring, in order.

    Several names before one colon each have the same entry.
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
