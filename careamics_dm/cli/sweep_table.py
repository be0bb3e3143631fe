"""The jobs of a sweep side by side, as a table and a picture.

Everything is read from files, so it does not matter which process or machine ran a job.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.evaluation.comparison_plot import plot_comparison
from careamics_dm.evaluation.text_table import align, format_number, write_csv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Scores = dict[str, float]

JOBS = ".jobs"
"""Folder inside that of a sweep with a note about each job."""
SCORES = "scores.csv"
VIEW = Path(".hydra", "view.npz")
FOLD = "data.fold"
TITLE = 40
"""Letters per line above a panel of the picture; more would run into the next panel."""
SHOWN = (
    *("job", "state", "train_loss", "val_loss", "val_psnr"),
    *("psnr_noisy", "psnr", "si_psnr", "ssim", "test_loss", "test_psnr", "test_ssim", "seconds"),
)
"""Columns that are printed, besides those in which jobs differ; the file has all columns."""


@dataclass
class Job:
    """A job of a sweep."""

    number: int
    overrides: dict[str, str]
    """From the command line."""
    folder: Path
    state: str = "unfinished"
    """"done", "failed" or "unfinished"."""
    scores: Scores = field(default_factory=dict)


def write_scores(path: Path, scores: Mapping[str, float]) -> None:
    """Write the scores of a run, by name, as a CSV table with one row."""
    write_csv(path, list(scores), [scores])


def note_job(sweep: Path, job: Job) -> None:
    """Write a note about a job into the folder of its sweep, replacing an earlier one.

    Scores are not part of it: they are in the job's folder.
    """
    note = {name: getattr(job, name) for name in ("number", "overrides", "state")}
    note["folder"] = str(job.folder)
    (sweep / JOBS).mkdir(parents=True, exist_ok=True)
    (sweep / JOBS / f"{job.number}.json").write_text(json.dumps(note), encoding="utf-8")


def forget_jobs(sweep: Path) -> None:
    """Remove the notes of an earlier sweep in the same folder."""
    for path in (sweep / JOBS).glob("*.json"):
        path.unlink()


def read_jobs(sweep: Path) -> list[Job]:
    """Read the jobs in the folder of a sweep, by number, with their scores."""
    notes = [json.loads(path.read_text("utf-8")) for path in (sweep / JOBS).glob("*.json")]
    jobs = [Job(**note | {"folder": Path(note["folder"])}) for note in notes]
    for job in jobs:
        if job.state == "done" and (job.folder / SCORES).exists():
            with (job.folder / SCORES).open(newline="", encoding="utf-8") as file:
                row = next(csv.DictReader(file))
            job.scores = {name: float(value) for name, value in row.items()}
    return sorted(jobs, key=lambda job: job.number)


def compare(sweep: Path) -> str:
    """Write ``comparison.csv`` and ``comparison.png`` of a sweep.

    Parameters
    ----------
    sweep : Path
        Folder of the sweep.

    Returns
    -------
    str
        The table as text, and where the files are; empty if no job has started.
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
    shown = [name for name in header if name in keys or name in SHOWN]
    lines = [_text(rows, means, shown), f"comparison       {sweep / 'comparison.csv'}"]
    scenes, titles = read_scenes(jobs, keys)
    if scenes:
        plot_comparison(scenes, sweep / "comparison.png", titles=titles)
        lines.append(f"picture          {sweep / 'comparison.png'}")
    return "\n".join(lines)


def differing(jobs: Sequence[Job]) -> list[str]:
    """List the keys whose values differ between jobs; of a single job, all keys."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.overrides))
    if len(jobs) == 1:
        return keys
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def over_folds(jobs: Sequence[Job], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Compute mean and standard deviation of each score over the folds of otherwise equal jobs.

    Parameters
    ----------
    jobs : sequence of Job
        Those without scores don't count.
    keys : sequence of str
        The overrides in which jobs differ.

    Returns
    -------
    list of dict
        For each group of at least two jobs that differ in ``data.fold`` alone a row with "job"
        "mean", and one with "standard deviation" (of the sample, with n - 1).
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
        if len(group) == 1:
            continue
        same = dict(zip(others, values, strict=True))
        common = [name for name in group[0].scores if all(name in job.scores for job in group)]
        numbers = np.array([[job.scores[name] for name in common] for job in group])
        mean, deviation = numbers.mean(axis=0), numbers.std(axis=0, ddof=1)
        for label, result in (("mean", mean), ("standard deviation", deviation)):
            rows.append({"job": label} | same | dict(zip(common, result.tolist(), strict=True)))
    return rows


def read_scenes(
    jobs: Sequence[Job], keys: Sequence[str]
) -> tuple[list[dict[str, NDArray[Any]]], dict[str, str]]:
    """Read the images that jobs restored; those of the same image form a scene.

    Parameters
    ----------
    jobs : sequence of Job
        Those that saved no image are left out.
    keys : sequence of str
        The overrides in which jobs differ.

    Returns
    -------
    scenes : list of dict of str to ndarray
        "noisy", the restored plane by the number of each job, and "clean" where there is one.
    titles : dict of str to str
        By name of the image.
    """
    scenes: list[dict[str, NDArray[Any]]] = []
    titles: dict[str, str] = {}
    for job in jobs:
        if job.state != "done" or not (job.folder / VIEW).exists():
            continue
        with np.load(job.folder / VIEW) as saved:
            planes = dict(saved)
        for scene in scenes:
            if np.array_equal(scene["noisy"], planes["noisy"], equal_nan=True):
                break
        else:
            scenes.append(scene := {"noisy": planes["noisy"]})
            if "psnr_noisy" in job.scores:
                titles["noisy"] = f"noisy\n{job.scores['psnr_noisy']:.2f} dB"
        scene[str(job.number)] = planes["denoised"]
        if "clean" in planes:
            scene["clean"] = scene.pop("clean", planes["clean"])  # last
        titles[str(job.number)] = _title(job, keys)
    if len(scenes) > 1:  # several images, each with its own noise
        titles.pop("noisy", None)
    return scenes, titles


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
    shown = [[format_number(row.get(name)) for name in header] for row in rows]
    for mean, deviation in zip(means[::2], means[1::2], strict=True):
        line = []
        for name in header:
            value = mean.get(name)
            spread = f" ± {format_number(deviation[name])}" if isinstance(value, float) else ""
            line.append(format_number(value) + spread)
        shown.append(line)
    return align(header, shown)
