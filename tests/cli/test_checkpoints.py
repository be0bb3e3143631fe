"""A checkpoint runs no code: not when it is loaded, and not by what it names."""

import pickle
import zipfile
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from apps import SMALL, noise, refuse, succeed, write_tiffs
from lightning.pytorch.demos.boring_classes import BoringModel

import careamics_dm
from careamics_dm.cli.checkpoints import load_checkpoint
from careamics_dm.cli.trust import OURS, check_config
from careamics_dm.errors import DataError


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    np.save(folder / "noisy.npy", noise((60, 70)))
    succeed("train", folder, *SMALL, "data.train_data=noisy.npy", "data.axes=YX")
    return folder / "run" / "model.ckpt"


@pytest.fixture
def images(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50)])
    return "data.predict_data=images"


def change(model, path, **settings):
    """Save a copy of a checkpoint with another configuration of its model."""
    content = torch.load(model, weights_only=True)
    content["careamics_dm"]["model"] |= settings
    torch.save(content, path)
    return f"checkpoint={path}"


def test_what_a_checkpoint_gives(model):
    found = load_checkpoint(model)
    assert found.keys() == {"config", "weights", "data", "epochs", "steps", "resumable"}
    assert (found["epochs"], found["steps"], found["resumable"]) == (1, 1, True)
    assert found["config"]["model"]["network"]["depth"] == 1
    assert found["data"]["statistics"]["image"]["offset"][0] == pytest.approx(200, 0.02)
    assert all(isinstance(weight, torch.Tensor) for weight in found["weights"].values())


@pytest.mark.parametrize("old_format", [False, True])
def test_pickled_code_is_never_executed(tmp_path, model, images, old_format):
    mark = tmp_path / "executed"
    content = torch.load(model, weights_only=True) | {"evil": Evil(mark)}
    path = tmp_path / "evil.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    for app, data in (("predict", (images,)), ("train", ("data=tiff", "data.train_data=images"))):
        message = refuse(app, tmp_path, *data, f"checkpoint={path}")
        assert "pickled objects" in message and "nothing of it was executed" in message
        assert str(path) in message
    assert not mark.exists()
    # The trap is a real one.
    torch.load(path, weights_only=False)
    assert mark.exists()


def test_other_ways_to_hide_code_are_refused_too(tmp_path):
    mark = tmp_path / "executed"
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps({"careamics_dm": Evil(mark)}))
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.ckpt")
    for name in ("bare.ckpt", "module.ckpt"):
        with pytest.raises(DataError, match=r"pickled objects|not a readable checkpoint"):
            load_checkpoint(tmp_path / name)
    assert not mark.exists()


