"""The package as a whole: quick to import, typed, with names that are there."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import careamics_dm

HEAVY = (
    "torch",
    "lightning",
    "tifffile",
    "zarr",
    "pylibCZIrw",
    "matplotlib",
    "hydra",
    "imagecodecs",
    "yaozarrs",
)


def loaded(module):
    """Heavy packages that are imported with a module, in a new process."""
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def test_importing_it_loads_nothing_heavy():
    assert loaded("careamics_dm") == "[]"


def test_what_a_loader_process_imports_is_torch_alone():
    """A process that is spawned unpickles a dataset; Lightning would take seconds more."""
    assert loaded("careamics_dm.loading.dataset, careamics_dm.loading.loader") == "['torch']"
    assert loaded("careamics_dm.formats.zarr.opening") == "['torch', 'zarr']"


def test_training_imports_readers_and_writers_when_it_needs_them():
    """Lightning imports torchmetrics, which imports matplotlib."""
    assert loaded("careamics_dm.cli.train") == "['torch', 'lightning', 'matplotlib', 'hydra']"
    assert loaded("careamics_dm.cli.application") == "['hydra']"


@pytest.mark.parametrize("name", careamics_dm.__all__)
def test_every_public_name_is_there_and_explained(name):
    value = getattr(careamics_dm, name)
    assert value.__name__ == name
    assert value.__doc__
    assert vars(careamics_dm)[name] is value  # found at once the next time


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="has no attribute 'Tiff'"):
        _ = careamics_dm.Tiff
    assert dir(careamics_dm) == careamics_dm.__all__


def test_types_ship():
    assert (files("careamics_dm") / "py.typed").is_file()


def test_no_module_is_longer_than_350_lines():
    folder = Path(careamics_dm.__file__).parent
    lengths = {p.name: len(p.read_text("utf-8").splitlines()) for p in folder.rglob("*.py")}
    assert {name: n for name, n in lengths.items() if n > 350} == {}
