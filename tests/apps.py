"""The applications, run in this process as from a shell; importing torch again costs seconds."""

from __future__ import annotations

import io
import multiprocessing
import os
import runpy
import signal
import sys
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import resources
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import numpy as np
import pytest
import tifffile

from careamics_dm.cli import commands

if TYPE_CHECKING:
    from collections.abc import Iterator

CONF = Path(str(resources.files("careamics_dm.conf")))
WHITELIST = "execution_whitelist" in signature(hydra.main).parameters
BASE = {} if WHITELIST else {"version_base": "1.3"}
"""Arguments by which another program asks Hydra 1.3 or 1.4 for its present behaviour."""

ALLOWED = {"_execution_whitelist_": ["careamics_dm.*", "torch.*"]} if WHITELIST else {}
"""Arguments of `instantiate` that say what a configuration may name."""


def compose(name: str, *overrides: str, **options: Any) -> Any:
    """Compose a configuration of ours: an application, or a part such as "data/tiff" alone."""
    with hydra.initialize_config_module("careamics_dm.conf", **BASE):
        return hydra.compose(name, list(overrides), **options)


SMALL = (
    "trainer.max_epochs=1",
    "+trainer.enable_progress_bar=false",
    "model.network.depth=1",
    "model.network.first_filters=4",
    "data.patch_size=[16,16]",
    "data.n_val_patches=2",
    "data.patches_per_epoch=16",
)
"""A model that learns nothing, in a moment."""
SMALL_3D = (*SMALL, "data.patch_size=[4,16,16]")


@dataclass
class Run:
    """What a program left behind: its exit code, what it printed, and its folder."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def files(self) -> set[str]:
        """Files in the folder of the run, without Hydra's own."""
        names = {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}
        return {name for name in names if not name.startswith(".hydra")}


def run(app: str, cwd: Path, *arguments: str, folder: str | None = "run") -> Run:
    """Run ``careamics-APP`` in a folder; its own folder is ``run`` unless said otherwise."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    flags = [text for text in arguments if text.startswith("-")]
    overrides = [] if folder is None else [f"hydra.run.dir={folder}"]
    # Tests that run twice mean the second; that this is refused has a test of its own.
    overrides += ["overwrite=true"] if app == "train" else []
    overrides += [text for text in arguments if text not in flags]
    with pytest.MonkeyPatch.context() as patch, chdir(cwd):
        patch.setattr("sys.argv", [f"careamics-{app}", *flags, *overrides])
        for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # seed_everything sets them
            patch.setenv(name, os.environ.get(name, "0"))
        with redirect_stdout(out), redirect_stderr(err):
            try:
                getattr(commands, app)()
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return Run(code, out.getvalue(), err.getvalue(), cwd / (folder or "outputs"))


def succeed(app: str, cwd: Path, *arguments: str, folder: str | None = "run") -> Run:
    """Run it, and insist that it ends well."""
    done = run(app, cwd, *arguments, folder=folder)
    assert done.code == 0, done.err
    return done


def refuse(app: str, cwd: Path, *arguments: str) -> str:
    """Run it, and insist on one message without a stack trace; return that message."""
    done = run(app, cwd, *arguments)
    assert done.code == 1
    before, found, message = done.err.partition(f"careamics-{app}: ")
    assert found and "Traceback" not in done.err and "Error executing" not in before
    assert f"careamics-{app}: " not in message
    message, found, after = message.partition("\n(HYDRA_FULL_ERROR=1 shows the stack trace.)\n")
    assert found and not after
    return message


def _become(
    program: str, arguments: tuple[str, ...], cwd: Path, environment: dict[str, str]
) -> None:
    """Run a Python program as `__main__`; what it prints goes to files in its folder."""
    # Processes in the background ignore Ctrl+C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.update(environment)
    for number, name in ((1, "stdout"), (2, "stderr")):  # pipes would fill up
        with Path(name).open("w") as file:
            os.dup2(file.fileno(), number)
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")


@contextmanager
def started(program: str | Path, cwd: Path, *arguments: str, **environment: str) -> Iterator[Any]:
    """Run a program, or an installed command, in a process that need not import Lightning again."""
    if isinstance(program, str):
        program = Path(sys.executable).parent / f"careamics-{program}"
    process = multiprocessing.get_context("forkserver").Process(
        target=_become, args=(str(program), arguments, cwd, environment)
    )
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def ended(program: str | Path, cwd: Path, *arguments: str, **environment: str) -> Run:
    """Run it to its end."""
    with started(program, cwd, *arguments, **environment) as process:
        process.join()
        code = process.exitcode
    out, err = ((cwd / name).read_text("utf-8") for name in ("stdout", "stderr"))
    return Run(-1 if code is None else code, out, err, cwd)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(200, shape).astype(np.uint16)


def write_tiffs(
    folder: Path, axes: str, shapes: list[tuple[int, ...]], name: str = "image_{}.tif"
) -> list[Path]:
    """Write noise as TIFFs that say their axes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name.format(i) for i in range(len(shapes))]
    for i, (path, shape) in enumerate(zip(paths, shapes, strict=True)):
        tifffile.imwrite(path, noise(shape, i), metadata={"axes": axes}, photometric="minisblack")
    return paths
