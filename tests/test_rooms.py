"""The rooms of the package: which there are, and that imports between them run downwards only."""

from __future__ import annotations

import ast
from pathlib import Path

import careamics_dm

ROOMS = (
    "cli",
    "callbacks",
    "formats",
    "testing",
    "datamodule",
    "models",
    "prediction",
    "evaluation",
    "transforms",
    "loading",
    "sampling",
    "sources",
    "images",
    "samples",
    "docstrings",
    "errors",
)
"""From top to bottom: a room may import from the rooms below it, and from itself."""
FOLDER = Path(careamics_dm.__file__).parent
MODULES = {
    "careamics_dm." + ".".join(path.relative_to(FOLDER).with_suffix("").parts): path
    for path in FOLDER.rglob("*.py")
}


def imports(path):
    """Our modules that a module imports, anywhere in it, also for type checkers only."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inside]
        else:
            continue
        yield from (name for name in names if name.startswith("careamics_dm."))


def room(module):
    return module.split(".")[1]


ARROWS = sorted(
    {(module, other) for module, path in MODULES.items() for other in imports(path)}
    - {("careamics_dm.__init__", other) for other in MODULES}
)


def test_every_module_is_in_a_room():
    assert {room(module) for module in MODULES} - {"__init__"} == set(ROOMS)


def test_imports_run_downwards():
    upwards = [
        f"{module} imports {other}"
        for module, other in ARROWS
        if ROOMS.index(room(module)) > ROOMS.index(room(other))
    ]
    assert upwards == []


def test_imports_run_in_no_circle():
    below = {module: {other for one, other in ARROWS if one == module} for module in MODULES}
    while leaves := [module for module, others in below.items() if not others & below.keys()]:
        for module in leaves:
            del below[module]
    assert sorted(below) == []
