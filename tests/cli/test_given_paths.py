"""Paths on the command line that do not exist: told before torch is imported, in the same words."""

from __future__ import annotations

import subprocess
import sys
from contextlib import chdir

import pytest
from apps import SMALL, refuse, succeed, write_tiffs

from careamics_dm import DataError, TiffDataModule, ZarrDataModule
from careamics_dm.cli.checkpoints import load_checkpoint

SLOW = ("torch", "lightning", "matplotlib", "zarr", "tifffile", "imagecodecs", "pylibCZIrw")
PROGRAM = f"""
import sys
from careamics_dm.cli import commands
command = sys.argv[0] = sys.argv.pop(1)
try:
    getattr(commands, command)()
finally:
    print(sorted(set({SLOW}) & sys.modules.keys()))
"""
NOWHERE = "not/here"


def refused(cwd, *arguments):
    """What a command says in a process of its own, and which slow packages it has imported."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    message = result.stderr.partition(f"careamics-{arguments[0]}: ")[2]
    return message.partition("\n(HYDRA_FULL_ERROR=1")[0], result.stdout.strip()


def test_messages_of_lightning_are_plain_though_it_is_imported_late(tmp_path):
    """Hydra, which has set up logging by then, would print the time before each."""
    (tmp_path / "teller.py").write_text(
        "import lightning as L\n"
        "from lightning.pytorch.utilities import rank_zero_info\n"
        "class Teller(L.Callback):\n"
        "    def setup(self, *args, **kwargs):\n"
        "        rank_zero_info('it begins')\n"
    )
    own = "+callbacks.teller._target_=teller.Teller"
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, "train", *SMALL, own],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "it begins" in result.stderr.splitlines()
    assert "it begins" not in result.stdout


def fault(cwd, task):
    """What the code that opens a path says."""
    with chdir(cwd), pytest.raises(DataError) as caught:
        task()
    return str(caught.value)


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("train", "data.train_data"),
        ("train", "++data.train_data"),
        ("train", "data.val_data"),
        ("train", "data.predict_data"),
        ("train", "data.test_data"),
        ("preview", "data.train_data"),
        ("predict", "data.predict_data"),
    ],
)
def test_data_that_do_not_exist_are_refused_before_torch_is_imported(tmp_path, command, key):
    (tmp_path / "model.ckpt").touch()
    settings = ["checkpoint=model.ckpt"] if command == "predict" else []
    told, imported = refused(tmp_path, command, "data=tiff", f"{key}={NOWHERE}", *settings)
    name = key.rpartition(".")[2]
    assert told == f"{name}: {NOWHERE} does not exist (seen from {tmp_path}). Check the path."
    assert imported == "[]"


def written(data):
    """As on a command line; Hydra wants quotes around some."""
    return f"[{','.join(map(written, data))}]" if isinstance(data, list) else f"'{data}'"


@pytest.mark.parametrize("data", [NOWHERE, [NOWHERE, "neither"], "~/not/here"])
def test_the_message_is_that_of_the_data_module(tmp_path, data):
    expected = fault(tmp_path, lambda: TiffDataModule(train_data=data).setup("fit"))
    told = refused(tmp_path, "train", "data=tiff", f"data.train_data={written(data)}")
    assert told == (expected, "[]")


@pytest.mark.parametrize("data", ["scan.zarr/A/1", ["a.zarr", "b.zarr"], "file:///no/a.zarr"])
def test_the_message_is_that_of_zarr(tmp_path, data):
    expected = fault(tmp_path, lambda: ZarrDataModule(train_data=data).setup("fit"))
    told = refused(tmp_path, "train", "data=zarr", f"data.train_data={written(data)}")
    assert told == (expected, "[]")


def test_roles_that_are_opened_together_are_told_together(tmp_path):
    roles = {"train_data": "a.tif", "val_data": "b.tif", "predict_data": "c.tif"}
    expected = fault(tmp_path, lambda: TiffDataModule(**roles).setup("fit"))
    arguments = [f"data.{name}={path}" for name, path in roles.items()]
    assert refused(tmp_path, "train", "data=tiff", *arguments) == (expected, "[]")
    assert expected.count("does not exist") == 2


@pytest.mark.parametrize(
    ("command", "key", "path"),
    [
        ("train", "checkpoint", NOWHERE),
        ("train", "weights", "~/not/here.ckpt"),
        ("predict", "checkpoint", "s3://bucket/a.ckpt"),
        ("export", "checkpoint", "."),
    ],
)
def test_wrong_checkpoints_are_refused_before_torch_is_imported(tmp_path, command, key, path):
    expected = fault(tmp_path, lambda: load_checkpoint(path))
    expected = expected.replace("checkpoint:", f"{key}:", 1)
    assert refused(tmp_path, command, f"{key}={written(path)}") == (expected, "[]")


def test_an_interpolation_counts_by_its_value(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGES", "not/there")
    told = refuse("train", tmp_path, "data=tiff", "data.train_data=${oc.env:IMAGES}")
    assert told.startswith("train_data: not/there does not exist (seen from ")


@pytest.mark.parametrize("data", ["tiff", "zarr"])
def test_globs_are_left_to_the_data_module(tmp_path, data):
    told = refuse("train", tmp_path, f"data={data}", "data.train_data=*.none")
    assert told == "train_data: no file matches the pattern *.none. Check the pattern."


def test_what_only_code_of_others_understands_is_left_to_it(tmp_path):
    (tmp_path / "numbered.py").write_text(
        "import careamics_dm as dm\n"
        "class Numbered(dm.ArrayDataModule):\n"
        "    def list_sources(self, data, what):\n"
        "        raise dm.DataError(f'{what}: asked for {data}')\n"
        "def load(source, *args, **kwargs):\n"
        "    raise dm.DataError(f'asked for {source}')\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        own = "data._target_=numbered.Numbered"
        told = refuse("train", tmp_path, own, "data.axes=YX", "data.train_data=seven")
        assert told == "train_data: asked for seven"
        own = "data.image_stack_loader=numbered.load"
        told = refuse("train", tmp_path, "data=custom", own, "data.axes=YX", "data.train_data=nine")
        assert "asked for nine" in told


def test_a_resumed_run_ignores_paths_that_are_not_on_the_command_line(tmp_path):
    write_tiffs(tmp_path, "YX", [(64, 64)])
    own = tmp_path / "conf" / "data" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [tiff, _self_]\ntrain_data: image_0.tif\n")
    options = ("hydra.searchpath=[file://conf]", "data=mine")
    succeed("train", tmp_path, *options, *SMALL)
    own.write_text(own.read_text().replace("image_0", "gone"))
    done = succeed("train", tmp_path, *options, "checkpoint=run/model.ckpt")
    assert "nothing left to do" in done.out
    told = refuse("train", tmp_path, *options, *SMALL, "overwrite=true")
    assert told.startswith("train_data: gone.tif does not exist")


@pytest.mark.parametrize("checkpoint", ["auto", "run/model.ckpt"])
def test_a_finished_run_needs_its_data_no_more(tmp_path, checkpoint):
    write_tiffs(tmp_path, "YX", [(64, 64)])
    command = ("data=tiff", "data.train_data=image_0.tif", *SMALL)
    succeed("train", tmp_path, *command)
    (tmp_path / "image_0.tif").unlink()
    done = succeed("train", tmp_path, *command, f"checkpoint={checkpoint}", "overwrite=false")
    assert "nothing left to do" in done.out
