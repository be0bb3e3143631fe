"""What the four commands share: run folders, objects from configuration, plain errors."""

import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, chdir, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from careamics_dm.callbacks.cluster_signals import LAST, OF_SCHEDULERS
from careamics_dm.cli import BASE, HAS_WHITELIST
from careamics_dm.cli.config_errors import explain, left_out, outdated
from careamics_dm.cli.distributed_run import join_others, one_job, requeue
from careamics_dm.cli.given_paths import check_given_paths
from careamics_dm.cli.secrets import hide_in_files, hiding_output
from careamics_dm.cli.sweep import compare_begun
from careamics_dm.errors import DataError
from careamics_dm.images import argument_checks as check

_FULL_ERROR, NOT_ASKED = "HYDRA_FULL_ERROR", "CAREAMICS_DM_NO_TRACE"
"""Whether Hydra raises errors, and whether that is our wish alone, not the user's."""
_MAIN = BASE | ({"execution_whitelist": ["careamics_dm.*"]} if HAS_WHITELIST else {})
_NEEDED = {
    "train": ("data", "model", "trainer", "writer"),
    "predict": ("data", "trainer", "writer"),
    "preview": ("data", "model"),
    "export": (),
}
_COUNTS = (
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "num_nodes", "log_every_n_steps"),
    *("accumulate_grad_batches", "check_val_every_n_epoch"),
)
"""Settings of the trainer that are whole numbers; Lightning does not look at all of them."""
_SHORT_LIVED = ("_spawn", "_fork", "_notebook")
"""How strategies are called that start processes anew for each of fit, test and predict."""
_NOISE = (
    "Couldn't infer the batch indices",  # places travel in the batch
    "Total length of `list` across ranks is zero",  # n_val_patches=0
    ".* but local rank has zero length",  # a process without a block to predict
    "Checkpoint directory .* exists and is not empty",  # it is the folder of the run
    "Experiment logs directory .* exists and is not empty",  # of a run that goes on in its folder
    "Be aware that when using `ckpt_path`, callbacks",  # of the training, when predicting
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 with torch 2.9 and later
)


_SMALL_TALK = (
    *("Tip:", "graceful shutdown", "GPU available", "TPU available", "`max_epochs="),
    "SLURM auto-requeueing enabled",  # ours requeues
    *("Restoring states from", "Loaded model weights from", "Restored all states from"),
)
"""What Lightning says where our commands say what matters."""


for _name in ("utilities.rank_zero", "trainer.connectors.signal_connector"):
    logging.getLogger(f"lightning.pytorch.{_name}").addFilter(
        lambda record: not any(text in record.getMessage() for text in _SMALL_TALK)
    )
for _name in ("pytorch", "fabric"):
    # As Lightning does if it is imported before Hydra sets up logging, after which it would leave
    # its messages to Hydra, for each to be printed with the time.
    _logger = logging.getLogger(f"lightning.{_name}")
    if not _logger.handlers:
        _logger.addHandler(logging.StreamHandler())
        _logger.propagate = False


class _Refused(BaseException):
    """A user's fault on its way out; not an Exception, or Hydra would print a part of it."""


def start(name: str) -> Any:
    """Run a command as a Hydra application: its ``main`` of a plain configuration and a folder.

    Its module, and with it torch, is imported once the paths on the command line have been found.

    A mistake in configuration or data ends the program with one readable message;
    ``HYDRA_FULL_ERROR=1`` shows the stack trace instead. In a sweep the other jobs still run.
    """
    reported: list[BaseException] = []

    @hydra.main(config_path="pkg://careamics_dm.conf", config_name=name, **_MAIN)
    def job(config: DictConfig) -> Any:
        folder = Path(HydraConfig.get().runtime.output_dir)
        run: Callable[[dict[str, Any], Path], Any] | None = None
        hide_in_files()
        try:
            plain = _plain(config, name)
            # Relative paths start where the program was started, whatever hydra.job.chdir is.
            with chdir(HydraConfig.get().runtime.cwd):
                check_given_paths(name, plain, overridden())
                run = _import_main(name)
                with _one_job(folder), _without_noise():
                    return run(plain, folder)
        except Exception as error:
            message = explain(error, in_job=True)
            if message is None:
                raise
            if not in_sweep():
                raise _Refused(message) from error
            _report(f"{name}, job {HydraConfig.get().job.num} of the sweep", message)
            reported.append(error)
            raise  # Hydra goes on with the next job
        except (KeyboardInterrupt, SystemExit) as stop:
            # Lightning turns the former into the latter, once everything is cleaned up.
            request = stop if isinstance(stop, KeyboardInterrupt) else stop.__context__
            if run is None or not isinstance(request, KeyboardInterrupt):
                raise
            from lightning.pytorch.utilities import rank_zero_only  # late: by now it is there

            for number in (signal.SIGINT, *OF_SCHEDULERS):
                signal.signal(number, signal.SIG_IGN)  # it ends already
            by = signal.Signals(next(iter(request.args), signal.SIGINT))
            why = "stopped from the keyboard" if by == signal.SIGINT else f"ended by {by.name}"
            again = "" if by in (signal.SIGINT, signal.SIGTERM) else rank_zero_only(requeue)()
            rank_zero_only(_report)(name, f"{why}.{again}{_how_to_go_on(name, config, folder)}")
            sys.exit(128 + by)

    with _hydra_raises() as asked_for_trace, _signals_raise():
        try:
            return _run_and_compare(job)
        except _Refused as refused:
            if asked_for_trace and refused.__cause__ is not None:
                raise refused.__cause__ from None
            _report(name, str(refused), hint=True)
        except Exception as error:
            # Jobs of a sweep report their own, so what else comes here happened in Hydra.
            message = "" if error in reported else explain(error, in_job=False)
            if message is None or asked_for_trace:
                raise
            _report(name, message, hint=True)
    sys.exit(1)


