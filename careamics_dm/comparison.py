"""Jobs of a sweep side by side: what each left behind, as a table and a picture.

Everything is read from files, so that it does not matter which process or machine ran a job.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from careamics_dm.panels import plot_comparison
from careamics_dm.tables import aligned, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Scores = dict[str, float]

JOBS = ".jobs"
"""Folder in that of a sweep where each job says what and where it is."""
SCORES = "scores.csv"
VIEW = Path(".hydra", "view.npz")
FOLD = "data.fold"
TITLE = 40
"""Letters in a line above a panel of the picture; more would run into the next panel."""
SHOWN = (
    *("job", "state", "train_loss", "val_loss", "val_psnr"),
    *("psnr_noisy", "psnr", "si_psnr", "ssim", "test_loss", "test_psnr", "test_ssim", "seconds"),
)
"""Columns that are printed, besides what tells jobs apart; the file has all."""


@dataclass
class Job:
    """A job of a sweep."""

    number: int
    overrides: dict[str, str]
    """What the command line says of it."""
    folder: Path
    state: str = "unfinished"
    """"done", "failed" or "unfinished"."""
    scores: Scores = field(default_factory=dict)


def write_scores(path: Path, scores: Mapping[str, float]) -> None:
    """Write the scores of a run as a table with one row.

    Parameters
    ----------
    path : Path
        CSV.
    scores : mapping of str to float
        By name.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(scores))
        writer.writeheader()
        writer.writerow(dict(scores))


def note_job(sweep: Path, job: Job) -> None:
    """Leave a note about a job in the folder of its sweep; the note before is replaced.

    Parameters
    ----------
    sweep : Path
        Folder of the sweep.
    job : Job
        Scores are not noted: they are in the job's folder.
    """
    note = {
        "number": job.number,
        "overrides": job.overrides,
        "folder": str(job.folder),
        "state": job.state,
    }
    (sweep / JOBS).mkdir(parents=True, exist_ok=True)
    (sweep / JOBS / f"{job.number}.json").write_text(json.dumps(note), encoding="utf-8")


def forget_jobs(sweep: Path) -> None:
    """Remove the notes of an earlier sweep in the same folder."""
    for path in (sweep / JOBS).glob("*.json"):
        path.unlink()


def read_jobs(sweep: Path) -> list[Job]:
    """Read what jobs left behind.

    Parameters
    ----------
    sweep : Path
        Folder of the sweep.

    Returns
    -------
    list of Job
        By number, with their scores.
    """
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
        The table as text, and where the files are; empty if no job has begun.
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
    with (sweep / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, restval="")
        writer.writeheader()
        writer.writerows([*rows, *means])
    shown = [name for name in header if name in keys or name in SHOWN]
    said = [_text(rows, means, shown), f"comparison       {sweep / 'comparison.csv'}"]
    scenes, titles = read_views(jobs, keys)
    if scenes:
        plot_comparison(scenes, sweep / "comparison.png", titles=titles)
        said.append(f"picture          {sweep / 'comparison.png'}")
    return "\n".join(said)


def differing(jobs: Sequence[Job]) -> list[str]:
    """List the keys whose values are not the same in all jobs; of a lone job, all keys."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.overrides))
    if len(jobs) == 1:
        return keys
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def over_folds(jobs: Sequence[Job], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Give mean and standard deviation of each score over the folds of otherwise equal jobs.

    Parameters
    ----------
    jobs : sequence of Job
        Those without scores don't count.
    keys : sequence of str
        Of the table.

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
        common = [name for name in group[0].scores if all(name in job.scores for job in group)]
        numbers = np.array([[job.scores[name] for name in common] for job in group])
        if len(group) > 1:
            same = dict(zip(others, values, strict=True))
            for label, result in (
                ("mean", numbers.mean(axis=0)),
                ("standard deviation", numbers.std(axis=0, ddof=1)),
            ):
                rows.append({"job": label} | same | dict(zip(common, result.tolist(), strict=True)))
    return rows


def read_views(
    jobs: Sequence[Job], keys: Sequence[str]
) -> tuple[list[dict[str, NDArray[Any]]], dict[str, str]]:
    """Read what jobs show, those of the same image together.

    Parameters
    ----------
    jobs : sequence of Job
        Those without a view are left out.
    keys : sequence of str
        What tells jobs apart.

    Returns
    -------
    scenes : list of dict of str to ndarray
        "noisy", a plane under the number of each job, and "clean" where it is known.
    titles : dict of str to str
        By number.
    """
    scenes: list[dict[str, NDArray[Any]]] = []
    titles: dict[str, str] = {}
    for job in jobs:
        if job.state != "done" or not (job.folder / VIEW).exists():
            continue
        with np.load(job.folder / VIEW) as planes:
            view = dict(planes)
        for scene in scenes:
            if np.array_equal(scene["noisy"], view["noisy"], equal_nan=True):
                break
        else:
            scenes.append(scene := {"noisy": view["noisy"]})
            if "psnr_noisy" in job.scores:
                titles["noisy"] = f"noisy\n{job.scores['psnr_noisy']:.2f} dB"
        scene[str(job.number)] = view["denoised"]
        if "clean" in view:
            scene["clean"] = scene.pop("clean", view["clean"])  # last
        titles[str(job.number)] = _title(job, keys)
    if len(scenes) > 1:  # of several images, each with a noise of its own
        titles.pop("noisy", None)
    return scenes, titles


def _title(job: Job, keys: Sequence[str]) -> str:
    settings = [
        f"{key.rsplit('.', 1)[-1]}={job.overrides[key]}" for key in keys if key in job.overrides
    ]
    decibels = [f"{job.scores['psnr']:.2f} dB"] if "psnr" in job.scores else []
    said = ", ".join(settings[:3]) or f"job {job.number}"
    return "\n".join([*wrap(said, TITLE, max_lines=3, placeholder=" ..."), *decibels])


def _text(
    rows: Sequence[Mapping[str, Any]], means: Sequence[Mapping[str, Any]], header: Sequence[str]
) -> str:
    """Align the table; mean and standard deviation are one row here."""
    shown = [[number(row.get(name)) for name in header] for row in rows]
    for mean, deviation in zip(means[::2], means[1::2], strict=True):
        line = []
        for name in header:
            value = mean.get(name)
            spread = f" ± {number(deviation[name])}" if isinstance(value, float) else ""
            line.append(number(value) + spread)
        shown.append(line)
    return aligned(header, shown)
