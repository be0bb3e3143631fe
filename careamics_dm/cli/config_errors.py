"""What users can cause, in plain words: errors of Hydra, of settings, of data."""

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from careamics_dm.errors import DataError, FaultOfFirstRank

_HYDRAS = (HydraException, OmegaConfBaseException)
# Errors whose own message usually says enough.
_CLEAR = (ValueError, OSError, ImportError)
# What a user's configuration, data or machine can cause.
_USERS_FAULTS = (*_CLEAR, *_HYDRAS, ArithmeticError, MemoryError)
_MISCONFIGURED, _OUT_OF_MEMORY = "MisconfigurationException", "OutOfMemoryError"
"""Those of Lightning and torch by name: there may be an error before these are imported."""
_FORMER = {
    r"\+*(patch_filter|normalization|augmentation)@.*?=(.*)": r"write data/\1=\2",
    r"\+*experiment_data.*": "leave it out: experiment=NAME is enough",
    r"\+*model_data.*": "leave it out: model=NAME is enough",
    r"experiment=null": "write experiment=none",
    r"\+*data\.index=.*": "leave it out: files are opened quickly without an index",
}
"""Arguments of earlier versions, and what to do instead."""
_FLAGS = (
    *("help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "info"),
    *("shell-completion", "config-path", "config-name", "config-dir", "experimental-rerun"),
)
"""Options of Hydra."""
_LOST_RANK = r"gloo/.*(closed by peer|reset by peer|Broken pipe)"
_TEXTS = ("trainer.accelerator", "trainer.strategy")
"""Settings of the trainer that are rightly texts."""
_NO_TEXT = r"[-+.\d_eE]+|null|true|false|[-+]?(inf|nan)|[\[{].*"


def explain(error: BaseException, *, in_job: bool) -> str | None:
    """Say what a user has done wrong and where; None for all else, which needs its stack trace.

    Empty for what another process of the run says.
    """
    if isinstance(error, FaultOfFirstRank):
        return ""
    if isinstance(error, BrokenPipeError):
        return None
    if isinstance(error, RuntimeError) and re.search(_LOST_RANK, str(error)):
        return "another process of this run has ended; its own message, if it left one, says why."
    if in_job and (message := _mistyped_value(error)):
        return message
    if str(error).startswith("Early stopping conditioned on"):
        validation = "Is there any validation, data.n_val_patches or data.val_data?"
        return f"callbacks: early stopping has nothing to watch. {validation} {error}"
    if _is(error, "TorchDynamoException"):
        why = str(error).splitlines()[0].rstrip(".")
        return f"model.compile: the network can't be compiled ({why}). Set model.compile=false."
    known = isinstance(error, _USERS_FAULTS) or _is(error, _MISCONFIGURED, _OUT_OF_MEMORY)
    if not known and not _place(error):
        return None
    if not in_job and isinstance(error, OSError) and not isinstance(error, HydraException):
        return (
            f"the folder of the run, {error.filename}, can't be created or written to "
            f"({error.strerror}). Choose another with hydra.run.dir=FOLDER."
        )
    return _wrong_argument(error) or _as_given(_explain_cause(error))


def outdated(arguments: Sequence[str]) -> str:
    """Say what to write for the first argument of an earlier version; empty if there is none."""
    for argument, after in zip_longest(arguments, arguments[1:], fillvalue=""):
        match = re.fullmatch(r"--([a-z][\w./]*)(?:=(.*))?", argument)
        if match and not _is_flag(match[1]):
            value = match[2] or (after if re.fullmatch(r"[^-=][^=]*", after) else "VALUE")
            return f"there is no option --{match[1]}: write {match[1]}={value}."
        for pattern, advice in _FORMER.items():
            if match := re.fullmatch(pattern, argument):
                return f"{argument} was for an earlier version: {match.expand(advice)}."
    return ""


def _is(error: BaseException, *names: str) -> bool:
    """Whether an error is of a class with one of these names."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _is_clear(error: BaseException) -> bool:
    return isinstance(error, _CLEAR) or _is(error, _MISCONFIGURED)


def _as_given(text: str) -> str:
    """Write settings of the data, which messages name as in Python, as on the command line."""
    if not re.search(r"(?<![\w./])\w+=", text):
        return text
    from careamics_dm.datamodule.settings import SharedSettings  # late: imports torch

    names = "|".join(SharedSettings.__annotations__)
    return re.sub(rf"(?<![\w./])({names})(?==)", r"data.\1", text)


def _is_flag(name: str) -> bool:
    """Whether Hydra has an option of this name, which may be shortened."""
    return any(flag.startswith(name) for flag in _FLAGS)


def _is_open(text: str) -> bool:
    return any(text.count(a) > text.count(b) for a, b in ("[]", "{}"))


def left_out(group: str) -> str:
    """Say that an application needs one option of a group."""
    return (
        f"{group} can't be left out. Choose one with {group}=NAME. (One of your own, FOLDER/"
        f"{group}/NAME.yaml, is found with hydra.searchpath=[file://FOLDER].)"
    )


def _wrong_argument(error: BaseException) -> str:
    """Explain an argument that Hydra could not read or find; empty if it is something else."""
    if isinstance(error, OverrideParseException):
        if _is_open(error.override):
            rest = sys.argv[sys.argv.index(error.override) :] if error.override in sys.argv else []
            whole = next((w for n in range(2, 9) if not _is_open(w := " ".join(rest[:n]))), "")
            return (
                f"can't read the argument {error.override!r}, which ends inside brackets: shells "
                f"split arguments at spaces. Leave spaces out or write quotes: '{whole or '...'}'."
            )
        return (
            f"can't read the argument {error.override!r} ({error.message.splitlines()[0]}). Write "
            "KEY=VALUE; a value with spaces, commas, =, brackets or quotes needs two kinds of "
            """quotes: 'KEY="VALUE"'."""
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"there is no {group}={option}. Choose among {', '.join(error.options)}."
    if match := re.search(r"resolving interpolation '\$\{(\w+)\}'", str(error)):  # after ~model
        return left_out(match[1])
    if "Config group override must be a string" in str(error):
        return "a group, such as logger, can't be null: ~logger leaves it out."
    return ""


def _explain_cause(error: BaseException) -> str:
    """Say the cause, where it is, and for an unknown key what it resembles."""
    cause, where = _cause(error), _place(error)
    text = str(cause).strip()
    if where or isinstance(error, InstantiationException):
        text = text if _is_clear(cause) else _with_type(cause)
        if not where or isinstance(cause, DataError):  # which already names its argument
            return f"{where}.{text}" if where and re.match(r"\w+=", text) else text
        return f"{where}: {text}"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        if f"~{cause.full_key}" in sys.argv:
            return left_out(str(cause.full_key))
        return f"there is no {cause.full_key}.{_resembling(cause)}"
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} is needed: give {match[1]}=... on the command line."
    if isinstance(cause, OSError) and not isinstance(cause, DataError) and cause.filename:
        return f"{cause.strerror}: {cause.filename}"
    return text or type(cause).__name__


def _mistyped_value(error: BaseException) -> str:
    """Name the texts among the values on the command line where code failed on some value.

    Such as with "'<=' not supported between instances of 'float' and 'str'". Settings of the data
    are left out: their errors name the argument. Empty if no text was given or the error is clear.
    """
    cause = _cause(error)
    built = isinstance(error, InstantiationException) or _place(error)  # Hydra 1.3, 1.4
    clear = isinstance(cause, DataError) or (built and _is_clear(cause))
    if clear or not isinstance(cause, TypeError | ValueError | AssertionError):
        return ""
    settings = HydraConfig.get()
    texts = []
    for override in settings.overrides.task:
        key, _, value = override.lstrip("+~").partition("=")
        is_group = key.split("@")[0] in settings.runtime.choices
        is_text = is_group or key.startswith("data.") or key in _TEXTS
        if not (is_text or re.fullmatch(_NO_TEXT, value, re.I)):
            texts.append(f"{key}={value}")
    if not texts:
        return ""
    return f"{', '.join(texts)}: is a number or true/false needed here? ({_with_type(cause)})"


def _place(error: BaseException) -> str:
    """Return the key of the object that could not be made, such as "model.network", or "".

    Hydra 1.3 wraps what a constructor raises, with the key in its message; 1.4 adds a note.
    """
    notes = getattr(error, "__notes__", [])
    text = [str(error)] if isinstance(error, InstantiationException) else []
    found = re.search(r"full_key: (\S+)", "\n".join(text + notes))
    return found[1] if found else ""


def _cause(error: BaseException) -> BaseException:
    """Return what made Hydra raise an error."""
    while isinstance(error, _HYDRAS) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _with_type(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _resembling(error: ConfigAttributeError | ConfigKeyError) -> str:
    """Suggest keys that resemble an unknown one, in the same place or else below it."""
    parent, _, last = str(error.full_key).rpartition(".")
    below = list(_keys(OmegaConf.to_container(error.parent_node)))
    for keys in ([key for key in below if "." not in key], below):
        names = {key.rpartition(".")[2] for key in keys}
        close = difflib.get_close_matches(last, names, 2, 0.7)
        found = [key for name in close for key in keys if key.rpartition(".")[2] == name][:3]
        if found:
            places = [f"{parent}.{key}" if parent else key for key in found]
            return f" Did you mean {' or '.join(places)}? --help lists what there is."
    return f" --help lists what there is; +{error.full_key}=... adds a key."


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(config, dict):
        for key, value in config.items():
            if not str(key).endswith("_"):
                yield f"{prefix}{key}"
                yield from _keys(value, f"{prefix}{key}.")
