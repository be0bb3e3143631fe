"""What is wrong with a configuration, said in the user's words rather than Hydra's."""

from __future__ import annotations

import difflib
import re
import sys
from importlib import resources
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from careamics_dm.axes import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_HYDRAS = (HydraException, OmegaConfBaseException)
# What those who raise it tend to explain.
_CLEAR = (ValueError, OSError, ImportError, MisconfigurationException)
_NUMBER = r"[-+.\d_eE]+|null|[-+]?(inf|nan)"


def explain(error: BaseException, name: str) -> str:
    """Say what went wrong: the cause, where it is, and for a mistyped key what it resembles.

    Parameters
    ----------
    error : BaseException
        What was raised.
    name : str
        Of the primary configuration.

    Returns
    -------
    str
        A sentence or more.
    """
    if isinstance(error, OverrideParseException):
        return (
            f"can't read the argument {error.override!r} ({error.message.splitlines()[0]}). Write "
            "KEY=VALUE; put a value with spaces, commas, =, brackets or quotes between quotes "
            """that the shell leaves alone: 'KEY="VALUE"'."""
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"there is no {group}={option}. Choose among {', '.join(error.options)}."
    if match := re.search(r"resolving interpolation '\$\{(\w+)\}'", str(error)):  # as by ~model
        return (
            f"{match[1]} can't be left out. Choose one with {match[1]}=NAME; NAME.yaml in "
            f"FOLDER/{match[1]} is found with hydra.searchpath=[file://FOLDER]."
        )
    if "Config group override must be a string" in str(error):
        return "a group, such as logger, is never null: ~logger leaves it out."
    cause: BaseException = error
    while isinstance(cause, _HYDRAS) and cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause).strip()
    if isinstance(error, InstantiationException):
        where = re.search(r"full_key: (\S+)", str(error))
        text = text if isinstance(cause, _CLEAR) else _with_type(cause)
        # A DataError of the data names its argument itself.
        if where is None or isinstance(cause, DataError):
            return text
        return f"{where[1]}: {text}"
    if match := re.search(r"Key '(\S+)' is not in struct\s+full_key: (\S+)", text):
        return f"there is no {match[2]}.{_resembling(match[2], name)}"
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} is needed: give {match[1]}=... on the command line."
    if isinstance(cause, OSError) and not isinstance(cause, DataError) and cause.filename:
        return f"{cause.strerror}: {cause.filename}"
    return text or type(cause).__name__


def explain_folder(error: OSError) -> str:
    """Say that Hydra could not make the folder of the run."""
    return (
        f"the folder of the run, {error.filename}, can't be made or written to "
        f"({error.strerror}). Choose another with hydra.run.dir=FOLDER."
    )


def mistyped_value(error: BaseException, name: str) -> str | None:
    """Find values from the command line whose type is not that of their default.

    Asked where some code has failed in its own words, such as "'<=' not supported between
    instances of 'float' and 'str'".

    Parameters
    ----------
    error : BaseException
        What was raised, in a Hydra job.
    name : str
        Of the primary configuration.

    Returns
    -------
    str or None
        A message; None where there is no such value or the error explains itself.
    """
    cause = error
    while isinstance(cause, _HYDRAS) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, DataError) or not isinstance(
        cause, TypeError | ValueError | AssertionError
    ):
        return None
    task = HydraConfig.get().overrides.task
    given = dict(text.lstrip("+").split("=", 1) for text in task if "=" in text)
    try:
        default = hydra.compose(
            name, [t for t in task if _key(t) in HydraConfig.get().runtime.choices]
        )
    except _HYDRAS:
        return None
    wrong = []
    for key, text in given.items():
        usual = OmegaConf.select(default, key, default=None, throw_on_missing=False)
        if isinstance(usual, bool) and text.lower() not in ("true", "false"):
            wrong.append(f"{key}={text}: give true or false")
        elif isinstance(usual, int | float) and not re.fullmatch(_NUMBER, text):
            wrong.append(f"{key}={text}: give a number, such as the default, {usual}")
    return f"{'; '.join(wrong)} ({_with_type(cause)})." if wrong else None


def _with_type(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~")


def _resembling(key: str, name: str) -> str:
    """Suggest keys with a similar last part in the same place, or else anywhere."""
    groups = {entry.name for entry in resources.files("careamics_dm.conf").iterdir()}
    chosen = [text for text in sys.argv[1:] if _key(text).split("@")[0] in groups]
    try:
        with hydra.initialize_config_module("careamics_dm.conf", version_base="1.3"):
            config = hydra.compose(name, chosen)
    except _HYDRAS:
        return " --help lists what there is."
    known = [key for key in _keys(OmegaConf.to_container(config)) if not key.endswith("_")]
    parent, _, last = key.rpartition(".")
    beside = [other for other in known if other.rpartition(".")[0] == parent]
    close = _close(last, beside) or _close(last, known)
    if close:
        return f" Did you mean {' or '.join(close)}? --help lists what there is."
    return f" --help lists what there is; +{key}=... adds a key."


def _close(last: str, keys: Sequence[str]) -> list[str]:
    names = {key.rpartition(".")[2] for key in keys}
    close = difflib.get_close_matches(last, names, 2, 0.7)
    return [key for name in close for key in keys if key.rpartition(".")[2] == name][:3]


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(config, dict):
        for key, value in config.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")
