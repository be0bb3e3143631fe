"""Speed of blind-spot masking: ``python tests/benchmarks/masking.py``.

The goals are what CAREamics 0.3.5 reaches for uniform and median in 2-D, and twenty times what it
reaches for the median in 3-D, on two cores.
"""

from __future__ import annotations

import time
from statistics import median

import torch

from careamics_dm.models.masking import Masking

ROUNDS = 15
SECONDS = 0.1

CASES = {
    "uniform, 64 of 1x64x64": (Masking(masked_pixel_percentage=0.2), (64, 1, 64, 64), 66_000),
    "median, 64 of 1x64x64": (
        Masking(masked_pixel_percentage=0.2, strategy="median"),
        (64, 1, 64, 64),
        24_000,
    ),
    "median, 8 of 1x16x64x64": (
        Masking(masked_pixel_percentage=0.2, strategy="median"),
        (8, 1, 16, 64, 64),
        2_640,
    ),
}


def patches_per_second(masking: Masking, x: torch.Tensor) -> float:
    """Mask the same batch for a while."""
    start, batches = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        masking(x)
        batches += 1
    return batches * len(x) / (time.perf_counter() - start)


def main() -> None:
    """Alternate between the cases, so that a noisy moment hits all, and print the medians."""
    inputs = {name: torch.randn(shape) for name, (_, shape, _) in CASES.items()}
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, (masking, _, _) in CASES.items():
            rates[name].append(patches_per_second(masking, inputs[name]))
    print(f"{'patches/s':24} {'median':>9} {'worst':>9} {'best':>9} {'goal':>9} {'ratio':>6}")
    for name, found in rates.items():
        middle, goal = median(found), CASES[name][2]
        print(
            f"{name:24} {middle:9,.0f} {min(found):9,.0f} {max(found):9,.0f} {goal:9,} "
            f"{middle / goal:6.1f}"
        )


if __name__ == "__main__":
    main()
