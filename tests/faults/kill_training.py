"""Kill trainings at random moments, go on as they say, and compare the weights with a whole run.

By hand, from the project's folder: ``python tests/faults/kill_training.py [TIMES]``. It prints a
line for each of Noise2Void and CARE, with 0 and 2 workers, TIMES (10) times, and ends with 1 if
weights differ in any bit.
"""

from __future__ import annotations

import os
import pkgutil
import random
import re
import shlex
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import tifffile
import torch

import careamics_dm
from careamics_dm.cli import commands

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SETTINGS = (
    "data=tiff data.train_data=noisy data.patch_size=[16,16] data.batch_size=4 "
    "data.patches_per_epoch=48 data.n_val_patches=4 model.network.depth=1 "
    "model.network.first_filters=4 trainer.max_epochs=12 +trainer.enable_progress_bar=false"
).split()
MODELS = {"n2v": ["model=n2v"], "care": ["model=care", "data.train_target=clean"]}


def start(arguments: list[str], log: Path) -> int:
    """Start ``careamics-train`` in a child, which has everything imported; return its number."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["careamics-train", *arguments]
    code = 0
    try:
        commands.train()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        code = 99
    sys.stdout.flush()
    os._exit(code)


def end(child: int) -> int:
    """Wait for a child and its worker processes; return its exit code, or minus its signal."""
    _, status = os.waitpid(child, 0)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return os.waitstatus_to_exitcode(status)


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Weights in the checkpoints of a run that is done, by file."""
    found = {}
    for name in ("model.ckpt", "last.ckpt"):
        if (folder / name).exists():
            content = torch.load(folder / name, weights_only=True)
            found[name] = content["state_dict"]
    return found


def training_time(folder: Path) -> float:
    """Seconds from the end of set-up to the last checkpoint of a run."""
    begins, ends = ((folder / name).stat().st_mtime for name in ("split.csv", "model.ckpt"))
    return max(ends - begins, 1.0)


def next_command(folder: Path, arguments: list[str], log: Path) -> tuple[str, list[str]]:
    """Return how to go on: as was printed, else as the README says, else from the beginning."""
    if hint := re.search(r"careamics-train (.*checkpoint=.*)", log.read_text(errors="replace")):
        return "hint", shlex.split(hint[1])
    for name in ("last.ckpt", "model.ckpt"):
        if (folder / name).exists():
            own = [f"checkpoint={folder / name}", f"hydra.run.dir={folder}"]
            return f"README, {name}", [*own, "+trainer.enable_progress_bar=false"]
    return "from the beginning", [*arguments, "overwrite=true"]


def same(found: dict[str, dict[str, torch.Tensor]], whole: dict[str, dict[str, torch.Tensor]]):
    """Whether the checkpoints that both runs have, one at least, hold equal weights."""
    both = found.keys() & whole.keys()
    return "model.ckpt" in both and all(
        torch.equal(found[name][key], weight)
        for name in both
        for key, weight in whole[name].items()
    )


def main(times: int) -> bool:
    torch.set_num_threads(1)
    modules = pkgutil.walk_packages(careamics_dm.__path__, "careamics_dm.")
    for name in ("matplotlib.pyplot", *(module.name for module in modules)):
        if not name.endswith("__main__"):
            import_module(name)  # once, for all children
    os.environ["OMP_NUM_THREADS"] = "1"
    chance, all_same = random.Random(0), True
    os.chdir(tempfile.mkdtemp())
    rng = np.random.default_rng(0)
    clean = 200 + 100 * np.sin(np.arange(64) / 5)[:, None] * np.cos(np.arange(72) / 6)
    for name, image in {"noisy": rng.poisson(clean), "clean": clean}.items():
        Path(name).mkdir()
        tifffile.imwrite(f"{name}/a.tif", image.astype(np.uint16), metadata={"axes": "YX"})
    for (model, more), workers in ((m, w) for m in MODELS.items() for w in (0, 2)):
        shared = [*SETTINGS, *more, f"data.num_workers={workers}"]
        code = end(start([*shared, "hydra.run.dir=whole", "overwrite=true"], Path("log")))
        assert code == 0, Path("log").read_text()
        seconds = training_time(Path("whole"))
        whole = weights(Path("whole"))
        for i in range(times):
            number = SIGNALS[i % len(SIGNALS)]
            folder, log = Path(f"{model}_{workers}_{i}"), Path("log")
            arguments = [*shared, f"hydra.run.dir={folder}"]
            child = start(arguments, log)
            while not (folder / "split.csv").exists():
                time.sleep(0.01)
            wait = chance.uniform(0, 1) * seconds
            time.sleep(wait)
            os.kill(child, number)
            code, how = end(child), "done before"
            if code != 0:
                how, arguments = next_command(folder, arguments, log)
                again = end(start(arguments, log))
                assert again == 0, log.read_text()
                said = log.read_text()
                found = re.search(r"^model +(.+)/model.ckpt$", said, re.MULTILINE)
                assert found or "nothing left to do" in said, said
                folder = Path(found[1]) if found else folder
            equal = same(weights(folder), whole)
            all_same &= equal
            verdict = "bit-equal" if equal else "DIFFERENT"
            name = signal.Signals(number).name
            print(f"{model:<5} {workers} workers  {name:<8} after {wait:4.1f} of {seconds:4.1f} s: "
                  f"exit {code:>4}, {how:<22} {verdict}")  # fmt: skip
    return all_same


if __name__ == "__main__":
    sys.exit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
