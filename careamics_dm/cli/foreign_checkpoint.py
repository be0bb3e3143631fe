"""Checkpoints of CAREamics 0.3 in the layout of ours: weights, statistics and configuration."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from careamics_dm.cli.trust import check_plain, is_finite
from careamics_dm.errors import DataError
from careamics_dm.transforms.normalization import Affine

_ALGORITHM, _DATA = "hyper_parameters", "datamodule_hyper_parameters"
_OF_TRAINING = {"epoch", "global_step", "pytorch-lightning_version"}
_MODELS = {"n2v": "N2VModule", "care": "CAREModule", "n2n": "N2NModule"}
_FORMATS = {
    **{"array": "ArrayDataModule", "tiff": "TiffDataModule", "zarr": "ZarrDataModule"},
    **{"czi": "CziDataModule", "custom": "CustomDataModule"},
}
_METHODS = {
    "mean_std": ("MeanStd", "means", "stds"),
    "min_max": ("MinMax", "mins", "maxes"),
    "quantile": ("Quantile", "lower_quantile_values", "upper_quantile_values"),
    "none": ("NoNormalization", "", ""),
}
"""Per normalisation of CAREamics: our class, and how its statistics are called."""
_ADDED = {"mean_std": 1e-6, "min_max": 1e-8, "quantile": 1e-8}
"""What CAREamics adds to a standard deviation or a range before it divides by it."""
_YES_NO = (False, True)
_BLOCK = re.compile(
    r"model\.(?:encoder\.encoder_blocks\.(?P<down>\d?[02468])|decoder\.bottleneck|"
    r"decoder\.decoder_blocks\.(?P<up>\d?[13579]))"
    r"\.(?P<layer>conv|batch_norm)(?P<n>[12])\.(?P<what>\w+)"
)
"""A weight in its U-Net, which numbers pooling and upsampling like blocks."""


def is_careamics(content: Any) -> bool:
    """Whether the content of a checkpoint was written by CAREamics."""
    settings = content.get(_ALGORITHM) if isinstance(content, dict) else None
    return isinstance(settings, dict) and "algorithm_config" in settings


def as_ours(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint of CAREamics as a ``model.ckpt`` of ours holds it.

    Raises a DataError for settings that our U-Net, models and normalisations do not have.
    """
    for name in (_ALGORITHM, _DATA):
        check_plain(content.get(name), path)
    algorithm = _Settings(content[_ALGORITHM], _ALGORITHM, path).part("algorithm_config")
    data = _Settings(content.get(_DATA), _DATA, path).part("data_config")
    model, network = _model(algorithm), algorithm.part("model")
    config = {"model": model, "data": _data(data, network.one("conv_dims", (2, 3)))}
    counts = {"image": network.values["in_channels"]}
    if algorithm.values["algorithm"] != "n2v":
        counts["target"] = network.values["num_classes"]
    norm = data.part("normalization")
    weights: Any = content.get("state_dict")
    statistics = {side: _statistics(norm, side, n) for side, n in counts.items()}
    _check_size(network, weights)
    return {name: content[name] for name in _OF_TRAINING & content.keys()} | {
        "careamics_dm": config,
        "state_dict": _named_as_ours(weights, network.values["use_batch_norm"]),
        "PatchDataModule": {
            "statistics": {side: one._asdict() for side, one in statistics.items() if one},
            "n_channels": counts["image"],
            "n_target_channels": counts.get("target"),
        },
    }


