"""Checkpoints in the layout that CAREamics 0.3.5 writes, with the weights of a small U-Net."""

from __future__ import annotations

import re
from typing import Any

import torch

from careamics_dm import UNet

OPTIMIZER = {"name": "Adam", "parameters": {"lr": 0.002, "betas": [0.9, 0.99]}}
SCHEDULER = {"name": "ReduceLROnPlateau", "parameters": {"patience": 3}}
MASKING = {
    "name": "N2VManipulate",
    "roi_size": 5,
    "masked_pixel_percentage": 1.0,
    "strategy": "uniform",
    "struct_mask": None,
    "seed": 3,
}
NETWORK = {
    "architecture": "UNet",
    "conv_dims": 2,
    "num_classes": 1,
    "in_channels": 1,
    "depth": 2,
    "num_channels_init": 2,
    "residual": False,
    "final_activation": "None",
    "n2v2": False,
    "independent_channels": False,
    "use_batch_norm": True,
}
MEAN_STD = {
    "name": "mean_std",
    "per_channel": True,
    "skip_target": False,
    "input_means": [100.0],
    "input_stds": [20.0],
    "target_means": None,
    "target_stds": None,
}


def unet(network: dict[str, Any]) -> UNet:
    """Make the network that settings of CAREamics describe, with weights unlike fresh ones."""
    torch.manual_seed(0)
    made = UNet(
        network["in_channels"],
        network["num_classes"],
        dims=network["conv_dims"],
        depth=network["depth"],
        first_filters=network["num_channels_init"],
        batch_norm=network["use_batch_norm"],
        residual=network["residual"],
        independent_channels=network["independent_channels"],
        n2v2=network["n2v2"],
        blur_padding="zeros",
    )
    for name, buffer in made.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return made.eval()


def their_name(ours: str, batch_norm: bool) -> str:
    """Name a weight of our U-Net as CAREamics does."""
    if ours.startswith("head."):
        return ours.replace("head", "model.final_conv")
    block, layer, what = re.fullmatch(r"(.+)\.(\d+)\.(\w+)", ours).groups()
    way, _, number = block.partition(".")
    place = {
        "down": f"encoder.encoder_blocks.{2 * int(number or 0)}",
        "up": f"decoder.decoder_blocks.{2 * int(number or 0) + 1}",
        "bottom": "decoder.bottleneck",
    }[way]
    layers = ["conv1", "batch_norm1", "", "conv2", "batch_norm2"]
    layers = layers if batch_norm else ["conv1", "", "conv2"]
    return f"model.{place}.{layers[int(layer)]}.{what}"


def content(algorithm: str = "n2v", **settings: Any) -> dict[str, Any]:
    """Make what a checkpoint holds; settings of the network and the data replace the usual ones."""
    network = NETWORK | {k: v for k, v in settings.items() if k in NETWORK}
    data = {
        "mode": "training",
        "data_type": "array",
        "axes": "ZYX" if network["conv_dims"] == 3 else "YX",
        "target_axes": None,
        "patching": {"name": "stratified", "patch_size": [16] * network["conv_dims"], "seed": 3},
        "normalization": MEAN_STD,
        "batch_size": 8,
        "channels": None,
    } | {k: v for k, v in settings.items() if k not in NETWORK}
    model = {"algorithm": algorithm, "model": network, "loss": "mae"}
    if algorithm == "n2v":
        masking = MASKING | {"strategy": "median" if network["n2v2"] else "uniform"}
        model |= {"loss": "n2v", "n2v_config": masking, "monitor_metric": "val_loss"}
    weights = {
        their_name(name, network["use_batch_norm"]): weight
        for name, weight in unet(network).state_dict().items()
    }
    if not network["use_batch_norm"]:
        # It has them in any case, and does not use them.
        names = [n for n in weights if n.endswith("conv1.bias")]
        weights |= {n.replace("conv1", "batch_norm1"): torch.ones(2) for n in names}
    return {
        "epoch": 4,
        "global_step": 12,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": weights,
        "loops": {},
        "callbacks": {},
        "optimizer_states": [{}],
        "lr_schedulers": [{}],
        "hparams_name": None,
        "hyper_parameters": {
            "algorithm_config": model | {"optimizer": OPTIMIZER, "lr_scheduler": SCHEDULER}
        },
        "datamodule_hyper_parameters": {"data_config": data},
        "careamics_info": {"version": "0.3.0", "experiment_name": "test", "training_config": {}},
    }
