"""LightningCLI: arguments of our classes from its command line and YAML, networks from the data."""

from __future__ import annotations

import inspect
import os

import lightning as L
import pytest
import yaml
from apps import write_tiffs
from lightning.pytorch.cli import LightningCLI

from careamics_dm import N2VModule, TiffDataModule

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, of a run so small
MODEL = {
    "class_path": "careamics_dm.N2VModule",
    "init_args": {
        "network": {
            "class_path": "careamics_dm.UNet",
            "init_args": {"depth": 1, "first_filters": 2},
        },
        "masking": {"class_path": "careamics_dm.Masking", "init_args": {"strategy": "median"}},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.002}},
    },
}
DATA = {
    "class_path": "careamics_dm.TiffDataModule",
    "init_args": {
        "train_data": "images",
        "predict_data": "images",
        "patch_size": [16, 16],
        "batch_size": 4,
        "patches_per_epoch": 8,
        "normalization": {"class_path": "careamics_dm.Quantile", "init_args": {"high": 0.9}},
        "patch_filter": {"class_path": "careamics_dm.MaxFilter", "init_args": {"threshold": 1}},
    },
}
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # it sets PL_GLOBAL_SEED
    write_tiffs(tmp_path / "images", "CYX", [(2, 40, 40)])


def named_in_yaml(*args, **options):
    names = {"subclass_mode_model": True, "subclass_mode_data": True, "save_config_callback": None}
    return LightningCLI(L.LightningModule, L.LightningDataModule, args=[*args], **names, **options)


def only_made(*args):
    options = {"run": False, "save_config_callback": None, "trainer_defaults": QUIET}
    network = ["--model.network=careamics_dm.UNet", *args]
    return LightningCLI(N2VModule, TiffDataModule, args=network, **options)


def test_its_parser_has_every_argument_with_its_default(capsys):
    with pytest.raises(SystemExit):
        only_made("--print_config")
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    defaults = {k: p.default for k, p in inspect.signature(TiffDataModule).parameters.items()}
    assert data == defaults | {"patch_size": [64, 64]}


def test_it_sets_arguments_of_formats_and_of_all_formats():
    data = only_made("--data.level=1", "--data.patch_size=[8,16,16]", "--data.axes=ZYX").datamodule
    assert (data.level, data.settings.patch_size, data.settings.axes) == (1, (8, 16, 16), "ZYX")


@pytest.mark.parametrize(
    "network",
    [
        ["careamics_dm.UNet", "--model.network.depth=1"],
        ["monai.networks.nets.BasicUNet", "--model.network.features=[2,2,2,2,2,2]"],
    ],
)
def test_networks_are_built_for_the_data(network):
    size = ["--data.train_data=images", "--data.patch_size=[16,16]"]
    cli = only_made(*size, f"--model.network={network[0]}", *network[1:])
    cli.datamodule.setup("fit")
    cli.model.build(cli.datamodule)
    first = next(cli.model.network.parameters())
    groups = getattr(cli.model.network, "groups", 1)
    assert (first.shape[1] * groups, first.ndim) == (2, 4)


def test_numbers_of_a_network_that_are_given_are_used():
    model = only_made("--model.network.in_channels=1", "--model.network.dims=3").model
    assert (model._build.keywords["in_channels"], model._build.keywords["dims"]) == (1, 3)


def test_a_yaml_trains_continues_and_predicts(tmp_path):
    trainer = QUIET | {"max_epochs": 1, "accelerator": "cpu"}
    content = {"seed_everything": 0, "model": MODEL, "data": DATA, "trainer": trainer}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(content))
    first = named_in_yaml("fit", "--config=train.yaml")
    saved = first.trainer.checkpoint_callback.best_model_path
    assert (first.model.network.in_channels, first.model.masking.strategy) == (2, "median")
    more = named_in_yaml(
        "fit", "--config=train.yaml", f"--ckpt_path={saved}", "--trainer.max_epochs=2"
    )
    assert (first.trainer.global_step, more.trainer.global_step) == (2, 4)
    after = named_in_yaml("predict", "--config=train.yaml", f"--ckpt_path={saved}")
    assert after.trainer.state.finished
    assert after.datamodule.statistics == first.datamodule.statistics