class _Settings:
    """Settings in a checkpoint of CAREamics, each of which is checked when it is read."""

    def __init__(self, values: Any, name: str, path: str | Path) -> None:
        self.values, self.name, self.path = values, name, path
        if type(values) is not dict:
            raise self.error("", "is missing: it is of another version than 0.3, or damaged")

    def part(self, name: str) -> "_Settings":
        """Return settings within these."""
        return _Settings(self.values.get(name), f"{self.name}.{name}", self.path)

    def one(self, name: str, allowed: Sequence[Any]) -> Any:
        """Return a setting that must have one of the allowed values."""
        value = self.values.get(name)
        if type(value) is not type(allowed[0]) or value not in allowed:
            choices = f"{allowed[0]} to {allowed[-1]}"
            if not isinstance(allowed, range):
                choices = ", ".join(map(str, allowed))
            raise self.error(name, f"is {str(value)[:80]}; careamics_dm can load: {choices}")
        return value

    def numbers(self, name: str) -> list[float]:
        """Return a setting that must be a finite number or a list of such."""
        value = self.values.get(name)
        found = value if type(value) is list else [value]
        if not found or not all(is_finite(x) for x in found):
            raise self.error(name, f"is {str(value)[:80]}; it must be finite numbers")
        return [float(x) for x in found]

    def error(self, name: str, why: str) -> DataError:
        """Make the error about a setting."""
        full = f"{self.name}.{name}".rstrip(".")
        return DataError(f"checkpoint: {self.path} was written by CAREamics, and its {full} {why}.")


def _model(algorithm: _Settings) -> dict[str, Any]:
    """Return the configuration of our model."""
    name = algorithm.one("algorithm", tuple(_MODELS))
    model = {
        "_target_": f"careamics_dm.{_MODELS[name]}",
        "_convert_": "all",
        "network": _network(algorithm.part("model")),
        "optimizer": _of_torch(
            "torch.optim", algorithm.part("optimizer"), ("Adam", "SGD", "Adamax", "AdamW")
        ),
        "scheduler": _of_torch(
            "torch.optim.lr_scheduler",
            algorithm.part("lr_scheduler"),
            ("ReduceLROnPlateau", "StepLR"),
        ),
    }
    if name != "n2v":
        return model | {"loss": algorithm.one("loss", ("mae", "mse"))}
    return model | {"masking": _masking(algorithm.part("n2v_config"))}


def _network(network: _Settings) -> dict[str, Any]:
    """Return the configuration of our U-Net; the data say its channels and dimensions."""
    network.one("architecture", ("UNet",))
    network.one("final_activation", ("None",))
    found = {
        "_target_": "careamics_dm.UNet",
        "_partial_": True,
        "depth": network.one("depth", range(1, 11)),
        "first_filters": network.one("num_channels_init", range(1, 1025)),
        "batch_norm": network.one("use_batch_norm", _YES_NO),
        "residual": network.one("residual", _YES_NO),
        "independent_channels": network.one("independent_channels", _YES_NO),
        "pool": [2] * network.one("conv_dims", (2, 3)),
        "n2v2": network.one("n2v2", _YES_NO),
        "blur_padding": "zeros",
    }
    channels = range(1, 2**16)
    same = network.one("in_channels", channels) == network.one("num_classes", channels)
    if found["residual"] and (found["n2v2"] or not same):
        raise network.error("residual", "is True, which careamics_dm can't do for this network")
    if found["independent_channels"] and not same:
        raise network.error("independent_channels", "is True, but channels in and out differ")
    return found


