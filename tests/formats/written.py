"""The same pixels in every format, and DataModules for them as configuration makes them."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from apps import compose
from formats.czi_files import Tile, write_czi
from formats.zarr_files import write_array
from hydra.utils import instantiate
from omegaconf import OmegaConf

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONF = Path(str(resources.files("careamics_dm.conf")))
FORMATS = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
SUFFIX = {"array": ".npy", "custom": ".npy", "tiff": ".tif", "czi": ".czi", "zarr": ".zarr"}
OWN = {"custom": {"read_func": {"_target_": "hydra.utils.get_method", "path": "numpy.load"}}}
OWN["custom"]["extension"] = ".npy"


def axes_of(pixels: NDArray[Any]) -> str:
    return "SCYX" if pixels.ndim == 4 else "SCZYX"


def write(name: str, path: Path, pixels: NDArray[Any]) -> str:
    """Write ``S C (Z) Y X``; returns the path with the suffix of the format."""
    path = path.with_name(path.name + SUFFIX[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = axes_of(pixels)
    if name in ("array", "custom"):
        np.save(path, pixels)
    elif name == "tiff":
        metadata = {"axes": axes.replace("S", "T")}
        tifffile.imwrite(path, pixels, metadata=metadata, photometric="minisblack", tile=(16, 16))
    elif name == "zarr":
        write_array(path, pixels)
    else:
        write_czi(path, [Tile(*plane) for plane in _planes(pixels)])
    return str(path)


def _planes(pixels: NDArray[Any]) -> Any:
    deep = pixels if pixels.ndim == 5 else pixels[:, :, None]
    for s, c, z in np.ndindex(*deep.shape[:3]):
        yield deep[s, c, z], {"T": s, "C": c, "Z": z}


@cache
def part(group: str, name: str) -> Any:
    """Return a part of our configuration; composed once, so merge it and leave it as it is."""
    return compose(f"{group}/{name}")[group]


def module(name: str, **options: Any) -> Any:
    """Make a DataModule from its YAML; ``axes`` and ``train_data`` are among the options."""
    config = part("data", name)
    own = OWN.get(name, {})
    return instantiate(OmegaConf.merge(config, own, options))