def test_files_that_are_no_checkpoints_of_ours(tmp_path, model):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "tensors.ckpt")
    torch.save(torch.zeros(3), tmp_path / "tensor.ckpt")
    content = torch.load(model, weights_only=True)
    torch.save(content | {"careamics_dm": 3}, tmp_path / "number.ckpt")
    part = {key: content[key] for key in content if key != "state_dict"}
    torch.save(part, tmp_path / "weightless.ckpt")
    torch.save(content | {"careamics_dm": {"data": {}}}, tmp_path / "modelless.ckpt")
    trainer = L.Trainer(fast_dev_run=True, logger=False, enable_progress_bar=False)
    trainer.strategy.connect(BoringModel())
    trainer.save_checkpoint(tmp_path / "lightning.ckpt")
    (tmp_path / "text.ckpt").write_text("not a checkpoint at all")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    whole = model.read_bytes()
    for name, size in (("short", len(whole) // 2), ("shorter", 100), ("almost", len(whole) - 1)):
        (tmp_path / f"{name}.ckpt").write_bytes(whole[:size])
    with zipfile.ZipFile(tmp_path / "zip.ckpt", "w") as file:
        file.writestr("hello", "world")
    expected = {
        "tensors": "was not written by careamics-train",
        "tensor": "was not written by careamics-train",
        "lightning": "was not written by careamics-train",
        "number": "was not written by careamics-train",
        "weightless": "is incomplete",
        "modelless": "is incomplete",
        "text": "is not a readable checkpoint",
        "empty": "is not a readable checkpoint",
        "short": "is not a readable checkpoint",
        "shorter": "is not a readable checkpoint",
        "almost": "is not a readable checkpoint",
        "zip": "is not a readable checkpoint",
        "missing": "does not exist",
    }
    for name, words in expected.items():
        with pytest.raises(DataError, match=words) as caught:
            load_checkpoint(tmp_path / f"{name}.ckpt")
        assert f"{name}.ckpt" in str(caught.value)
        assert "model.ckpt of a run" in str(caught.value)
    with pytest.raises(DataError, match=r"is a folder\. Name a file in it: \S+almost\.ckpt or "):
        load_checkpoint(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none is a folder without a checkpoint"):
        load_checkpoint(tmp_path / "none")


def test_a_class_of_others_is_refused_unless_trusted(tmp_path, model, images):
    (tmp_path / "othernet.py").write_text(
        "from pathlib import Path\nfrom careamics_dm import UNet\n"
        "Path('imported').touch()\nclass Net(UNet): pass\n"
    )
    network = {"_target_": "othernet.Net", "_partial_": True, "depth": 1, "first_filters": 4}
    network |= {"independent_channels": True}
    changed = change(model, tmp_path / "other.ckpt", network=network)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        message = refuse("predict", tmp_path, changed, images)
        assert "othernet.Net" in message and "trusted=[othernet]" in message
        assert not (tmp_path / "imported").exists()
        done = succeed("predict", tmp_path, changed, images, "trusted=[othernet]", folder="yes")
    assert "denoised/image_0.tif" in done.files


def test_a_prefix_is_trusted_as_a_whole_name(tmp_path):
    (tmp_path / "mine.py").write_text("import os, torch\nclass Net: pass\n")
    (tmp_path / "mine2.py").write_text("class Net: pass\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        for trusted in (["mine"], ["mine."], ["mine.Net"], "mine"):
            assert check_config({"_target_": "mine.Net"}, trusted, "model.ckpt")
        with pytest.raises(DataError, match="mine2"):
            check_config({"_target_": "mine2.Net"}, ["mine"], "model.ckpt")
        for leads_out in ("mine.os.system", "mine.torch.hub.load", "mine.torch.load"):
            with pytest.raises(DataError, match="leads out of the trusted package"):
                check_config({"_target_": leads_out}, ["mine"], "model.ckpt")
        with pytest.raises(DataError, match="no such thing"):
            check_config({"_target_": "mine.Other"}, ["mine"], "model.ckpt")


def test_functions_need_trust_as_classes_do():
    config = {"read_func": "numpy.load", "image_stack_loader": None}
    assert check_config(config, ["numpy"], "model.ckpt") == config
    assert check_config({"read_func": "numpy:load"}, ["numpy"], "model.ckpt")
    with pytest.raises(DataError, match=r"numpy.load.*trusted=\[numpy\]"):
        check_config(config, [], "model.ckpt")


@pytest.mark.parametrize(
    ("then", "now"),
    {
        "careamics_dm.UNet": "careamics_dm.UNet",
        "careamics_dm.models.unet.UNet": "careamics_dm.UNet",
        "careamics_dm.models.n2v.N2VModule": "careamics_dm.N2VModule",
        "careamics_dm.formats.tiff.datamodule.TiffDataModule": "careamics_dm.TiffDataModule",
        "careamics_dm.transforms.normalization.MeanStd": "careamics_dm.MeanStd",
        "torch.nn.MSELoss": "torch.nn.MSELoss",
        "torch.nn.modules.loss.MSELoss": "torch.nn.MSELoss",
        "torch.optim.Adam": "torch.optim.Adam",
        "torch.optim.adam.Adam": "torch.optim.Adam",
        "torch.optim.lr_scheduler.CosineAnnealingLR": "torch.optim.lr_scheduler.CosineAnnealingLR",
    }.items(),
)
def test_classes_have_their_public_names_wherever_they_were(then, now):
    assert check_config({"a": [{"_target_": then}]}, [], "x") == {"a": [{"_target_": now}]}


def test_a_checkpoint_from_before_files_moved_predicts(tmp_path, model, images):
    content = torch.load(model, weights_only=True)
    config = content["careamics_dm"]["model"]
    config["_target_"] = "careamics_dm.models.n2v.N2VModule"
    config["network"]["_target_"] = "careamics_dm.some.other.place.UNet"
    config["masking"]["_target_"] = "careamics_dm.models.masking.Masking"
    content["careamics_dm"]["data"]["normalization"] = {
        "_target_": "careamics_dm.former.MeanStd",
        "_convert_": "all",
        "per_channel": True,
    }
    torch.save(content, tmp_path / "old.ckpt")
    assert (
        "denoised/image_0.tif" in succeed("predict", tmp_path, "checkpoint=old.ckpt", images).files
    )


def test_every_class_that_is_allowed_is_public():
    for name in OURS:
        assert isinstance(getattr(careamics_dm, name), type)


def test_what_careamics_train_writes_passes(model):
    config = load_checkpoint(model)["config"]
    part = {"model": config["model"], "data": config["data"]}
    assert check_config(part, [], model) == part


def test_a_target_that_runs_a_command_runs_nothing(tmp_path, model, images):
    mark = tmp_path / "executed"
    network = {
        "_target_": "careamics_dm.prediction.tiff_writer.os.system",
        "command": f"touch {mark}",
    }
    changed = change(model, tmp_path / "evil.ckpt", network=network)
    assert "If you trust it" in refuse("predict", tmp_path, changed, images)
    assert not mark.exists()
