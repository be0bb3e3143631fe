"""Keys and passwords stay out of files and printed text; only their names are written."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from careamics_dm.errors import DataError

HIDDEN = "***"
"""Stands for a value that is not written."""
SECRET = "storage_options"
"""The argument that holds keys and passwords."""
_OVERRIDE = re.compile(rf"(.*?{SECRET}[^=\s]*=|[^=]*=).*", re.DOTALL)
"""An override of the command line: one of the argument, else of something that contains it."""
_PRINTS = re.compile(r"(--cfg?|-c)(=?(job|hydra|all))?|(--info?|--in|-i)(=?[\w-]+)?")
"""Flags with which Hydra prints a configuration and ends."""


def hide(config: Any) -> Any:
    """Return a copy of nested containers in which each value of `SECRET` is `HIDDEN`.

    So is the value in overrides of the command line, ``data.storage_options.secret=abc``.
    """
    if isinstance(config, dict):
        return {k: _mask(v) if k == SECRET else hide(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [hide(value) for value in config]
    if isinstance(config, str) and SECRET in config:
        return _OVERRIDE.sub(rf"\1{HIDDEN}", config)
    return config


def check_given(
    config: dict[str, Any], trained: dict[str, Any] | None = None, part: str = "data"
) -> str:
    """Check that no value of a part of the configuration is `HIDDEN`, copied from a file of a run.

    Returns a note on what the training of a checkpoint, with data configured as ``trained``, was
    given and this run is not; empty if nothing.
    """
    given = config.get(SECRET) or {}
    hidden = [key for key, value in given.items() if value == HIDDEN]
    if hidden:
        raise DataError(
            f"{part}.{SECRET}: the value of {', '.join(hidden)} is {HIDDEN}, which files of a run "
            f"have in place of keys and passwords. Give it again: {part}.{SECRET}.{hidden[0]}=..."
        )
    lacking = [key for key in (trained or {}).get(SECRET) or {} if key not in given]
    if not lacking or SECRET not in config:
        return ""
    return (
        f"The model was trained with data.{SECRET} ({', '.join(lacking)}), which are in no file. "
        f"If these images need them, too, give them again: data.{SECRET}.{lacking[0]}=..."
    )


def hide_in_files() -> None:
    """Hide secrets in the files that Hydra has written for this job and its sweep."""
    settings = HydraConfig.get()
    paths = [Path(settings.runtime.cwd, str(settings.sweep.dir), "multirun.yaml")]
    if settings.output_subdir is not None:
        own = Path(settings.runtime.output_dir, settings.output_subdir)
        paths += sorted(own.glob("*.yaml"))
    for path in paths:
        if path.is_file() and SECRET in path.read_text(encoding="utf-8"):
            content = OmegaConf.to_container(OmegaConf.load(path))
            if hide(content) != content:
                path.write_text(_to_yaml(hide(content)), encoding="utf-8")


@contextmanager
def hiding_output() -> Iterator[None]:
    """Hide secrets in a configuration that Hydra is asked to print, and in the list of a sweep."""
    launcher = logging.getLogger("hydra._internal.core_plugins.basic_launcher")
    launcher.addFilter(_hide_in_record)
    prints = any(_PRINTS.fullmatch(text) for text in sys.argv[1:])
    printed = StringIO()
    try:
        with redirect_stdout(printed) if prints else nullcontext():
            yield
    finally:
        launcher.removeFilter(_hide_in_record)
        print(_hide_in_text(printed.getvalue()), end="")


def _mask(options: Any) -> Any:
    """Hide values, whatever holds them; only the names of the first level stay."""
    if isinstance(options, dict):
        return dict.fromkeys(options, HIDDEN)
    return options if options is None else HIDDEN


def _hide_in_text(text: str) -> str:
    if SECRET not in text:
        return text
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:  # tables of --info
        content = None
    if isinstance(content, dict):
        return text if hide(content) == content else _to_yaml(hide(content))
    return re.sub(rf"({SECRET}[^=\s]*=)\S+", rf"\1{HIDDEN}", _without_blocks(text))


def _without_blocks(text: str) -> str:
    """Replace what is indented below the argument."""
    lines, depth = [], None
    for line in text.splitlines(keepends=True):
        indent = len(line) - len(line.lstrip())
        if depth is not None and indent > depth:
            continue
        depth = indent if line.strip() == f"{SECRET}:" else None
        lines.append(line if depth is None else f"{' ' * indent}{SECRET}: '{HIDDEN}'\n")
    return "".join(lines)


def _to_yaml(content: Any) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(content))


def _hide_in_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = hide(record.getMessage()), None
    return True
