"""The precision that trainer.precision=auto stands for."""

import pytest

from careamics_dm.cli.application import build
from careamics_dm.cli.precision import device_of, native_precision, precision_of


@pytest.mark.parametrize(
    ("accelerator", "cuda", "mps", "device"),
    [
        ("auto", True, False, "cuda"),
        ("auto", False, True, "mps"),
        ("auto", False, False, "cpu"),
        ("gpu", True, False, "cuda"),
        ("gpu", False, True, "mps"),
        ("cpu", True, True, "cpu"),
    ],
)
def test_the_device_is_the_one_that_lightning_takes(accelerator, cuda, mps, device):
    assert device_of(accelerator, cuda=cuda, mps=mps) == device


@pytest.mark.parametrize(
    ("device", "capabilities", "precision"),
    [
        ("cpu", {"avx2": True, "avx512_f": True, "avx512_bf16": False}, "32-true"),
        ("cpu", {"avx512_bf16": True}, "bf16-mixed"),
        ("cpu", {"amx_bf16": True, "avx512_bf16": False}, "bf16-mixed"),
        ("cpu", {"neon": True, "sve_bf16": True}, "bf16-mixed"),
        ("cpu", {"neon": True, "bf16": True}, "32-true"),  # Apple: torch has no fast kernels there
        ("cpu", {}, "32-true"),
        ("cuda", {"bf16": True}, "bf16-mixed"),
        ("cuda", {"bf16": False}, "32-true"),
        ("mps", {"bf16": True}, "32-true"),
        ("tpu", {}, "32-true"),
    ],
)
def test_bfloat16_only_where_it_is_native(device, capabilities, precision):
    assert precision_of(device, capabilities) == precision


def test_auto_is_replaced_when_a_trainer_is_built():
    config = {"_target_": "lightning.Trainer", "accelerator": "cpu", "precision": "auto"}
    quiet = {"logger": False, "enable_checkpointing": False}
    assert build({"trainer": config | quiet}, "trainer").precision == native_precision("cpu")
    assert config["precision"] == "auto"  # as checkpoints hold it
