"""What type checkers, editors and `help` know of the package as it is installed."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import jedi
import pytest

import careamics_dm
from careamics_dm.datamodule.settings import Settings, SharedSettings
from careamics_dm.docstrings import parameters

FORMATS = sorted(
    {name for name in careamics_dm.__all__ if name.endswith("DataModule")} - {"MixedDataModule"}
)
SETTINGS = """
[mypy]
[mypy-torch.*,lightning.*]
follow_imports = skip
"""  # for speed alone: they are ten times as long as all else
USE = """
import careamics_dm
from careamics_dm import TiffDataModule

TiffDataModule(train_data="folder", patch_size=(64, 64), level=1)
TiffDataModule(patchsize=(3, 4))
TiffDataModule(patch_size="abc")
careamics_dm.NoSuchName
"""
REFUSED = [6, 7, 8]


def test_mypy_finds_the_package_and_refuses_what_is_wrong(tmp_path):
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    command = [sys.executable, "-m", "mypy", "--strict", "use.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    lines = [int(n) for n in re.findall(r"^use\.py:(\d+): error", done.stdout, re.M)]
    assert lines == REFUSED, done.stdout + done.stderr
    assert 'did you mean "patch_size"?' in done.stdout


def test_pyright_finds_the_package_and_refuses_what_is_wrong(tmp_path):
    (tmp_path / "use.py").write_text(USE)
    settings = {"typeCheckingMode": "standard", "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson"]
    command += ["--pythonpath", sys.executable, "--project", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = [d["range"]["start"]["line"] + 1 for d in found if d["severity"] == "error"]
    assert errors == REFUSED, done.stdout


@pytest.mark.parametrize("name", FORMATS)
def test_completion_offers_every_argument(name):
    script = jedi.Script(f"import careamics_dm\ncareamics_dm.{name}(")
    offered = {c.name for c in script.complete() if c.name.endswith("=")}
    assert offered == {f"{p}=" for p in inspect.signature(getattr(careamics_dm, name)).parameters}


@pytest.mark.parametrize("name", FORMATS)
def test_help_explains_every_argument_with_its_type_and_default(name):
    format_class = getattr(careamics_dm, name)
    explained = parameters(format_class)
    for parameter in inspect.signature(format_class).parameters.values():
        kind, text = explained[parameter.name]
        assert kind.endswith(f", default {parameter.default!r}"), (parameter.name, kind)
        assert not kind.startswith(","), parameter.name
        assert text[:1].isupper() or text[:2] == "``", (parameter.name, text)
        assert text.endswith("."), (parameter.name, text)


def test_the_settings_for_type_checkers_are_those_of_the_dataclass():
    assert list(SharedSettings.__annotations__) == [field.name for field in fields(Settings)]
    assert set(parameters(Settings)) == {field.name for field in fields(Settings)}


def test_public_names_are_the_same_for_type_checkers_and_at_run_time():
    source = Path(careamics_dm.__file__).read_text("utf-8")
    name_as = r"^    from (careamics_dm\.\S+) import (?:\(\s+)?(\w+) as (\w+)\b"
    imports = re.findall(name_as, source, re.M)
    assert sorted(name for _, name, _ in imports) == careamics_dm.__all__
    for module, name, alias in imports:
        assert name == alias
        assert getattr(importlib.import_module(module), name) is getattr(careamics_dm, name)
