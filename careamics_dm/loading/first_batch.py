"""The first batch of a set that is kept: it waits for its patches only, not for whole samples."""

from math import prod

from careamics_dm.images.extent import Extent, Extents
from careamics_dm.images.image_set import ImageSet
from careamics_dm.images.region import Blocks, Region
from careamics_dm.loading.patch_extraction import PairedImages
from careamics_dm.loading.prefetch import Reader
from careamics_dm.sampling.read_windows import Places

AGAIN = 4
"""A first batch decodes at most one in so many bytes of its samples a second time."""


def read_alone(
    pair: PairedImages, images: ImageSet, extents: Extents, reader: Reader, places: Places
) -> dict[int, Blocks]:
    """Read patches by themselves, by row, if they need little of samples that are not kept yet.

    Their stored blocks are decoded again with the samples: this is for the first batch only.
    """
    samples = (reader.find(window)[0] for window in places.window.tolist())
    unread = {row: r for row, r in enumerate(samples) if (r.image, r.sample) not in images.kept}
    patches = [*map(places.region, unread)]
    again, once = (
        sum(_decoded_bytes(images, extents[region.image], region) for region in of)
        for of in (patches, {*unread.values()})
    )
    if AGAIN * again > once:
        return {}
    return dict(zip(unread, reader.in_threads(pair.read, patches), strict=True))


def _decoded_bytes(images: ImageSet, extent: Extent, region: Region) -> int:
    """Count the bytes that are decoded for a region, of a sample or several."""
    if extent.in_memory:
        return 0
    unit, layout = extent.block, getattr(images.stacks[region.image], "chunks_and_shards", None)
    if layout and not images.targets:  # of a shard, single chunks are decoded
        unit = layout[0][-len(unit) :]
    columns = zip(region.start, region.stop, unit, strict=True)
    n_pixels = prod((-(-stop // n) - start // n) * n for start, stop, n in columns)
    return int(n_pixels * extent.pixel_bytes * extent.together)
