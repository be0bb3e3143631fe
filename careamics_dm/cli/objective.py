"""What a training returns to a sweeper that looks for the best settings."""

from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from careamics_dm.cli.application import in_sweep
from careamics_dm.errors import DataError
from careamics_dm.sources.data_warnings import say

OF_TRUTH = ("psnr", "si_psnr", "ssim")
_DIRECTIONS: dict[str, dict[str, str | bool]] = {
    "direction": {"maximize": "maximize", "minimize": "minimize"},  # of Optuna
    "optim.maximize": {"maximize": True, "minimize": False},  # of Nevergrad
    "ax_config.experiment.minimize": {"maximize": False, "minimize": True},
    "ax_config.early_stop.minimize": {"maximize": False, "minimize": True},
}
"""Settings by which sweepers are told whether they look for the largest or the smallest value."""
_BASIC = "BasicSweeper"
"""The sweeper of Hydra that tries all combinations, whatever comes of them."""


def check_objective(config: dict[str, Any]) -> None:
    """Refuse an objective that there will be no score for, or that is optimised the wrong way."""
    name, data, sweeper = config["objective"], config["data"], HydraConfig.get().sweeper
    if name is None:
        if in_sweep() and not str(sweeper["_target_"]).endswith(_BASIC):
            raise DataError(
                "objective is needed, as this sweeper looks for the best settings: objective=psnr "
                "or ssim compares with truth=FILE, test_psnr with data.test_target, and val_loss "
                "or val_psnr with the targets of validation. (The loss of Noise2Void compares with "
                "noisy pixels: with a lower one, images need not be better.)"
            )
        return
    lacking = ""
    if name in OF_TRUTH and config["truth"] is None:
        lacking = "truth=FILE, the clean version of the first image of data.predict_data"
    elif str(name).startswith("test_") and data["test_data"] is None:
        lacking = "data.test_data and data.test_target"
    elif str(name).startswith("val_") and data["n_val_patches"] == 0:
        lacking = "validation data, but data.n_val_patches=0"
    if lacking:
        raise DataError(f"objective={name} needs {lacking}.")
    if in_sweep():
        _check_direction(str(name), sweeper)


def _check_direction(name: str, sweeper: DictConfig) -> None:
    """Refuse a sweeper that looks for the worst settings; say so if that is not known."""
    is_basic = str(sweeper["_target_"]).endswith(_BASIC)
    better = "maximize" if any(score in name for score in ("psnr", "ssim")) else "minimize"
    given = {key: OmegaConf.select(sweeper, key) for key in _DIRECTIONS}
    found = {k: getattr(v, "name", v) for k, v in given.items() if v is not None}
    for key, value in found.items():
        if value != (right := _DIRECTIONS[key][better]):
            raise DataError(f"objective={name} goes with hydra.sweeper.{key}={str(right).lower()}.")
    if not found and not is_basic:
        say(f"objective={name}: make sure that your sweeper will {better} it.")


def objective_of(config: dict[str, Any], scores: dict[str, float]) -> float | None:
    """Return the score that was asked for; None if none was."""
    name = config["objective"]
    if name is not None and name not in scores:
        raise DataError(
            f"objective={name}: there is no such score. There are {', '.join(scores) or 'none'}."
        )
    return None if name is None else scores[name]
