"""``--help`` of the commands: every key with its default and one line of explanation.

Explanations come from the docstrings of our classes. These are read as text, as importing the
classes would take seconds; the rest is in ``conf/careamics_dm/help.yaml``.
"""

import ast
import re
from collections import ChainMap
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from careamics_dm.cli import BASE
from careamics_dm.docstrings import Parameter, parameters

FROM_CHECKPOINT = {
    *("axes", "target_axes", "trust_axes", "channels", "target_channels", "patch_size"),
    *("nan_policy", "normalization", "z_as_samples"),
}
"""Settings of the data that training decided; predictions take them from the checkpoint."""
_WIDTH = 100
_SENTENCE = re.compile(r".+?\.(?=\s+[A-Z\d\"`]|$)")


class Row(NamedTuple):
    """A key of the configuration, or a group."""

    key: str
    value: str
    text: str


def help_text(command: str, overrides: Sequence[str]) -> str:
    """Explain every key that makes sense for a command, at most 100 characters per line.

    Overrides of the command line choose keys: ``data=zarr`` those of that format. Hydra raises an
    error if they don't suit the configuration.
    """
    blocks = [_block(title, rows) for title, rows in help_sections(command, overrides).items()]
    return "\n\n".join([_texts()["commands"][command]["text"], *blocks, _texts()["footer"]])


def help_sections(command: str, overrides: Sequence[str]) -> dict[str, list[Row]]:
    """Return the rows of the help by the title of their section."""
    texts = _texts()
    own = texts["commands"][command]
    keys, groups = _compose(command, overrides, texts, texts["keys"] | own.get("keys", {}))
    left = {row.key: row for row in keys if not _matches(row.key, own["hidden"])}
    if command == "predict":
        for key in {f"data.{name}" for name in FROM_CHECKPOINT} & left.keys():
            left[key] = left[key]._replace(value="")
    sections: dict[str, list[Row]] = {"The commonest": [left.pop(key) for key in own["first"]]}
    sections["Choices"] = [row for row in groups if row.key not in own["hidden"]]
    sections |= {title: [] for title in texts["sections"]}
    for row in left.values():
        sections[_section(row.key, texts["sections"])].append(row)
    return {title: rows for title, rows in sections.items() if rows}


@cache
def _texts() -> dict[str, Any]:
    path = files("careamics_dm.conf") / "careamics_dm" / "help.yaml"
    texts: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return texts


def _compose(
    command: str, overrides: Sequence[str], texts: dict[str, Any], keys: dict[str, str]
) -> tuple[list[Row], list[Row]]:
    """Compose the configuration; return its keys and its groups."""
    with hydra.initialize_config_module("careamics_dm.conf", **BASE):
        config: Any = hydra.compose(command, list(overrides), return_hydra_config=True)
        choices = config.hydra.runtime.choices
        loader = GlobalHydra.instance().config_loader()
        groups = [
            Row(name, choices[name] or "null", f"{text} ({', '.join(options)})")
            for name, text in texts["groups"].items()
            if name in choices and (options := loader.get_group_options(name))
        ]
    del config.hydra
    return list(_rows(OmegaConf.to_container(config), keys)), groups


def _rows(config: Any, texts: dict[str, str], place: str = "") -> Iterator[Row]:
    """Yield a row for each value in a configuration."""
    target = str(config.get("_target_", ""))
    documented = _documented(target.rpartition(".")[2])
    if place == "data.":
        documented = _documented("Settings") | documented
    for name, value in config.items():
        key = f"{place}{name}"
        if isinstance(value, dict) and not _is_call(value):
            yield from _rows(value, texts, f"{key}.")
        elif not name.startswith("_"):
            text = texts.get(key) or _explain(name, documented)
            yield Row(key, _value(value), text or f"Argument of {target or 'your own'}")


def _is_call(value: dict[str, Any]) -> bool:
    """Whether a value comes from a function, such as a sample, and not from a class."""
    return bool(re.search(r"\.[a-z_]\w*$", str(value.get("_target_"))))


def _value(value: Any) -> str:
    """Write a value as on the command line; dots stand for what has to be given."""
    if value == "???" or isinstance(value, dict):
        return "..."
    text = "''" if value == "" else str(value).replace(", ", ",")
    return {"None": "null", "True": "true", "False": "false"}.get(text, text)


def _explain(name: str, documented: dict[str, Parameter]) -> str:
    """Shorten an explanation to its first sentence, and add what can be chosen."""
    kind, text = documented.get(name, ("", ""))
    if other := re.match(r"See `(\w+)`", text):
        return _explain(name, _documented(other[1]))
    text = " ".join(text.split())
    sentence = _SENTENCE.match(text)
    text = re.sub(r'[`"]', "", sentence[0] if sentence else text).rstrip(".")
    text = re.sub(r"\bNone\b", "null", text)
    choices = re.findall(r'"(\w+)"', kind)
    named = all(re.search(rf"\b{choice}\b", text) for choice in choices)
    return text if named else f"{text} ({', '.join(choices)})"


@cache
def _documented(name: str) -> dict[str, Parameter]:
    """Read what a class of ours, given by name, and its bases document of parameters."""
    for path in Path(__file__).parents[1].rglob("*.py") if name else ():
        if f"\nclass {name}" in (text := path.read_text("utf-8")):
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef) and node.name == name:
                    bases = [
                        _documented(base.id) for base in node.bases if isinstance(base, ast.Name)
                    ]
                    own = parameters(ast.get_docstring(node) or "")
                    return dict(ChainMap(own, *bases))
    return {}


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _section(key: str, sections: dict[str, list[str]]) -> str:
    found = (title for title, patterns in sections.items() if _matches(key, patterns))
    return next(found, "Format" if key.startswith("data.") else "Output")


def _block(title: str, rows: Sequence[Row]) -> str:
    """Lay out rows in two columns."""
    settings = [f"{row.key}={row.value}" if row.value else row.key for row in rows]
    width = max(map(len, settings)) + 4
    lines = [f"{title}:"]
    for setting, row in zip(settings, rows, strict=True):
        first, *more = wrap(row.text, _WIDTH - width)
        lines += [f"  {setting:<{width - 2}}{first}", *(" " * width + line for line in more)]
    return "\n".join(lines)