def _import_main(name: str) -> Callable[[dict[str, Any], Path], Any]:
    """Import a command, and with it torch and Lightning.

    Meanwhile the garbage collector is paused: it would scan their modules again and again, for a
    sixth of the time.
    """
    rests = gc.isenabled() and "torch" not in sys.modules
    if rests:
        gc.disable()
    try:
        main: Callable[[dict[str, Any], Path], Any]
        main = import_module(f"careamics_dm.cli.{name}").main
        return main
    finally:
        if rests:
            gc.freeze()  # modules stay
            gc.enable()


def build(config: dict[str, Any], key: str, **arguments: Any) -> Any:
    """Make the object that a part of a plain configuration describes; ``None`` stays ``None``."""
    part = config[key]
    if part is None:
        return None
    for name in _COUNTS if key == "trainer" else ():
        check.number(f"trainer.{name}", part.get(name), -1, optional=True)
    strategy = str(part.get("strategy")) if key == "trainer" else ""
    if strategy.endswith(_SHORT_LIVED):
        raise DataError(
            f"trainer.strategy={strategy}: its processes end before the results are drawn and "
            "scored. Set trainer.strategy=ddp."
        )
    if key == "trainer" and part.get("precision") == "auto":
        from careamics_dm.cli.precision import native_precision  # late: imports torch

        part = part | {"precision": native_precision(part.get("accelerator", "auto"))}
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


def in_sweep() -> bool:
    """Whether this is a job of a sweep."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _one_job(folder: Path) -> AbstractContextManager[None]:
    settings = HydraConfig.get().overrides
    given = [*(text for text in settings.hydra if "hydra.mode" not in text), *settings.task]
    return one_job(given, str(folder)) if in_sweep() else nullcontext()


def overridden() -> set[str]:
    """Return the keys that the user set on the command line.

    Without ``+`` and ``~``; of a group, the key of which it sets the value.
    """
    keys = (text.split("=")[0].lstrip("+~") for text in HydraConfig.get().overrides.task)
    return {key.split("@")[-1].replace("/", ".") for key in keys}


def _plain(config: DictConfig, name: str) -> dict[str, Any]:
    """Resolve the configuration of an application, which needs some of its groups."""
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    for key in _NEEDED[name]:
        if plain.get(key) is None:
            raise DataError(left_out(key))
    return {str(key): value for key, value in plain.items()}


@contextmanager
def _without_noise() -> Iterator[None]:
    """Leave out warnings that mean nothing here; a launcher may run a job in another process."""
    with warnings.catch_warnings():
        for noise in _NOISE:
            warnings.filterwarnings("ignore", noise)
        yield


@contextmanager
def _hydra_raises() -> Iterator[bool]:
    """Let Hydra raise what it finds and not print it; yield whether users want a stack trace."""
    before = {name: os.environ.get(name) for name in (_FULL_ERROR, NOT_ASKED)}
    # Processes that Lightning starts for the other ranks inherit both.
    asked = before[_FULL_ERROR] == "1" and before[NOT_ASKED] is None
    os.environ[_FULL_ERROR] = "1"
    if not asked:
        os.environ[NOT_ASKED] = "1"
    try:
        yield asked
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let signals of schedulers raise what Ctrl+C does, until that has ended the application."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    before = {number: signal.signal(number, interrupt) for number in OF_SCHEDULERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is interrupt:
                signal.signal(number, handler)


def _run_and_compare(job: Callable[[], Any]) -> Any:
    """Run one job or a sweep, which ends with a comparison."""
    try:
        if advice := outdated(sys.argv[1:]):
            raise _Refused(advice)
        join_others()
        with hiding_output():
            return job()
    finally:
        compare_begun()


def _how_to_go_on(name: str, config: DictConfig, folder: Path) -> str:
    """Say how to go on with a run that was stopped, if it has left something."""
    if name == "predict":
        where = "" if config.writer.folder else f"hydra.run.dir={folder} "
        return f" Continue with {where}writer.existing=skip"
    left = [path for path in (folder / LAST, folder / "model.ckpt") if path.exists()]
    if not left:
        return ""
    from careamics_dm.cli.trust import to_trust  # late: imports torch

    needed = ",".join(sorted(to_trust(OmegaConf.to_container(config))))
    trusted = f" 'trusted=[{needed}]'" if needed else ""
    return f" Continue with careamics-train checkpoint={left[0]}{trusted}"


def _report(name: str, message: str, *, hint: bool = False) -> None:
    if not message:
        return
    print(f"\ncareamics-{name}: {message}", file=sys.stderr)
    if hint:
        print(f"({_FULL_ERROR}=1 shows the stack trace.)", file=sys.stderr)
