"""`--help`: every key that makes sense for a command, once, with a line of explanation."""

import re
import subprocess
import sys

import pytest
import yaml
from apps import CONF, compose, run
from omegaconf import OmegaConf

TEXTS = yaml.safe_load((CONF / "careamics_dm/help.yaml").read_text("utf-8"))
CHOICES = [
    ("train", "data=array"),
    ("train", "data=czi", "data/normalization=quantile", "model=care", "callbacks=early_stopping"),
    ("train", "data=zarr", "data/patch_filter=mean_std", "model=structn2v", "logger=wandb"),
    ("train", "data=custom", "data/patch_filter=entropy", "data/normalization=none", "model=n2n"),
    ("train", "data/patch_filter=max", "data/augmentation=flips", "logger=tensorboard"),
    ("predict", "data=tiff", "data/normalization=min_max"),
    ("predict", "data=zarr"),
    ("preview", "data=czi", "data/normalization=mean_std"),
    ("export",),
]
HIDDEN = {
    # What the command does not use, or sets itself; no key of a model or a format is among them.
    "train": set(),
    "predict": {"train_data", "hold_out", "seed", "augmentation", "batch_format", "logger"},
    "preview": {"predict_data", "test_data", "tile_size", "batch_format", "lr", "depth"},
    "export": set(),
}


def leaves(config, place=""):
    for name, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{place}{name}.")
        elif not name.startswith("_"):
            yield f"{place}{name}"


def listed(text):
    """Every key in the help, with its explanation on one line."""
    text = re.sub(r"\n {7,}", " ", text)
    return re.findall(r"^  ([\w.]+)(?:=\S*)?  +(\S.*)$", text, re.M)


@pytest.mark.parametrize("choice", CHOICES, ids=" ".join)
def test_every_key_is_there_once_and_explained(choice, tmp_path):
    app, *options = choice
    done = run(app, tmp_path, "--help", *options)
    assert done.code == 0 and not list(tmp_path.iterdir())
    keys = [key for key, _ in listed(done.out)]
    groups = [key for key in keys if key in TEXTS["groups"]]
    keys = [key for key in keys if key not in groups]
    assert len(keys) == len(set(keys))
    known = set(leaves(OmegaConf.to_container(compose(app, *options))))
    assert set(keys) <= known
    hidden = {key.split(".")[-1] for key in known - set(keys)}
    assert HIDDEN[app] <= hidden if HIDDEN[app] else not hidden
    assert not hidden & {"level", "scenes", "pool_mib", "masked_pixel_percentage", "checkpoint"}
    for _, text in listed(done.out):
        assert len(text) > 8 and "Argument of" not in text and "`" not in text


@pytest.mark.parametrize("choice", CHOICES, ids=" ".join)
def test_it_fits_into_100_columns_and_begins_with_the_five_commonest(choice, tmp_path):
    app, *options = choice
    lines = run(app, tmp_path, "--help", *options).out.splitlines()
    assert max(map(len, lines)) <= 100
    start = lines.index("The commonest:") + 1
    assert [key for key, _ in listed("\n".join(lines[start : lines.index("", start)]))] == (
        TEXTS["commands"][app]["first"]
    )


def test_an_explanation_takes_a_line_where_defaults_are_shown(tmp_path):
    lines = run("train", tmp_path, "--help").out.splitlines()
    assert sum(line.startswith(" " * 8) for line in lines) <= 2  # long lists of choices


def test_it_says_what_can_be_chosen_and_what_is_set(tmp_path):
    text = run("train", tmp_path, "--help", "data=zarr", "data.level=2").out
    assert re.search(r"data=zarr +Format of the images \(array, custom, czi, tiff, zarr\)", text)
    assert re.search(r"data.level=2 +Level of the pyramid of OME images", text)
    assert re.search(r"data.missing_chunks=error .*\(error, fill\)", text)
    assert re.search(r"writer.dtype=float32 +float32, or the input's", text)
    assert re.search(r"model.masking.struct_mask=null +.*\n? +\(horizontal, vertical", text)


def test_keys_that_a_checkpoint_decides_have_no_default(tmp_path):
    text = run("predict", tmp_path, "--help").out
    assert re.search(r"^  data.patch_size  +Size", text, re.M)
    assert re.search(r"^  checkpoint=\.\.\.  +model.ckpt of a run", text, re.M)


def test_arguments_of_elsewhere_are_listed_too(tmp_path):
    text = run("train", tmp_path, "--help", "+trainer.limit_train_batches=3").out
    assert re.search(r"trainer.limit_train_batches=3 +Argument of lightning.Trainer", text)


def test_a_wrong_choice_is_explained(tmp_path):
    done = run("train", tmp_path, "--help", "data=zar")
    assert done.code == 1
    assert "there is no data=zar. Choose among array, custom, czi, tiff, zarr." in done.err


def test_it_needs_neither_torch_nor_lightning_and_ends_quietly_in_a_pipe(tmp_path):
    code = (
        "import sys; from careamics_dm.cli import commands; sys.argv = ['train', '--help'];"
        "commands.train(); assert not {'torch', 'lightning'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "careamics-train" in done.stdout
    closed = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    closed.stdout.close()
    assert closed.stderr.read() == b""
    closed.stderr.close()
    closed.wait()
