"""Functions that a user gives, themselves or by import path."""

import importlib
import multiprocessing
import pickle
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from careamics_dm.errors import DataError


def find_function(argument: str, value: Any) -> Callable[..., Any]:
    """Return a function, importing it if it is ``"package.module.name"`` or ``"module:name"``.

    The current folder is searched last, so that a user's own ``mystacks.py`` is found beside the
    data, and no installed package is hidden by a file there. It stays on ``sys.path``, which
    spawned worker processes inherit: they import the function again.
    """
    label = argument
    if isinstance(value, str):
        label = f"{argument}={value}"
        value = _locate(label, value)
    if not callable(value):
        raise DataError(
            f"{label}: a {type(value).__name__} can't be called. Give a function, or its "
            "import path such as numpy.load or mymodule:read."
        )
    function: Callable[..., Any] = value
    return function


def name_of(function: Callable[..., Any]) -> str:
    """Name a function in messages."""
    return str(getattr(function, "__name__", type(function).__name__))


def check_travels(thing: Any, name: str, start_method: str | None) -> None:
    """Check that a thing called ``name`` pickles, where worker processes do not fork."""
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


def _locate(label: str, path: str) -> Any:
    """Import the longest part of a path that is a module, and look up the rest in it."""
    parts = path.replace(":", ".", 1).split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise DataError(
            f"{label}: is not an import path. Write module and function, such as mymodule:read."
        )
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()  # the file may be newer than the last look at its folder
    for n in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:n])
        try:
            return _look_up(label, importlib.import_module(module), parts[n:])
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):  # one that the module imports
                raise _failed(label, module, error) from error
        except DataError:
            raise
        except Exception as error:  # whatever the module does
            raise _failed(label, module, error) from error
    raise DataError(
        f"{label}: there is no module {'.'.join(parts[:-1])}. Install it, or put it in the "
        f"folder you start from ({folder})."
    )


def _look_up(label: str, module: ModuleType, names: list[str]) -> Any:
    found: Any = module
    for name in names:
        if not hasattr(found, name):
            similar = get_close_matches(name, dir(found), 1)
            hint = f"Did you mean {similar[0]}?" if similar else "Check the name."
            where = getattr(module, "__file__", None) or "built in"
            raise DataError(f"{label}: {module.__name__} ({where}) has no {name}. {hint}")
        found = getattr(found, name)
    return found


def _failed(label: str, module: str, error: Exception) -> DataError:
    return DataError(f"{label}: importing {module} failed: {type(error).__name__}: {error}.")
