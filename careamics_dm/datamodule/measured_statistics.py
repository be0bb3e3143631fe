"""Statistics of training data as settings ask for them."""

from typing import Any

from numpy.typing import NDArray

from careamics_dm.datamodule.settings import Settings
from careamics_dm.images.image_set import ImageSet
from careamics_dm.sources.ranks import agreed
from careamics_dm.transforms.normalization import Affine
from careamics_dm.transforms.statistics import STATISTICS_BYTES, given_statistics, measure


def statistics_of(
    settings: Settings,
    images: ImageSet | None,
    trained: NDArray[Any] | None,
    val: ImageSet | None,
) -> dict[str, Affine]:
    """Measure those of training images, of the samples that are trained on, in one process.

    Without images those that were given; a DataError if there are none.
    """
    if images is None:
        return given_statistics(settings.method, settings.normalize_target)
    return agreed(
        lambda: measure(
            images,
            settings.method,
            None if settings.exact_statistics else STATISTICS_BYTES,
            settings.seed,
            allow_nan=settings.nan_policy != "error",
            normalize_target=settings.normalize_target,
            trained=trained,
            val=val,
        )
    )
