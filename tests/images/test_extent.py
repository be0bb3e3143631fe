"""What planning knows of images, each kind once."""

import numpy as np

from careamics_dm.images.extent import Extent, Extents

SMALL = Extent(2, (8, 9), (4, 9), 2, False)
LARGE = Extent(3, (16, 8), (4, 8), 2, True)
IMAGES = [SMALL, LARGE, SMALL, SMALL]


def test_images_alike_are_one_kind() -> None:
    extents = Extents(IMAGES)
    assert [*extents] == IMAGES
    assert extents.kinds == [SMALL, LARGE]
    asked: list[Extent] = []
    found = extents.each(lambda e: asked.append(e) or e.size)
    assert found.tolist() == [[8, 9], [16, 8], [8, 9], [8, 9]]
    assert asked == [SMALL, LARGE]
    assert Extents(extents).kinds is extents.kinds


def test_kinds_that_are_made_alike_become_one() -> None:
    changed = Extents(IMAGES).changed(lambda e: e._replace(samples=1, size=(8, 8)))
    expected = [e._replace(samples=1, size=(8, 8)) for e in IMAGES]
    assert [*changed] == expected
    same = changed.changed(lambda e: SMALL)
    assert (same.kinds, len(same)) == ([SMALL], 4)


def test_samples_are_numbered_image_by_image() -> None:
    extents = Extents(IMAGES)
    assert extents.first.tolist() == [0, 2, 5, 7]
    every = [(i, s) for i, e in enumerate(IMAGES) for s in range(e.samples)]
    assert [*map(tuple, extents.samples().T.tolist())] == every
    chosen = np.arange(len(every)) % 3 == 1
    assert [*map(tuple, extents.samples(chosen).T.tolist())] == every[1::3]
