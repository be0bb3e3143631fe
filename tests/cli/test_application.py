"""Help that helps, messages instead of stack traces, and an end when asked for."""

import os
import signal
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import tifffile
import torch
from apps import SMALL, noise, refuse, run, started, succeed, write_tiffs


@pytest.fixture
def images(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50), (33, 64)])
    return ("data=tiff", "data.train_data=images")


def test_the_configuration_can_be_shown_without_running(tmp_path):
    done = run("train", tmp_path, "--cfg=job", "model=n2v2")
    assert done.code == 0 and "strategy: median" in done.out
    assert not list(tmp_path.iterdir())


BAD = {
    # Keys and options
    ("data.batchsize=3",): "there is no data.batchsize. Did you mean data.batch_size",
    ("data=tiff", "data.serie=1"): "there is no data.serie. Did you mean data.series?",
    (
        "data/patch_filter=mx",
    ): "there is no data/patch_filter=mx. Choose among entropy, max, mean_std.",
    ("model.network.dept=3",): "Did you mean model.network.depth?",
    ("modl.optimizer.lr=1",): "there is no modl",
    ("trainer.limit_train_batches=1",): "+trainer.limit_train_batches=... adds a key",
    ("data=tif",): "there is no data=tif. Choose among array, custom, czi, tiff, zarr.",
    ("logger=nothing",): "there is no logger=nothing. Choose among csv, tensorboard, wandb.",
    (
        "experiment=nothing",
    ): "there is no experiment=nothing. Choose among formats, n2v_3d, none, rows.",
    ("~model",): "model can't be left out",
    ("~writer",): "writer can't be left out",
    ("logger=null",): "~logger leaves it out",
    ("+data.colour=red",): "data: TypeError: ",
    # Of earlier versions
    ("+patch_filter@data.patch_filter=max",): "earlier version: write data/patch_filter=max.",
    ("+normalization@data.normalization=none",): "write data/normalization=none.",
    ("augmentation@data.augmentation=flips",): "write data/augmentation=flips.",
    ("experiment_data=formats_custom",): "leave it out: experiment=NAME is enough.",
    ("+model_data@data=structn2v",): "leave it out: model=NAME is enough.",
    ("experiment=null",): "write experiment=none.",
    ("data.index=true",): "leave it out: files are opened quickly",
    # Values
    ("data.batch_size=0",): "batch_size=0 is too small",
    ("data.batch_size=1e20",): "data.batch_size=1e+20: give a whole number",
    ("data.pool_mib=99999999999999999999",): "data.pool_mib=99999999999999999999 is too large",
    ("model.network.depth=1.5",): "depth=1.5: give a whole number",
    ("trainer.max_epochs=1.5",): "trainer.max_epochs=1.5: give a whole number",
    ("writer=tiff", "writer.folder=s3://bucket/out"): "writer.folder=s3://bucket/out is a URL",
    ("data=tiff", "data.train_data=s3://b/a.tif"): "train_data: s3://b/a.tif is a URL",
    ("checkpoint=s3://bucket/model.ckpt",): "checkpoint: s3://bucket/model.ckpt is a URL",
    ("data.batch_size=abc",): "batch_size='abc': give a whole number",
    ("data.patch_size=64",): "patch_size=64: give 2 numbers",
    ("data.sampling=sorted",): "sampling='sorted': choose among random, grid",
    ("model.optimizer.lr=fast",): "model.optimizer.lr=fast: is a number or true/false needed here?",
    ("model.masking.roi_size=big",): "model.masking.roi_size='big' has no centre",
    ("model.masking.roi_size=4",): "model.masking.roi_size=4 has no centre",
    (
        "model.network.batch_norm=maybe",
        "model.optimizer.lr=x",
    ): "batch_norm=maybe, model.opt",
    ("trainer.strategy=ddp_spawn",): "Set trainer.strategy=ddp.",
    ("trainer.max_epochs=many",): "trainer.max_epochs='many': give a whole number",
    ("trainer.precision=foo",): "trainer: Precision 'foo' is invalid",
    ("model.compile=maybe",): "compile='maybe': give true, false or arguments",
    ("model.compile={backend:foo}",): "can't be compiled (Invalid backend: 'foo'",
    ("seed=abc",): "seed=abc: is a number",
    ("model.network._target_=nothing.Net",): "model.network: ",
    # Grammar
    ("data.patch_size=[16,", "16]"): "write quotes: 'data.patch_size=[16, 16]'.",
    ("--data=tiff",): "there is no option --data: write data=tiff.",
    ("data.patch_size=[32,32",): "can't read the argument 'data.patch_size=[32,32'",
    ("data.train_data=a=b(c",): "can't read the argument 'data.train_data=a=b(c'",
    ("images",): "can't read the argument 'images'",
    # Files
    ("data=tiff", "data.train_data=nowhere"): "train_data: nowhere does not exist (seen from",
    ("data=tiff", "data.train_data=empty"): "has no file ending in .tif",
    ("data=tiff",): "train_data is not given",
    ("data.train_data=file.npy", "data.axes=YX"): "file.npy: not a readable .npy file",
    # Folders
    ("hydra.run.dir=file.npy/x",): "the folder of the run, file.npy/x, can't be created",
    # Model and data
    ("data.patch_size=[66,66]", "model.network.depth=2"): "multiple of 4. Use 64 or 68",
    ("model.network.depth=8",): "Use 256",
}


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_a_mistake_is_one_message(tmp_path, arguments):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.npy").write_text("no array")
    assert BAD[arguments] in refuse("train", tmp_path, *SMALL, *arguments)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_all_faults_of_all_files_come_at_once(tmp_path, images):
    (tmp_path / "images/text.tif").write_text("no TIFF")
    whole = (tmp_path / "images/image_0.tif").read_bytes()
    (tmp_path / "images/short.tif").write_bytes(whole[: len(whole) // 2])
    tifffile.imwrite(tmp_path / "images/small.tif", noise((8, 8)))
    message = refuse("train", tmp_path, *SMALL, *images)
    for name in ("text.tif", "short.tif", "small.tif"):
        assert name in message
    assert "image_1.tif" not in message


def test_what_happens_in_the_middle_is_one_message_too(tmp_path):
    noisy = noise((64, 64)).astype(np.float32)
    noisy[40, 41] = np.nan
    np.save(tmp_path / "noisy.npy", noisy)
    data = ("data.train_data=noisy.npy", "data.axes=YX")
    message = refuse("train", tmp_path, *SMALL, *data)
    assert "noisy.npy" in message and "nan" in message.lower()
    np.save(tmp_path / "noisy.npy", noise((64, 64)))
    much = ("model.optimizer.lr=1e30", "trainer.max_epochs=4")
    message = refuse("train", tmp_path, *SMALL, *data, *much)
    assert "train_loss" in message and "lower the learning rate" in message


def test_the_stack_trace_is_there_for_those_who_ask(tmp_path, images):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRA_FULL_ERROR", "1")
        with pytest.raises(ValueError, match="patch_size") as caught:
            run("train", tmp_path, *SMALL, *images, "data.patch_size=[15,15]")
        assert len(caught.traceback) > 5
        with pytest.raises(Exception, match="batchsize"):
            run("train", tmp_path, "data.batchsize=3")


def test_a_mistake_of_ours_keeps_its_stack_trace(tmp_path, images):
    """What is no user's fault must not be hidden."""
    (tmp_path / "broken.py").write_text(
        "import careamics_dm as c\n"
        "class Model(c.N2VModule):\n"
        "    def training_step(self, batch, i):\n"
        "        return batch.nothing\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with pytest.raises(AttributeError, match="nothing"):
            run("train", tmp_path, *SMALL, *images, "model._target_=broken.Model")


@pytest.fixture
def ctrl_c():
    """Processes in the background ignore it, and so would their children, and Lightning's end."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def stop_when(process, sign, number=signal.SIGINT):
    """Press Ctrl+C as soon as there is a sign; return how many seconds the end took."""
    for _ in range(1200):
        if sign():
            break
        assert process.is_alive()
        time.sleep(0.05)
    os.kill(process.pid, number)
    began = time.monotonic()
    process.join(60)
    return time.monotonic() - began


def test_training_and_prediction_stop_when_asked_and_can_go_on(tmp_path, ctrl_c):
    write_tiffs(tmp_path / "images", "YX", [(120, 120)] * 6)
    streamed = ("data.in_memory=false", "data.pool_mib=1", "data.patches_per_epoch=64")
    data = (*SMALL, "data=tiff", "data.train_data=images", *streamed)
    last, results = tmp_path / "run/last.ckpt", tmp_path / "run/denoised"
    begun = tmp_path / "run/model.ckpt"
    place = "hydra.run.dir=run"
    with started("train", tmp_path, *data, place, "trainer.max_epochs=100000") as training:
        assert stop_when(training, begun.exists) < 15
        assert training.exitcode == 130
    said = (tmp_path / "stderr").read_text()
    assert "Traceback" not in said
    model = last if last.exists() else begun  # the end of an epoch is saved there
    assert f"careamics-train: stopped from the keyboard. {GO_ON}{model}" in said

    place = (place, f"checkpoint={model}", "data.predict_data=images")
    tiles = ("data.tile_size=[16,16]", "data.batch_size=1")
    with started("predict", tmp_path, *place, *tiles) as prediction:
        sign = lambda: any(results.glob("*.tif"))  # noqa: E731
        assert stop_when(prediction, sign, signal.SIGTERM) < 15
        assert prediction.exitcode == 143
    said = (tmp_path / "stderr").read_text()
    assert "Traceback" not in said
    assert "careamics-predict: ended by SIGTERM" in said
    assert f"Continue with hydra.run.dir={tmp_path / 'run'} writer.existing=skip" in said
    # A file with its final name is complete.
    found = sorted(path.name for path in results.glob("*.tif"))
    assert 1 <= len(found) < 6
    assert all(tifffile.imread(results / name).min() > 0 for name in found)
    done = succeed("predict", tmp_path, *place[1:], "writer.existing=skip")
    assert len([name for name in done.files if name.startswith("denoised/")]) == 6


GO_ON = "Continue with careamics-train checkpoint="


class Send(L.Callback):
    """Sends signals to this process in the middle of a batch: of training, or of validation."""

    def __init__(self, numbers, batch=0, validation=False):
        self.numbers, self.batch, self.validation = numbers, batch, validation
        self.seen = 0

    def _send(self, training):
        if training != self.validation:
            self.seen += 1
            for number in self.numbers if self.seen == self.batch + 1 else ():
                signal.raise_signal(number)

    def on_train_batch_start(self, *args):
        self._send(True)

    def on_validation_batch_start(self, trainer, *args):
        if not trainer.sanity_checking:
            self._send(False)


@pytest.mark.parametrize(
    ("model", "send", "code", "steps"),
    [
        ("n2v", {"numbers": [signal.SIGINT]}, 130, 1),
        ("care", {"numbers": [signal.SIGINT]}, 130, 1),
        ("n2v", {"numbers": [signal.SIGTERM]}, 143, 1),
        ("n2v", {"numbers": [signal.SIGUSR1]}, 138, 1),  # SLURM, before its time limit
        ("n2v", {"numbers": [signal.SIGTERM] * 3, "batch": 1}, 143, 2),  # schedulers may repeat it
        ("n2v", {"numbers": [signal.SIGTERM], "batch": 3}, 143, 4),  # the last batch of an epoch
        ("n2v", {"numbers": [signal.SIGTERM], "validation": True}, 143, 4),
        ("care", {"numbers": [signal.SIGTERM], "validation": True}, 143, 4),
        ("n2v", {"numbers": [signal.SIGINT] * 2}, 130, None),
        ("n2v", {"numbers": [signal.SIGINT] * 2, "batch": 5}, 130, 4),  # back to the epoch's end
        ("care", {"numbers": [signal.SIGINT] * 2, "batch": 5}, 130, 4),
    ],
    ids=str,
)
def test_a_stopped_training_goes_on_to_the_same_weights(
    tmp_path, images, ctrl_c, model, send, code, steps
):
    data = (*SMALL[1:], *images, f"model={model}", "data.batch_size=4", "trainer.max_epochs=2")
    data = (*data, "data.train_target=images") if model == "care" else data
    text = str(send | {"numbers": [int(n) for n in send["numbers"]]}).replace("'", "")
    callback = text.replace("{", "+callbacks.send={_target_: test_application.Send, ")
    done = run("train", tmp_path, *data, callback)
    assert done.code == code
    found = [text for text in done.err.split() if text.startswith("checkpoint=")]
    if steps is None:
        assert not found and not list(done.folder.glob("*.ckpt"))
        return
    path = found[0].removeprefix("checkpoint=")
    assert torch.load(path, weights_only=True)["global_step"] == steps
    assert "Traceback" not in done.err
    assert "trusted=[test_application]'" in done.err
    found = [f"checkpoint={path}", "callbacks=default"]  # without the one that sends
    weights = last_weights(succeed("train", tmp_path, *found, folder="rest").folder)
    whole = whole_weights(model, data)
    assert all(torch.equal(weights[name], whole[name]) for name in whole)


def last_weights(folder):
    last = next(p for n in ("last", "model") if (p := folder / f"{n}.ckpt").exists())
    return torch.load(last, weights_only=True)["state_dict"]


@cache
def whole_weights(model, data):
    """Of the same run that nothing interrupts; images are the same in every test."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiffs(folder / "images", "YX", [(40, 50), (33, 64)])
        return last_weights(succeed("train", folder, *data).folder)


def test_ctrl_c_in_the_last_batch_stops_before_anything_else_begins(tmp_path, images, ctrl_c):
    (tmp_path / "late.py").write_text(
        "import signal, lightning as L\n"
        "class Late(L.Callback):\n"
        "    def on_train_end(self, *args):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        late = "+callbacks.late={_target_: late.Late}"
        done = run("train", tmp_path, *SMALL, *images, "data.predict_data=images", late)
    assert done.code == 130 and "model.ckpt" in done.files
    assert not list((done.folder / "denoised").glob("*.tif"))


def test_ctrl_c_is_not_lost_in_a_destructor(tmp_path, images, ctrl_c):
    """Where Python drops it, such as where an iterator that nobody wants is closed."""
    (tmp_path / "swallow.py").write_text(
        "import signal, lightning as L\n"
        "class Iterator:\n"
        "    def __del__(self):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "class Swallow(L.Callback):\n"
        "    batches = 0\n"
        "    def on_train_batch_end(self, *args):\n"
        "        Swallow.batches += 1\n"
        "        Iterator()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        swallow = "+callbacks.swallow={_target_: swallow.Swallow}"
        few = ("data.batch_size=1", "data.patches_per_epoch=4")
        done = run("train", tmp_path, *SMALL, *images, *few, swallow)
    assert done.code == 130
    assert "careamics-train: stopped from the keyboard." in done.err
    assert "Traceback" not in done.err
    assert sys.modules.pop("swallow").Swallow.batches == 1
