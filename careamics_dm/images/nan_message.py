"""What is said of a pixel that has no valid number."""

from collections.abc import Sequence
from typing import Any


def nan_message(source: str, value: Any, sample: int, channel: int, where: Sequence[int]) -> str:
    """Say where a NaN or infinity is, and what can be done about it."""
    return (
        f"{source}: {value} at sample {sample}, channel {channel}, "
        f"{'ZYX'[-len(where) :]}={tuple(where)}. Correct the file, or set nan_policy to zero (NaN "
        "and infinity become 0) or skip (such patches are replaced by others)."
    )