def _of_torch(module: str, settings: _Settings, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the configuration of an optimiser or scheduler of torch."""
    name = settings.one("name", names)
    parameters: dict[str, Any] = settings.part("parameters").values
    return parameters | {"_target_": f"{module}.{name}", "_partial_": True}


def _masking(masking: _Settings) -> dict[str, Any]:
    """Return the configuration of our masking."""
    found = {
        "_target_": "careamics_dm.Masking",
        "masked_pixel_percentage": masking.numbers("masked_pixel_percentage")[0],
        "roi_size": masking.one("roi_size", range(3, 22, 2)),
        "strategy": masking.one("strategy", ("uniform", "median")),
    }
    if masking.values.get("struct_mask") is None:
        return found
    struct = masking.part("struct_mask")
    kind = struct.one("axes", ("horizontal", "vertical", "cross", "square"))
    return found | {"struct_mask": kind, "struct_span": struct.one("span", range(3, 16, 2))}


def _data(data: _Settings, dims: int) -> dict[str, Any]:
    """Return the settings of our data modules."""
    norm = data.part("normalization")
    found = {name: data.values.get(name) for name in ("axes", "target_axes", "channels")}
    patch_size = data.part("patching").values.get("patch_size", [64] * dims)
    if type(patch_size) is not list or len(patch_size) != dims:
        raise data.error("patching.patch_size", f"is {str(patch_size)[:80]}, for {dims} dimensions")
    return found | {
        "_target_": f"careamics_dm.{_FORMATS[data.one('data_type', tuple(_FORMATS))]}",
        "patch_size": patch_size,
        "batch_size": data.values.get("batch_size"),
        "normalization": _normalization(norm),
        "normalize_target": norm.values.get("skip_target") is not True,
    }


def _normalization(norm: _Settings) -> dict[str, Any]:
    """Return the configuration of our normalisation."""
    name = norm.one("name", tuple(_METHODS))
    found: dict[str, Any] = {"_target_": f"careamics_dm.{_METHODS[name][0]}"}
    if name != "none":
        found["per_channel"] = norm.one("per_channel", _YES_NO)
    if name == "quantile":
        for ours, theirs in (("low", "lower_quantiles"), ("high", "upper_quantiles")):
            levels = norm.numbers(theirs)
            if len(set(levels)) > 1:
                raise norm.error(theirs, f"is {levels}; careamics_dm has one for all channels")
            found[ours] = levels[0]
    return found


def _statistics(norm: _Settings, side: str, n_channels: int) -> Affine | None:
    """Return the statistics of images or targets; None where targets have those of images."""
    name = norm.values["name"]
    if name == "none" or (side == "target" and norm.values.get("skip_target") is True):
        return Affine([0.0], [1.0])
    prefix = "input" if side == "image" else "target"
    low, high = (f"{prefix}_{what}" for what in _METHODS[name][1:])
    if side == "target" and norm.values.get(low) is norm.values.get(high) is None:
        return None
    offset, scale = norm.numbers(low), norm.numbers(high)
    if not len(offset) == len(scale) in (1, n_channels):
        found = f"{len(offset)} number(s) and {high} {len(scale)}"
        raise norm.error(low, f"has {found}, for {n_channels} channel(s)")
    if name != "mean_std":
        scale = [b - a for a, b in zip(offset, scale, strict=True)]
    return Affine(offset, [x + _ADDED[name] for x in scale])


def _check_size(network: _Settings, weights: Any) -> None:
    """Check the largest layer before anything of the size that the settings say is built."""
    depth, groups = network.values["depth"], 1
    if network.values["independent_channels"]:
        groups = network.values["in_channels"]
    name = f"model.encoder.encoder_blocks.{2 * depth - 2}.conv2.weight"
    weight = weights.get(name) if isinstance(weights, dict) else None
    width = network.values["num_channels_init"] * groups * 2 ** (depth - 1)
    if tuple(getattr(weight, "shape", ())[:1]) != (width,):
        raise network.error("", f"is not that of its weights ({name})")


def _named_as_ours(weights: dict[Any, Any], batch_norm: bool) -> dict[Any, Any]:
    """Return the weights by their names in our U-Net; it has none of layers that are not used."""
    found = {}
    for name, weight in weights.items():
        ours, match = name, _BLOCK.fullmatch(str(name))
        if match:
            if match["layer"] == "batch_norm" and not batch_norm:
                continue
            block = "bottom"
            for way in ("down", "up"):
                if match[way]:
                    block = f"{way}.{int(match[way]) // 2}"
            layer = (int(match["n"]) - 1) * (2 + batch_norm) + (match["layer"] == "batch_norm")
            ours = f"network.{block}.{layer}.{match['what']}"
        elif str(name).startswith("model.final_conv."):
            ours = str(name).replace("model.final_conv", "network.head", 1)
        found[ours] = weight
    return found
