"""What the three applications share: run folders, objects from configuration, plain errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextlib import chdir
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from careamics_dm.callbacks import LAST
from careamics_dm.cli.config_errors import (
    explain,
    explain_folder,
    left_out,
    mistyped_value,
    outdated,
    place,
)
from careamics_dm.cli.hydra_secrets import hide_in_files, hiding_output
from careamics_dm.cli.hydra_versions import BASE, HAS_WHITELIST
from careamics_dm.cli.sweep_hook import compare_begun
from careamics_dm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CONFIG = "pkg://careamics_dm.conf"
_FULL_ERROR = "HYDRA_FULL_ERROR"
_MAIN = BASE | ({"execution_whitelist": ["careamics_dm.*"]} if HAS_WHITELIST else {})
# What a user's configuration, data or machine can cause; anything else keeps its stack trace.
_USERS_FAULTS = (
    ValueError,
    OSError,
    ImportError,
    ArithmeticError,
    MemoryError,
    torch.OutOfMemoryError,
    HydraException,
    OmegaConfBaseException,
    MisconfigurationException,
)
_NEEDED = {
    "train": ("data", "model", "trainer", "writer"),
    "predict": ("data", "trainer", "writer"),
    "preview": ("data", "model"),
}
_NOISE = (
    "Checkpoint directory .* exists and is not empty",  # it is the folder of the run
    "Couldn't infer the batch indices",  # places travel in the batch
    "Total length of `list` across ranks is zero",  # n_val_patches=0
    "The dirpath has changed",  # a resumed run has a folder of its own
    "Be aware that when using `ckpt_path`, callbacks",  # of the training, when predicting
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 with torch 2.9 and later
)


class _Refused(BaseException):
    """A user's fault on its way out; not an Exception, or Hydra would print a part of it."""


def application(name: str) -> Callable[[Callable[[dict[str, Any], Path], Any]], Callable[[], Any]]:
    """Turn a function of ``(config, folder)`` into a Hydra application.

    The function gets the resolved configuration as plain containers, and the folder of the run.
    A mistake in configuration or data ends the program with one readable message;
    ``HYDRA_FULL_ERROR=1`` shows the stack trace instead. In a sweep the other jobs still run.

    Parameters
    ----------
    name : str
        Of the application and of its primary configuration.

    Returns
    -------
    callable
        A decorator.
    """

    def decorate(run: Callable[[dict[str, Any], Path], Any]) -> Callable[[], Any]:
        told: list[BaseException] = []

        @hydra.main(config_path=_CONFIG, config_name=name, **_MAIN)
        def job(config: DictConfig) -> Any:
            folder = Path(HydraConfig.get().runtime.output_dir)
            hide_in_files()
            try:
                plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
                assert isinstance(plain, dict)
                for key in _NEEDED[name]:
                    if plain.get(key) is None:
                        raise DataError(left_out(key))
                # Relative paths start where the program was started, whatever hydra.job.chdir is.
                with chdir(HydraConfig.get().runtime.cwd):
                    return run({str(key): value for key, value in plain.items()}, folder)
            except Exception as error:
                hint = mistyped_value(error)
                if not hint and not isinstance(error, _USERS_FAULTS) and not place(error):
                    raise
                if isinstance(error, BrokenPipeError):
                    raise
                if HydraConfig.get().mode != RunMode.MULTIRUN:
                    raise _Refused(hint or explain(error)) from error
                number = HydraConfig.get().job.num
                _tell(f"{name}, job {number} of the sweep", hint or explain(error))
                told.append(error)
                raise  # Hydra goes on with the next job
            except (KeyboardInterrupt, SystemExit) as stop:
                # Lightning turns the former into the latter, once everything is cleaned up.
                if not isinstance(stop.__context__ or stop, KeyboardInterrupt):
                    raise
                _tell(name, f"stopped from the keyboard.{_how_to_go_on(name, config, folder)}")
                sys.exit(130)

        @wraps(run)
        def main() -> Any:
            full = os.environ.get(_FULL_ERROR)
            os.environ[_FULL_ERROR] = "1"  # so that Hydra raises, and does not print, what it finds
            try:
                with warnings.catch_warnings():
                    for message in _NOISE:
                        warnings.filterwarnings("ignore", message)
                    try:
                        if advice := outdated(sys.argv[1:]):
                            raise _Refused(advice)
                        with hiding_output():
                            return job()
                    finally:
                        compare_begun()
            except _Refused as refused:
                if full == "1" and refused.__cause__ is not None:
                    raise refused.__cause__ from None
                _tell(name, str(refused), hint=True)
            except BrokenPipeError:
                raise
            except _USERS_FAULTS as error:
                if full == "1":
                    raise
                # Jobs of a sweep tell their own, so what else comes here happened in Hydra.
                if error in told:
                    pass
                elif isinstance(error, OSError) and not isinstance(error, HydraException):
                    _tell(name, explain_folder(error), hint=True)
                else:
                    _tell(name, explain(error), hint=True)
            finally:
                os.environ.pop(_FULL_ERROR)
                if full is not None:
                    os.environ[_FULL_ERROR] = full
            sys.exit(1)

        return main

    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertisement)
    return decorate


