"""The jobs of a sweep side by side, as a table and a picture.

Everything is read from files, so it does not matter which process or machine ran a job.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from numpy.typing import NDArray
from omegaconf import DictConfig

from careamics_dm.cli.secrets import hide
from careamics_dm.evaluation.text_table import align, format_number, write_csv

NOTES = ".jobs"
"""Folder inside that of a sweep with a note about each job."""
SCORES = "scores.csv"
PLANES = Path(".hydra", "planes.npz")
"""What a job leaves in its folder for the comparison."""
FOLD = "data.fold"
TITLE = 40
"""Letters per line above a panel of the picture; more would run into the next panel."""
PRINTED = (
    *("job", "state", "train_loss", "val_loss", "val_psnr"),
    *("psnr_noisy", "psnr", "si_psnr", "ssim", "test_loss", "test_psnr", "test_ssim", "seconds"),
)
"""Columns that are printed, besides those in which jobs differ; the file has all columns."""
_begun: list[Path] = []
"""Folders of sweeps that this process has begun and not compared: Hydra says that a sweep has ended
only if no job failed."""


@dataclass
class Job:
    """A job of a sweep: its overrides from the command line, its folder and what became of it."""

    number: int
    overrides: dict[str, str]
    folder: Path
    state: str = "unfinished"
    """"done", "failed" or "unfinished"."""
    scores: dict[str, float] = field(default_factory=dict)


class CompareJobs(Callback):
    """Note what becomes of each job of a sweep, and compare them when all have ended.

    Hydra calls it. Jobs may run in other processes, which share the folder of the sweep.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remove the notes of an earlier sweep in the same folder."""
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        for path in (folder / NOTES).glob("*.json"):
            path.unlink()
        _begun.append(folder)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note that a job has begun."""
        _note_state(config, "unfinished")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Note how a job has ended."""
        _note_state(config, "done" if job_return.status == JobStatus.COMPLETED else "failed")


def compare_begun() -> None:
    """Compare the jobs of the sweeps that this process has begun, however they ended."""
    while _begun:
        if text := compare(_begun.pop()):
            print(f"\n{text}")


def note_job(sweep: Path, job: Job) -> None:
    """Write a note about a job into the folder of its sweep; scores are in the job's own."""
    note = json.dumps(asdict(job) | {"folder": str(job.folder)})
    (sweep / NOTES).mkdir(parents=True, exist_ok=True)
    (sweep / NOTES / f"{job.number}.json").write_text(note, encoding="utf-8")


def read_jobs(sweep: Path) -> list[Job]:
    """Read the jobs in the folder of a sweep, by number, with their scores."""
    notes = [json.loads(path.read_text("utf-8")) for path in (sweep / NOTES).glob("*.json")]
    jobs = [Job(**note | {"folder": Path(note["folder"])}) for note in notes]
    for job in jobs:
        if job.state == "done":
            job.scores = read_scores(job.folder)
    return sorted(jobs, key=lambda job: job.number)


def read_scores(folder: Path) -> dict[str, float]:
    """Read what a run has scored; empty if it has not ended."""
    if not (folder / SCORES).exists():
        return {}
    with (folder / SCORES).open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    return {name: float(value) for name, value in row.items()}


def compare(sweep: Path) -> str:
    """Write ``comparison.csv`` and ``comparison.png`` of a sweep.

    Returns the table as text, and where the files are; empty if no job has started.
    """
    jobs = read_jobs(sweep)
    if not jobs:
        return ""
    keys = differing(jobs)
    names = list(dict.fromkeys(name for job in jobs for name in job.scores))
    header = ["job", *keys, *names, "state", "folder"]
    rows = [
        {"job": str(job.number), "state": job.state, "folder": str(job.folder)}
        | {key: job.overrides.get(key, "") for key in keys}
        | job.scores
        for job in jobs
    ]
    means = over_folds(jobs, keys)
    write_csv(sweep / "comparison.csv", header, [*rows, *means])
    printed = [name for name in header if name in keys or name in PRINTED]
    lines = [_text(rows, means, printed), f"comparison       {sweep / 'comparison.csv'}"]
    scenes, titles = read_scenes(jobs, keys)
    if scenes:
        from careamics_dm.evaluation.comparison_plot import plot_comparison  # late: imports torch

        plot_comparison(scenes, sweep / "comparison.png", titles=titles)
        lines.append(f"picture          {sweep / 'comparison.png'}")
    return "\n".join(lines)


