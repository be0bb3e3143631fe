"""Fast, reproducible Lightning DataModules for microscopy image restoration.

Every public name resolves on first use, so that ``import careamics_dm`` loads neither
torch nor a reader library.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "ArrayDataModule": "formats.array",
    "Augmentation": "augmentation",
    "CAREModule": "models.care",
    "CustomDataModule": "formats.custom",
    "CziDataModule": "formats.czi",
    "EntropyFilter": "filters",
    "ImageStack": "image_stack",
    "MaxFilter": "filters",
    "Masking": "models.masking",
    "MeanStd": "normalization",
    "MeanStdFilter": "filters",
    "MinMax": "normalization",
    "N2NModule": "models.n2n",
    "N2VModule": "models.n2v",
    "NoNormalization": "normalization",
    "PatchDataModule": "datamodule",
    "PatchDataset": "dataset",
    "Quantile": "normalization",
    "TiffDataModule": "formats.tiff",
    "TiffWriter": "writers",
    "UNet": "models.unet",
    "ZarrDataModule": "formats.zarr",
    "stitch": "stitching",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'careamics_dm' has no attribute {name!r}")
    value = getattr(import_module(f"careamics_dm.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
