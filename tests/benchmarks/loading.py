"""Speed of loading: ``python tests/benchmarks/loading.py [--careamics PYTHON] [--rounds 5]``.

For each workload, patches per second into the training loop: float32, normalised, flipped and
turned, as modules get them, the start of each pass included. Each side runs in a process of its
own, and the sides take turns, so that a noisy moment hits both: trust the ratios. On a machine
that others use too, ``--threads 1`` is steadier: torch's threads wait for each other, and so for
whoever has the other core. A pass of CAREamics is cut after 3 seconds. Also the time from the end
of set-up to the first batch, and the most memory over what the imports took (arrays and mapped
files count). Medians [worst-best].

*Decoded* is bytes of stored blocks that were decoded per byte of patches that were delivered, in
one epoch of streaming with a pool of a quarter of the data: at most 1.3.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from side import Side
from workloads import MEAN, STD, WORKLOADS, Images, Workload

SECONDS = {"ours": 1.0, "CAREamics": 3.0}


def main() -> None:
    """Run the workloads and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--careamics", metavar="PYTHON", help="an interpreter that has it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch, on both sides")
    parser.add_argument("--only", metavar="NAME", nargs="+", help="workloads, say W1 W2b")
    options = parser.parse_args()
    names = ["ours"] + (["CAREamics"] if options.careamics else [])
    print("| work | goal | ratio | decoded |", end="")
    for name in names:
        print(f" {name}, patches/s | first batch, s | peak, MiB |", end="")
    print("\n|" + "---|" * (4 + 3 * len(names)))
    images = Images()
    for workload in WORKLOADS:
        if not options.only or workload.name in options.only:
            with tempfile.TemporaryDirectory() as folder:
                paths = workload.write(Path(folder), images)
                print(row(workload, paths, options), flush=True)


def row(workload: Workload, paths: list[str], options: argparse.Namespace) -> str:
    """Measure a workload and format its row."""
    sides = {"ours": Side("ours_side.py", threads=options.threads)}
    if options.careamics:
        python = options.careamics
        sides["CAREamics"] = Side("careamics_side.py", python, threads=options.threads)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    first: dict[str, float] = {}
    how = {
        "kind": workload.kind,
        "paths": paths,
        "axes": workload.axes,
        "patch_size": workload.patch_size,
        "batch_size": workload.batch_size,
        "mean": MEAN,
        "std": STD,
    }
    own = how | {"options": workload.options}
    for name, side in sides.items():
        side.ask("open", **(own | {"pool_mib": workload.pool_mib} if name == "ours" else how))
    for _ in range(options.rounds):
        for name, side in sides.items():
            found = side.ask("passes", seconds=SECONDS[name])
            first.setdefault(name, found["first"])
            rates[name].append(found["patches"] / found["seconds"])
    cells = []
    for name, side in sides.items():
        cells += [spread(rates[name]), f"{first[name]:.3f}"]
        cells += [f"{side.ask('memory')['over_imports']:.0f}"]
    read = sides["ours"].ask("decoded", **own, pool_mib=workload.mib // 4)
    for side in sides.values():
        side.close()
    ratio = "-"
    if options.careamics:
        pairs = zip(rates["ours"], rates["CAREamics"], strict=True)
        ratio = f"{median(a / b for a, b in pairs):.1f}"
    decoded = "-" if read is None else f"{read:.2f}"
    columns = [f"{workload.name} {workload.title}", f"{workload.goal:g}", ratio, decoded, *cells]
    return f"| {' | '.join(columns)} |"


def spread(values: list[float]) -> str:
    """Median [worst-best], three digits."""
    return f"{digits(median(values))} [{digits(min(values))}-{digits(max(values))}]"


def digits(value: float) -> str:
    """Three digits and thousands separators."""
    return f"{float(f'{value:.3g}'):,.0f}"


if __name__ == "__main__":
    main()
