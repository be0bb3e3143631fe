"""Fast, reproducible Lightning DataModules for microscopy image restoration.

Every public name resolves on first use, so that ``import careamics_dm`` loads neither torch nor a
reader library; type checkers and editors see plain imports.
"""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HERE = Path(__file__).parent
if not (_HERE / "conf").is_dir():
    # A wheel has the configuration inside the package; in a checkout it is the folder beside it.
    _spec = spec_from_file_location("careamics_dm.conf", _HERE.parent / "conf" / "__init__.py")
    assert _spec is not None
    sys.modules["careamics_dm.conf"] = module_from_spec(_spec)

if TYPE_CHECKING:
    from careamics_dm.callbacks.interruption import StopOnRequest as StopOnRequest
    from careamics_dm.callbacks.prediction_picture import PredictionPicture as PredictionPicture
    from careamics_dm.callbacks.run_progress import RunProgress as RunProgress
    from careamics_dm.callbacks.scores_report import TestReport as TestReport
    from careamics_dm.callbacks.training import LearningRate as LearningRate
    from careamics_dm.callbacks.training import Pictures as Pictures
    from careamics_dm.callbacks.training import SaveModel as SaveModel
    from careamics_dm.cli.exported_model import export_model as export_model
    from careamics_dm.cli.sweep import CompareJobs as CompareJobs
    from careamics_dm.cli.trained_model import from_careamics as from_careamics
    from careamics_dm.cli.trained_model import load_model as load_model
    from careamics_dm.cli.trained_model import predict as predict
    from careamics_dm.datamodule.mixed_datamodule import MixedDataModule as MixedDataModule
    from careamics_dm.datamodule.patch_datamodule import PatchDataModule as PatchDataModule
    from careamics_dm.errors import DataError as DataError
    from careamics_dm.formats.array import ArrayDataModule as ArrayDataModule
    from careamics_dm.formats.custom.datamodule import CustomDataModule as CustomDataModule
    from careamics_dm.formats.czi.datamodule import CziDataModule as CziDataModule
    from careamics_dm.formats.tiff.datamodule import TiffDataModule as TiffDataModule
    from careamics_dm.formats.zarr.datamodule import ZarrDataModule as ZarrDataModule
    from careamics_dm.images.image_stack import ImageStack as ImageStack
    from careamics_dm.loading.dataset import PatchDataset as PatchDataset
    from careamics_dm.models.masking import Masking as Masking
    from careamics_dm.models.n2v import N2VModule as N2VModule
    from careamics_dm.models.neighbor2neighbor import (
        Neighbor2NeighborModule as Neighbor2NeighborModule,
    )
    from careamics_dm.models.supervised import CAREModule as CAREModule
    from careamics_dm.models.supervised import N2NModule as N2NModule
    from careamics_dm.models.unet import UNet as UNet
    from careamics_dm.prediction.auto_writer import AutoWriter as AutoWriter
    from careamics_dm.prediction.czi_writer import CziWriter as CziWriter
    from careamics_dm.prediction.function_writer import FunctionWriter as FunctionWriter
    from careamics_dm.prediction.npy_writer import NpyWriter as NpyWriter
    from careamics_dm.prediction.stitching import stitch as stitch
    from careamics_dm.prediction.tiff_writer import TiffWriter as TiffWriter
    from careamics_dm.prediction.zarr_writer import ZarrWriter as ZarrWriter
    from careamics_dm.sampling.filters.base import PatchFilter as PatchFilter
    from careamics_dm.sampling.filters.criteria import EntropyFilter as EntropyFilter
    from careamics_dm.sampling.filters.criteria import MaxFilter as MaxFilter
    from careamics_dm.sampling.filters.criteria import MeanStdFilter as MeanStdFilter
    from careamics_dm.transforms.augmentation import Augmentation as Augmentation
    from careamics_dm.transforms.normalization import MeanStd as MeanStd
    from careamics_dm.transforms.normalization import MinMax as MinMax
    from careamics_dm.transforms.normalization import NoNormalization as NoNormalization
    from careamics_dm.transforms.normalization import Normalization as Normalization
    from careamics_dm.transforms.normalization import Quantile as Quantile
else:
    _HOME = {
        "ArrayDataModule": "formats.array",
        "Augmentation": "transforms.augmentation",
        "AutoWriter": "prediction.auto_writer",
        "CAREModule": "models.supervised",
        "CompareJobs": "cli.sweep",
        "CustomDataModule": "formats.custom.datamodule",
        "CziDataModule": "formats.czi.datamodule",
        "CziWriter": "prediction.czi_writer",
        "DataError": "errors",
        "EntropyFilter": "sampling.filters.criteria",
        "FunctionWriter": "prediction.function_writer",
        "ImageStack": "images.image_stack",
        "LearningRate": "callbacks.training",
        "Masking": "models.masking",
        "MaxFilter": "sampling.filters.criteria",
        "MeanStd": "transforms.normalization",
        "MeanStdFilter": "sampling.filters.criteria",
        "MinMax": "transforms.normalization",
        "MixedDataModule": "datamodule.mixed_datamodule",
        "N2NModule": "models.supervised",
        "N2VModule": "models.n2v",
        "Neighbor2NeighborModule": "models.neighbor2neighbor",
        "NoNormalization": "transforms.normalization",
        "Normalization": "transforms.normalization",
        "NpyWriter": "prediction.npy_writer",
        "PatchDataModule": "datamodule.patch_datamodule",
        "PatchDataset": "loading.dataset",
        "PatchFilter": "sampling.filters.base",
        "Pictures": "callbacks.training",
        "PredictionPicture": "callbacks.prediction_picture",
        "Quantile": "transforms.normalization",
        "RunProgress": "callbacks.run_progress",
        "SaveModel": "callbacks.training",
        "StopOnRequest": "callbacks.interruption",
        "TestReport": "callbacks.scores_report",
        "TiffDataModule": "formats.tiff.datamodule",
        "TiffWriter": "prediction.tiff_writer",
        "UNet": "models.unet",
        "ZarrDataModule": "formats.zarr.datamodule",
        "ZarrWriter": "prediction.zarr_writer",
        "export_model": "cli.exported_model",
        "from_careamics": "cli.trained_model",
        "load_model": "cli.trained_model",
        "predict": "cli.trained_model",
        "stitch": "prediction.stitching",
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
