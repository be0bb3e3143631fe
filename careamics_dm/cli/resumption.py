"""What a training takes from a checkpoint: all, to go on with it, or weights to start from."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig

from careamics_dm.callbacks.cluster_signals import LAST
from careamics_dm.cli.application import overridden, targets
from careamics_dm.cli.distributed_run import is_restarted
from careamics_dm.cli.secrets import SECRET
from careamics_dm.cli.trust import OF_RUNS, check_config
from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.errors import DataError
from careamics_dm.sources.data_warnings import say
from careamics_dm.transforms.normalization import Affine

OF_SET_UP = ("config.yaml", "split.csv")
"""Files that a training writes before it trains."""
RESULTS = (
    *("model.ckpt", LAST, "scores.csv", "losses.png", "denoised.png"),
    *("test.csv", "test.png", "pictures", "logs", "denoised"),
)
"""Files and folders that it leaves in its folder."""
AUTO = "auto"
"""The checkpoint of a run that goes on if its folder has one, and else begins."""
_OF_ONE_RUN = {"checkpoint", "weights", "statistics", "trusted", "overwrite"}
_OF_ONE_PLACE = {"save_dir", "dirpath", "folder", "default_root_dir", SECRET}
"""Where a run writes, and keys, which no file holds."""
_SPLIT = ("n_val_patches", "hold_out", "n_folds", "fold")
_OF_WEIGHTS = ("patch_size", "normalization", "normalize_target")
"""Settings of the data that go with weights: they say how images reach the network."""


def find_checkpoint(config: dict[str, Any], folder: Path) -> bool:
    """Name the checkpoint in the folder of a run, where ``checkpoint=auto`` asks for it.

    A run that a scheduler starts again asks for it, too. Return whether the run then goes on.
    """
    asked, restarted = config["checkpoint"], is_restarted()
    if asked == AUTO and config["overwrite"] is True:
        raise DataError("checkpoint=auto goes on, overwrite=true begins anew. Leave one out.")
    if asked != AUTO and not restarted:
        return False
    found = [str(path) for name in (LAST, "model.ckpt") if (path := folder / name).exists()]
    if found or asked == AUTO:
        config["checkpoint"] = found[0] if found else None
    if found:
        config |= {"weights": None, "statistics": "new"}  # from which the run has begun
    return bool(found)


def resume(
    config: dict[str, Any], content: dict[str, Any], *, same_command: bool = False
) -> dict[str, Any]:
    """Return the configuration of a checkpoint, with what the user gives for this run.

    ``same_command`` says that it is what the run began with, so that all of it may be given.

    Tells what differs. Raises a DataError for what can't be changed in a run that goes on.
    """
    given, trained = overridden(), content["config"]
    if same_command:
        given.discard("experiment")
    if not content["resumable"]:
        raise DataError(
            f"checkpoint: {config['checkpoint']} holds a model, but no run of careamics-train that "
            f"could go on. Begin a new one with its weights: weights={config['checkpoint']}"
        )
    if "experiment" in given:
        raise DataError(
            "experiment: a resumed run has the settings of its checkpoint. Leave it out, and give "
            "single settings that are to differ."
        )
    former = str(trained["data"].get("_target_")).rpartition(".")[2]
    if "data" in given and config["data"]["_target_"].rpartition(".")[2] != former:
        raise DataError(
            f"data: the run of the checkpoint reads its images with {former}, and a resumed run "
            f"does, too. Leave data out, or begin a new run: weights={config['checkpoint']}"
        )
    given.discard("data")
    merged = _merged(config, trained, given, config["checkpoint"])
    changed = list(_changes(merged, content["config"], given))
    for key, now, before in changed:
        if key.removeprefix("data.") in _SPLIT:
            raise DataError(
                f"{key}={now}: the run of the checkpoint had {before}, and a resumed run keeps "
                f"its validation data. Leave {key} out, or begin a new run: "
                f"weights={config['checkpoint']}"
            )
    but = "".join(f"\n  {key}={now} (there: {before})" for key, now, before in changed)
    say(f"resuming {config['checkpoint']} with its data and settings{', except' * bool(but)}{but}")
    return merged


def nothing_left(config: dict[str, Any], content: dict[str, Any]) -> str:
    """Say that a checkpoint has been trained for as long as asked; empty if it has not."""
    for name, done in (("max_epochs", content["epochs"]), ("max_steps", content["steps"])):
        limit = config["trainer"].get(name)
        if isinstance(limit, int) and 0 <= limit <= done:
            return (
                f"nothing left to do: {config['checkpoint']} has been trained for {done} "
                f"{name[4:]}, and trainer.{name}={limit}. Give a larger trainer.{name} to go on; "
                "careamics-predict applies the model."
            )
    return ""


def start_from(config: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the model of a checkpoint, and what goes with its weights."""
    if config["statistics"] not in ("new", "weights"):
        raise DataError(f"statistics={config['statistics']!r}: choose new or weights.")
    trained, given = content["config"], overridden() - {"data"}
    if config["statistics"] == "weights" and any(key.startswith("data.norm") for key in given):
        raise DataError("statistics=weights goes without data.normalization: leave one out.")
    data = {key: trained["data"][key] for key in _OF_WEIGHTS if key in trained["data"]}
    say(f"starting from the weights of {config['weights']}")
    return _merged(config, {"model": trained["model"], "data": data}, given, config["weights"])


