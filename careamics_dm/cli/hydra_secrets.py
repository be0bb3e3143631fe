"""Keys and passwords stay out of what Hydra writes and prints, too."""

from __future__ import annotations

import logging
import re
import sys
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from careamics_dm.cli.secrets import HIDDEN, SECRET, hide

if TYPE_CHECKING:
    from collections.abc import Iterator

_PRINTS = re.compile(r"(--cfg?|-c)(=?(job|hydra|all))?|(--info?|--in|-i)(=?[\w-]+)?")
"""Flags with which Hydra prints a configuration and ends."""


def hide_in_files() -> None:
    """Hide them in the files that Hydra has written for this job and its sweep."""
    settings = HydraConfig.get()
    places = [Path(settings.runtime.cwd, str(settings.sweep.dir), "multirun.yaml")]
    if settings.output_subdir is not None:
        own = Path(settings.runtime.output_dir, settings.output_subdir)
        places += sorted(own.glob("*.yaml"))
    for path in places:
        if path.is_file() and SECRET in path.read_text(encoding="utf-8"):
            content = OmegaConf.to_container(OmegaConf.load(path))
            hidden = hide(content)
            if hidden != content:
                path.write_text(OmegaConf.to_yaml(OmegaConf.create(hidden)), encoding="utf-8")


@contextmanager
def hiding_output() -> Iterator[None]:
    """Hide them in a configuration that Hydra is asked to print, and in the list of a sweep."""
    launcher = logging.getLogger("hydra._internal.core_plugins.basic_launcher")
    launcher.addFilter(_hide_in_record)
    try:
        if not any(_PRINTS.fullmatch(text) for text in sys.argv[1:]):
            yield
            return
        printed = StringIO()
        try:
            with redirect_stdout(printed):
                yield
        finally:
            print(_hide_in_text(printed.getvalue()), end="")
    finally:
        launcher.removeFilter(_hide_in_record)


def _hide_in_text(text: str) -> str:
    if SECRET not in text:
        return text
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:  # tables of --info
        content = None
    if isinstance(content, dict):
        hidden = hide(content)
        return text if hidden == content else OmegaConf.to_yaml(OmegaConf.create(hidden))
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


def _hide_in_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = hide(record.getMessage()), None
    return True
