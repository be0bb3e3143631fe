"""What a sweeper that looks for the best settings gets, and what is refused before training."""

import pytest
from apps import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from careamics_dm.cli.objective import check_objective, objective_of
from careamics_dm.errors import DataError

AX = {"ax_config": {"experiment": {"minimize": True}}}
OPTUNA = {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"}


def check(*overrides, sweeper=None):
    """Check a configuration, in a sweep where there is a sweeper."""
    config = compose("train", *overrides)
    hydra = compose("train", *overrides, return_hydra_config=True).hydra
    with open_dict(hydra):
        hydra.mode = RunMode.MULTIRUN if sweeper is not None else RunMode.RUN
        hydra.sweeper = sweeper or hydra.sweeper
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = OmegaConf.create({"hydra": hydra})
    try:
        check_objective(OmegaConf.to_container(config, resolve=True))
    finally:
        HydraConfig.instance().cfg = before


@pytest.mark.parametrize(
    ("overrides", "sweeper", "message"),
    [
        (["objective=ssim"], None, "objective=ssim needs truth=FILE"),
        (["objective=test_psnr"], None, "objective=test_psnr needs data.test_data"),
        (["objective=val_loss", "data.n_val_patches=0"], None, "needs validation data"),
        ([], OPTUNA, "objective is needed, .* noisy pixels"),
        (["objective=psnr", "truth=a.tif"], {"direction": "minimize"}, "direction=maximize"),
        (["objective=val_loss"], {"direction": "maximize"}, "direction=minimize"),
        (["objective=val_psnr"], {"direction": ["maximize"]}, "direction=maximize"),
        (["objective=val_psnr"], {"optim": {"maximize": False}}, r"sweeper\.optim\.maximize=true"),
        (["objective=val_psnr"], AX, r"ax_config\.experiment\.minimize=false"),
        (
            ["objective=val_loss"],
            {"ax_config": {"experiment": {"minimize": True}, "early_stop": {"minimize": False}}},
            r"ax_config\.early_stop\.minimize=true",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_before_training(overrides, sweeper, message):
    with pytest.raises(DataError, match=message):
        check(*overrides, sweeper=sweeper and OPTUNA | sweeper)


@pytest.mark.parametrize(
    ("overrides", "sweeper"),
    [
        ([], None),
        ([], {}),
        (["objective=val_loss"], OPTUNA | {"direction": "minimize"}),
        (["objective=val_loss"], OPTUNA | {"optim": {"maximize": False}}),
        (["objective=val_loss"], OPTUNA | AX),
        (["objective=test_psnr", "data.test_data=a.tif"], OPTUNA | {"direction": "maximize"}),
    ],
)
def test_what_is_named_is_taken(overrides, sweeper):
    check(*overrides, sweeper=sweeper)


def test_a_sweeper_of_unknown_direction_is_left_to_the_user(capsys):
    check("objective=val_psnr", sweeper=OPTUNA)
    said = "objective=val_psnr: make sure that your sweeper will maximize it.\n"
    assert capsys.readouterr().out == said
    check("objective=val_psnr", sweeper={})
    assert not capsys.readouterr().out


def test_a_training_returns_the_score_that_was_asked_for():
    scores = {"val_loss": 0.5, "psnr": 30.0}
    assert objective_of({"objective": "psnr"}, scores) == 30.0
    assert objective_of({"objective": None}, scores) is None
    with pytest.raises(DataError, match=r"no such score\. There are val_loss, psnr\."):
        objective_of({"objective": "pnsr"}, scores)
