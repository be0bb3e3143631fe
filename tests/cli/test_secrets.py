"""Keys and passwords are in no file of a run and on no screen; their names are."""

import pytest
import torch
import zarr
from apps import SMALL, noise, refuse, run, succeed

from careamics_dm.cli.checkpoints import SaveConfig
from careamics_dm.cli.secrets import check_given, hide
from careamics_dm.errors import DataError

SECRET = "hunter2"
GIVEN = (f"data.storage_options={{auto_mkdir: false, word: '{SECRET} {SECRET}'}}",)
EACH = ("+data.storage_options.auto_mkdir=false", f"+data.storage_options.word={SECRET}")


@pytest.fixture
def images(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(60, 70), chunks=(30, 35), dtype="u2")
    array[:] = noise((60, 70))
    return ("data=zarr", f"data.train_data={tmp_path / 'a.zarr'}", "data.axes=YX")


def holders(folder):
    return [p for p in folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


def test_no_file_of_a_run_holds_a_secret(tmp_path, images):
    done = succeed("train", tmp_path, *SMALL, *images, *GIVEN)
    assert not holders(done.folder) and SECRET not in done.out + done.err
    content = torch.load(done.folder / "model.ckpt", weights_only=True)
    options = content["careamics_dm"]["data"]["storage_options"]
    assert options == {"auto_mkdir": "***", "word": "***"}
    for name in ("config.yaml", ".hydra/config.yaml"):
        assert "word: '***'" in (done.folder / name).read_text()
    assert "data.storage_options=***" in (done.folder / ".hydra/overrides.yaml").read_text()

    model = f"checkpoint={done.folder / 'model.ckpt'}"
    place = images[1].replace("train", "predict")
    again = succeed("predict", tmp_path, "data=zarr", place, model, folder="again")
    assert "data.storage_options (auto_mkdir, word), which are in no file" in again.out
    url = ("writer.folder=memory://secrets/out", f"writer.storage_options={{word: {SECRET}}}")
    given = succeed("predict", tmp_path, "data=zarr", place, model, *GIVEN, *url, folder="given")
    assert "in no file" not in given.out and not holders(given.folder)
    assert "denoised images  memory://secrets/out" in given.out
    assert zarr.open_array("memory://secrets/out/a.zarr/0", mode="r").shape == (60, 70)
    resumed = (*SMALL, *images, model, "trainer.max_epochs=2")
    done = succeed("train", tmp_path, *resumed, folder="resumed")
    assert "data.storage_options.auto_mkdir=..." in done.out
    copied = "data.storage_options={word: '***'}"
    assert "word is ***" in refuse("predict", tmp_path, "data=zarr", place, model, copied)
    ours = copied.replace("data.", "writer.")
    refused = refuse("predict", tmp_path, "data=zarr", place, model, ours)
    assert "writer.storage_options: the value of word is ***" in refused
    assert "word is ***" in refuse("train", tmp_path, *SMALL, *images, copied)


def test_no_file_of_a_sweep_holds_a_secret(tmp_path, images):
    sweep = ("-m", "hydra.sweep.dir=sweep", "seed=0,1", "hydra.run.dir=run")
    data = ("data=zarr", "data.storage_options={}", *EACH, *images[1:])
    done = run("train", tmp_path, *sweep, *SMALL, *data, folder=None)
    assert done.code == 0, done.err
    assert (tmp_path / "sweep/comparison.csv").exists()
    assert not holders(tmp_path / "sweep") and SECRET not in done.out + done.err


@pytest.mark.parametrize(
    "flags", [("--cfg=job",), ("--cfg=all",), ("--cfg=hydra",), ("--info=config",), ("-c=job",)]
)
def test_a_printed_configuration_holds_no_secret(tmp_path, flags):
    done = run("train", tmp_path, "data=zarr", *GIVEN, *flags)
    assert "model" in done.out and SECRET not in done.out + done.err


def test_other_configurations_are_printed_as_ever(tmp_path):
    done = run("train", tmp_path, "--cfg=job", "data=zarr")
    assert done.code == 0 and "storage_options: null" in done.out


def test_what_is_hidden_and_what_is_not():
    config = {"a": [{"storage_options": {"key": 1, "more": {"x": [2]}}, "b": 3}], "c": "d=e"}
    hidden = {"a": [{"storage_options": {"key": "***", "more": "***"}, "b": 3}], "c": "d=e"}
    assert hide(config) == SaveConfig(config).config == hidden
    assert config["a"][0]["storage_options"]["key"] == 1
    assert hide({"storage_options": None}) == {"storage_options": None}
    assert hide({"storage_options": "text"}) == {"storage_options": "***"}
    overrides = ["data={storage_options:{k:v}}", "+data.storage_options.k=v", "seed=1"]
    assert hide(overrides) == ["data=***", "+data.storage_options.k=***", "seed=1"]


def test_what_was_hidden_must_be_given_again():
    with pytest.raises(DataError, match=r"key, secret is \*\*\*.*storage_options.key=\.\.\."):
        check_given({"storage_options": {"key": "***", "secret": "***", "anon": True}})
    trained = {"storage_options": {"key": "***"}}
    assert "storage_options (key)" in check_given({"storage_options": None}, trained)
    assert check_given({"storage_options": {"key": "mine"}}, trained) == ""
    assert check_given({"train_data": "image.tif"}, trained) == ""
    assert check_given({"storage_options": None}) == ""