def build(config: dict[str, Any], key: str, **arguments: Any) -> Any:
    """Make the object that a part of a plain configuration describes; ``None`` stays ``None``."""
    part = config[key]
    if part is None:
        return None
    # What the user's own configuration names may be called, and nothing else.
    allowed = {"_execution_whitelist_": sorted(set(targets(part)))} if HAS_WHITELIST else {}
    # Under its key, which Hydra then names where something is wrong.
    return instantiate(OmegaConf.create({key: part})[key], **allowed, **arguments)


def targets(config: Any) -> Iterator[str]:
    """Yield every ``_target_`` in nested dicts and lists."""
    if isinstance(config, dict):
        if isinstance(config.get("_target_"), str):
            yield config["_target_"]
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from targets(value)


def suit_augmentation(config: dict[str, Any], model: Any) -> None:
    """Leave out quarter turns where a model does not allow them, unless the user chose them.

    Parameters
    ----------
    config : dict
        Of an application, as plain containers; changed in place.
    model : object
        Its ``quarter_turns``, if it has any, is whether patches may be turned.
    """
    chosen = any(key.split(".")[:2] == ["data", "augmentation"] for key in overridden())
    if not chosen and config["data"]["augmentation"] is True:
        if not getattr(model, "quarter_turns", True):
            config["data"]["augmentation"] = {
                "_target_": "careamics_dm.Augmentation",
                "_convert_": "all",
                "flip": "YX",
                "quarter_turns": False,
            }


def in_sweep() -> bool:
    """Whether this is a job of a sweep."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def overridden() -> set[str]:
    """Return the keys that the user set on the command line.

    Without ``+`` and ``~``; of a group, the key of which it sets the value.
    """
    keys = (text.split("=")[0].lstrip("+~") for text in HydraConfig.get().overrides.task)
    return {key.split("@")[-1].replace("/", ".") for key in keys}


def _how_to_go_on(name: str, config: DictConfig, folder: Path) -> str:
    """Say how to go on with a run that was stopped, if it has left something."""
    if name == "predict":
        where = "" if config.writer.folder else f"hydra.run.dir={folder} "
        return f" Continue with {where}writer.existing=skip"
    left = [path for path in (folder / LAST, folder / "model.ckpt") if path.exists()]
    return f" Continue with checkpoint={left[0]}" if left else ""


def _tell(name: str, message: str, *, hint: bool = False) -> None:
    print(f"\ncareamics-{name}: {message}", file=sys.stderr)
    if hint:
        print(f"({_FULL_ERROR}=1 shows the stack trace.)", file=sys.stderr)


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()
