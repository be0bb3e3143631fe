"""Keys and passwords stay out of every file of a run; only what they are called is written."""

from __future__ import annotations

import re
from typing import Any

from careamics_dm.errors import DataError

HIDDEN = "***"
"""Stands for a value that is not written."""
SECRET = "storage_options"
"""The argument that holds keys and passwords."""
_SETTING = re.compile(rf"({SECRET}[^=\s]*=).*", re.DOTALL)


def hide(config: Any) -> Any:
    """Return a copy of nested containers in which each value of `SECRET` is `HIDDEN`.

    Parameters
    ----------
    config : object
        A configuration, or overrides of the command line such as
        ``data.storage_options.secret=abc``, in which the value is replaced.

    Returns
    -------
    object
        The copy.
    """
    if isinstance(config, dict):
        return {k: _mask(v) if k == SECRET else hide(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [hide(value) for value in config]
    if isinstance(config, str) and SECRET in config:
        if _SETTING.search(config):
            return _SETTING.sub(rf"\1{HIDDEN}", config)
        return config.split("=")[0] + f"={HIDDEN}" if "=" in config else config
    return config


def check_given(config: dict[str, Any], trained: dict[str, Any] | None = None) -> str:
    """Check that values that were hidden are given again.

    Parameters
    ----------
    config : dict
        Of the data.
    trained : dict, optional
        Of the data that a checkpoint was trained on.

    Returns
    -------
    str
        What the checkpoint's training was given and this run is not; empty if nothing.

    Raises
    ------
    DataError
        A value is `HIDDEN`, as copied from a file of a run.
    """
    given = config.get(SECRET) or {}
    hidden = [key for key, value in given.items() if value == HIDDEN]
    if hidden:
        raise DataError(
            f"data.{SECRET}: {', '.join(hidden)} is {HIDDEN}, as files of a run have it, which "
            f"hold no keys and passwords. Give it again: data.{SECRET}.{hidden[0]}=..."
        )
    lacking = [key for key in (trained or {}).get(SECRET) or {} if key not in given]
    if not lacking or SECRET not in config:
        return ""
    return (
        f"The model was trained with data.{SECRET} ({', '.join(lacking)}), which are in no file. "
        f"Where these images need them, too, give them again: data.{SECRET}.{lacking[0]}=..."
    )


def _mask(options: Any) -> Any:
    """Hide values, whatever holds them; only the names of the first level stay."""
    if isinstance(options, dict):
        return dict.fromkeys(options, HIDDEN)
    return options if options is None else HIDDEN
