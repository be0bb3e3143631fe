"""``trainer.precision=auto``: the number format that a processor computes with natively."""

from collections.abc import Mapping
from typing import Any, Literal

import torch

BFLOAT16 = {"cpu": ("avx512_bf16", "amx_bf16", "sve_bf16"), "cuda": ("bf16",)}
"""What processors that multiply in bfloat16 say of themselves; others are slower in it."""


def native_precision(accelerator: str) -> Literal["bf16-mixed", "32-true"]:
    """Return the precision for what Lightning takes for an accelerator ("auto", "gpu", ...)."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = device_of(accelerator, **there)
    if device == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return precision_of(device, {"bf16": bf16})
    # Before torch 2.11, a CPU can't be asked.
    ask = getattr(torch.cpu, "get_capabilities", dict)
    return precision_of(device, ask())


def device_of(accelerator: str, *, cuda: bool, mps: bool) -> str:
    """Return which kind of device Lightning chooses, by which ones there are."""
    if accelerator in ("auto", "gpu"):
        return "cuda" if cuda else "mps" if mps else "cpu"
    return accelerator


def precision_of(device: str, capabilities: Mapping[str, Any]) -> Literal["bf16-mixed", "32-true"]:
    """Return the precision for a kind of device with such capabilities."""
    native = any(capabilities.get(name) for name in BFLOAT16.get(device, ()))
    return "bf16-mixed" if native else "32-true"
