"""Functions that a user gives, themselves or by import path."""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from careamics_dm.axes import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


def find_function(argument: str, value: Any) -> Callable[..., Any]:
    """Return a function, importing it if it is given by its import path.

    The current folder is searched last, so that a user's own ``mystacks.py`` is found beside the
    data, and no installed package is hidden by a file there. It stays on ``sys.path``, which
    spawned worker processes inherit: they import the function again.

    Parameters
    ----------
    argument : str
        Name of the argument, for messages.
    value : callable or str
        The function, ``"package.module.name"`` or ``"package.module:name"``.

    Returns
    -------
    callable
        The function.

    Raises
    ------
    DataError
        No such module or name, a module that fails when it is imported, or something that
        can't be called.
    """
    if isinstance(value, str):
        module, names = _import(f"{argument}={value}", value)
        found: Any = module
        for name in names:
            if not hasattr(found, name):
                similar = get_close_matches(name, dir(found), 1)
                hint = f"Did you mean {similar[0]}?" if similar else "Check the name."
                where = getattr(module, "__file__", None) or "built in"
                raise DataError(
                    f"{argument}={value}: {module.__name__} ({where}) has no {name}. {hint}"
                )
            found = getattr(found, name)
        value, argument = found, f"{argument}={value}"
    if not callable(value):
        raise DataError(
            f"{argument}: a {type(value).__name__} can't be called. Give a function, or its "
            "import path such as numpy.load or mymodule:read."
        )
    function: Callable[..., Any] = value
    return function


def name_of(function: Callable[..., Any]) -> str:
    """Name a function in messages."""
    return str(getattr(function, "__name__", type(function).__name__))


def check_travels(thing: Any, name: str, start_method: str | None) -> None:
    """Check that something can be sent to worker processes, if these start anew.

    Parameters
    ----------
    thing
        What is sent.
    name : str
        Of it, for the message.
    start_method : str, optional
        How they start; the platform's default if not given.

    Raises
    ------
    DataError
        It does not pickle.
    """
    # The first of the methods is the default; asking for the current one would settle it.
    chosen = start_method or multiprocessing.get_start_method(allow_none=True)
    if (chosen or multiprocessing.get_all_start_methods()[0]) == "fork":
        return
    try:
        pickle.dumps(thing)
    except Exception as error:  # objects raise what they like
        raise DataError(
            f"{name} can't be sent to worker processes ({type(error).__name__}: {error}). Define "
            "functions in a module, open files where they are read, or set num_workers=0."
        ) from error


def _import(label: str, path: str) -> tuple[ModuleType, list[str]]:
    """Import the module of a path; return it and the names to look up in it."""
    parts = path.replace(":", ".", 1).split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise DataError(
            f"{label}: is not an import path. Write module and function, such as numpy.load or "
            "mymodule:read."
        )
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()  # the file may be newer than the last look at its folder
    at = path.partition(":")[0].count(".") + 1 if ":" in path else None
    for n in [at] if at else range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:n])
        try:
            return importlib.import_module(module), parts[n:]
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise _failed(label, module, error) from error
        except Exception as error:  # whatever the module does
            raise _failed(label, module, error) from error
    raise DataError(
        f"{label}: there is no module {'.'.join(parts[: at or -1])}. Install it, or put it in the "
        f"folder you start from ({folder})."
    )


def _failed(label: str, module: str, error: Exception) -> DataError:
    return DataError(
        f"{label}: importing {module} failed: {type(error).__name__}: {error}. Mend that module."
    )