class StartFrom(L.Callback):
    """Give a model the weights of a checkpoint before it trains or predicts."""

    def __init__(self, weights: dict[str, Any]) -> None:
        self.weights = weights

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Load them; called by Lightning once the network is built."""
        pl_module.load_state_dict(self.weights)

    on_predict_start = on_fit_start


def use_statistics(data: PatchDataModule, content: dict[str, Any]) -> None:
    """Let data be normalised as those that the weights were trained with."""
    data.statistics = {k: Affine(**v) for k, v in content["data"]["statistics"].items()}


def claim(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a folder with the results of another training, or remove them if that is asked for.

    A run that goes on in the folder of its checkpoint keeps them.
    """
    if not isinstance(config["overwrite"], bool):
        raise DataError(f"overwrite={config['overwrite']!r}: give true or false.")
    found = [path for name in (*RESULTS, *OF_SET_UP) if (path := folder / name).exists()]
    checkpoint = config["checkpoint"]
    if checkpoint and Path(checkpoint).expanduser().resolve().parent == folder.resolve():
        log = folder / "logs" / "metrics.csv"
        if log.exists():  # Lightning's logger would delete it
            n = len(list(log.parent.glob("metrics*.csv")))
            log.rename(log.with_name(f"metrics_of_part_{n}.csv"))
        (folder / "scores.csv").unlink(missing_ok=True)  # it says that a run has ended
    elif found and not config["overwrite"]:
        raise DataError(
            f"{folder} has the results of another training ({found[0].name}). Choose another "
            "folder with hydra.run.dir=FOLDER, go on with that training with "
            f"checkpoint={folder / 'model.ckpt'}, or replace its results with overwrite=true."
        )
    else:
        for path in found:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def give_back(folder: Path) -> None:
    """Remove what a run has written that failed before it had results: its folder is free again."""
    for name in RESULTS:
        with suppress(OSError):  # what is no folder, or not empty
            (folder / name).rmdir()  # it was made to see whether it can be written to
    if not any((folder / name).exists() for name in RESULTS):
        for name in OF_SET_UP:
            (folder / name).unlink(missing_ok=True)


def _merged(
    config: dict[str, Any], trained: dict[str, Any], given: set[str], path: str
) -> dict[str, Any]:
    """Put the settings of a checkpoint, checked, in place of those that the user has not given."""
    restored = _pruned(trained, given | _OF_ONE_RUN)
    trusted = [*config["trusted"], *targets(config), *OF_RUNS]
    return _overlaid(config, check_config(restored, trusted, path), given)


def _pruned(trained: Any, given: set[str], place: str = "") -> Any:
    if not isinstance(trained, dict):
        return trained
    return {
        key: None if key in _OF_ONE_PLACE else _pruned(value, given, f"{place}{key}.")
        for key, value in trained.items()
        if f"{place}{key}" not in given
    }


def _overlaid(
    config: dict[str, Any], restored: dict[str, Any], given: set[str], place: str = ""
) -> dict[str, Any]:
    """Add to restored settings what was given, and what the restored ones do not have at all."""
    found: dict[str, Any] = {}
    for key in config | restored:
        path, ours, theirs = f"{place}{key}", config.get(key), restored.get(key)
        below = any(one.startswith(f"{path}.") for one in given)
        if isinstance(ours, dict) and isinstance(theirs, dict) and (below or path == "data"):
            found[key] = _overlaid(ours, theirs, given, f"{path}.")
        elif key in config and (path in given or below or key in _OF_ONE_PLACE):
            found[key] = ours
        elif key in restored:
            found[key] = theirs
        elif place in ("", "data."):  # of a later version than the checkpoint
            found[key] = ours
    return found


def _changes(
    config: dict[str, Any], trained: dict[str, Any], given: set[str]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield what was given and differs from a checkpoint: key, value and former value."""
    choices = HydraConfig.get().runtime.choices
    for key in sorted(given - _OF_ONE_RUN - set(choices)):
        now, before = _look_up(config, key), _look_up(trained, key)
        if now != before and key.split(".")[-1] not in _OF_ONE_PLACE:
            yield key, now, before


def _look_up(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config