def differing(jobs: Sequence[Job]) -> list[str]:
    """List the keys whose values differ between jobs; of a single job, all keys."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.overrides))
    found = {key: {job.overrides.get(key) for job in jobs} for key in keys}
    return [key for key in keys if len(found[key]) > 1 or len(jobs) == 1]


def over_folds(jobs: Sequence[Job], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Compute mean and standard deviation of each score over the folds of otherwise equal jobs.

    For each group of at least two jobs that differ in ``data.fold`` alone, of all ``keys``, there
    is a row with "job" "mean", and one with "standard deviation" (of the sample, with n - 1).
    """
    if FOLD not in keys:
        return []
    others = [key for key in keys if key != FOLD]
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        if job.scores:
            groups.setdefault(tuple(job.overrides.get(k, "") for k in others), []).append(job)
    rows = []
    for values, group in groups.items():
        if len(group) > 1:
            same = dict(zip(others, values, strict=True))
            common = [name for name in group[0].scores if all(name in job.scores for job in group)]
            numbers = {name: np.array([job.scores[name] for job in group]) for name in common}
            mean = {name: float(n.mean()) for name, n in numbers.items()}
            deviation = {name: float(n.std(ddof=1)) for name, n in numbers.items()}
            rows += [{"job": "mean"} | same | mean]
            rows += [{"job": "standard deviation"} | same | deviation]
    return rows


def read_scenes(
    jobs: Sequence[Job], keys: Sequence[str]
) -> tuple[list[dict[str, NDArray[Any]]], dict[str, str]]:
    """Read the planes ``Y X`` that jobs restored; those of the same image form a scene.

    A scene has "noisy", the restored plane by the number of each job, and "clean" where there is
    one. Also returns the titles of these panels.
    """
    scenes: dict[Any, dict[str, NDArray[Any]]] = {}
    titles: dict[str, str] = {}
    for job in jobs:
        if job.state != "done" or not (job.folder / PLANES).exists():
            continue
        with np.load(job.folder / PLANES) as saved:
            planes = dict(saved)
        noisy = planes["noisy"]
        scene = scenes.setdefault((noisy.shape, noisy.tobytes()), {"noisy": noisy})
        scene[str(job.number)] = planes["denoised"]
        if "clean" in planes:
            scene["clean"] = scene.pop("clean", planes["clean"])  # last
        titles[str(job.number)] = _title(job, keys)
        if "psnr_noisy" in job.scores:
            titles["noisy"] = f"noisy\n{job.scores['psnr_noisy']:.2f} dB"
    if len(scenes) > 1:  # several images, each with its own noise
        titles.pop("noisy", None)
    return list(scenes.values()), titles


def _note_state(config: DictConfig, state: str) -> None:
    """Note a job of a sweep, as Hydra has configured it."""
    if config.hydra.mode != RunMode.MULTIRUN:
        return
    settings = HydraConfig.get()
    pairs = [text.lstrip("+").partition("=") for text in hide(list(settings.overrides.task))]
    overrides = {key: value for key, _, value in pairs}
    job = Job(int(settings.job.num), overrides, Path(settings.runtime.output_dir), state)
    note_job(Path(settings.runtime.cwd, str(settings.sweep.dir)), job)


def _title(job: Job, keys: Sequence[str]) -> str:
    settings = [
        f"{key.rsplit('.', 1)[-1]}={job.overrides[key]}" for key in keys if key in job.overrides
    ]
    decibels = [f"{job.scores['psnr']:.2f} dB"] if "psnr" in job.scores else []
    text = ", ".join(settings[:3]) or f"job {job.number}"
    return "\n".join([*wrap(text, TITLE, max_lines=3, placeholder=" ..."), *decibels])


def _text(
    rows: Sequence[Mapping[str, Any]], means: Sequence[Mapping[str, Any]], header: Sequence[str]
) -> str:
    """Write the table as text, with mean and standard deviation in one row."""
    lines = [[format_number(row.get(name)) for name in header] for row in rows]
    for mean, deviation in zip(means[::2], means[1::2], strict=True):
        spread = {n: f" ± {format_number(v)}" for n, v in deviation.items() if type(v) is float}
        lines.append([format_number(mean.get(name)) + spread.get(name, "") for name in header])
    return align(header, lines)
