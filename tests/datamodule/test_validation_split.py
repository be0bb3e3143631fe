"""What of the training data validates: samples, images, files and folds, and nothing leaks."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import zarr
from formats.czi_files import Tile, write_czi
from formats.zarr_files import write_plate
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from modules import Identity, SaveAt, trainer
from stacks import RecordingStack

from careamics_dm import ArrayDataModule, CziDataModule, TiffDataModule, ZarrDataModule
from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.errors import DataError
from careamics_dm.images.image_set import ImageSet
from careamics_dm.sampling.epoch_streams import Share
from careamics_dm.sampling.filters.criteria import MaxFilter
from careamics_dm.sampling.folds import deal, units
from careamics_dm.sources.listing import Listing
from careamics_dm.sources.source_path import file_of
from careamics_dm.testing.datamodule_checks import check_datamodule
from careamics_dm.transforms.statistics import pixel_blocks

pytestmark = pytest.mark.usefixtures("files_close")

# No deadlines: they tell how busy the machine is.
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KINDS = ["samples", "images", "files"]
LITTLE = {"axes": "SYX", "patch_size": (8, 8), "batch_size": 8, "augmentation": False}


def counted(*shapes):
    """Arrays of which no two pixels are equal; float32 has all these numbers."""
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    assert ends[-1] < 2**24
    return [
        np.arange(end - np.prod(shape), end, dtype=np.int32).reshape(shape)
        for shape, end in zip(shapes, ends, strict=True)
    ]


def module(shapes=((3, 24, 24),) * 4, **options):
    return ArrayDataModule(**({"train_data": counted(*shapes)} | LITTLE | options))


def pixels(loader):
    """Every value in an epoch of a loader."""
    return set(torch.cat([batch["image"].reshape(-1) for batch in loader]).tolist())


def held(data, key="image"):
    """What validates, of the table."""
    return sorted({row[key] for row in data.split_table() if row["split"] == "val"})


def named(*sources, samples=1):
    return [RecordingStack(np.zeros((samples, 1, 8, 8)), source) for source in sources]


def tiffs(folder, names, axes_shape=(16, 16)):
    import tifffile

    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / name, np.full(axes_shape, i + 1, np.uint8))
    return folder


class TestUnits:
    @pytest.mark.parametrize(
        ("source", "file"),
        [
            ("/d/a.tif", "/d/a.tif"),
            ("/d/a.ome.tif", "/d/a.ome.tif"),
            ("/d/b.tif/series_1", "/d/b.tif"),
            ("/d/scan.CZI/scene_1", "/d/scan.CZI"),
            ("/d/plate.ome.zarr/A/1/0", "/d/plate.ome.zarr"),
            ("/d/a.zarr.zip/others/array_2", "/d/a.zarr.zip"),
            ("/d/outer.zarr/inner.zarr/0", "/d/outer.zarr"),
            ("/d/stack.npy", "/d/stack.npy"),
        ],
    )
    def test_an_image_is_in_a_file_or_container(self, source, file):
        assert file_of(source).as_posix() == file

    def test_an_array_and_a_url_have_files_too(self):
        assert file_of("train_data_0003").name == "train_data_0003"
        assert file_of("s3://bucket/a.zarr/0").parts[-3:] == ("s3", "bucket", "a.zarr")

    def test_they_are_named_below_their_common_folder(self):
        stacks = named("/d/x/a.czi/scene_1", "/d/x/a.czi/scene_2", "/d/y/b.tif", samples=2)
        expected = {
            "files": ([0, 0, 0, 0, 1, 1], ["x/a.czi", "y/b.tif"]),
            "images": (
                [0, 0, 1, 1, 2, 2],
                ["x/a.czi/scene_1", "x/a.czi/scene_2", "y/b.tif"],
            ),
        }
        for kind, (of, names) in expected.items():
            found = units(stacks, kind)
            assert (found[0].tolist(), found[1]) == (of, names)
        of, names = units(stacks, "samples")
        assert of.tolist() == [0, 1, 2, 3, 4, 5]
        assert names[3] == "x/a.czi/scene_2 sample 1"

    @pytest.mark.parametrize("kind", KINDS)
    def test_channels_of_an_image_that_are_images_too_stay_together(self, kind):
        of, _ = units(named("/d/a.tif", "/d/a.tif", "/d/b.tif"), kind)
        assert of.tolist() == [0, 0, 1]

    def test_by_sample(self):
        data = module(hold_out="samples", n_folds=4)
        assert {row["sample"] for row in data.split_table()} == {0, 1, 2}
        assert sum(row["split"] == "val" for row in data.split_table()) == 3

    def test_frames_are_samples(self, tmp_path):
        tiffs(tmp_path, ["a.tif"], (10, 16, 16))
        data = TiffDataModule(
            train_data=tmp_path, axes="TYX", hold_out="samples", patch_size=(8, 8)
        )
        assert len(held(data, "sample")) == 1  # of ten, as there are ten folds

    def test_by_file_and_by_image(self, tmp_path):
        def scenes(name):
            tile = np.ones((16, 16), np.uint8)
            tiles = [Tile(tile, {"C": 0, "S": s}, (20 * s, 0)) for s in range(3)]
            return write_czi(tmp_path / name, tiles)

        files = [scenes(f"{name}.czi") for name in "abc"]
        by_file = CziDataModule(train_data=files, n_folds=3, patch_size=(8, 8))
        (file,) = {str(file_of(source)) for source in held(by_file)}
        assert held(by_file) == [f"{file}/scene_{s}" for s in range(3)]
        by_image = CziDataModule(train_data=files, hold_out="images", n_folds=9, patch_size=(8, 8))
        assert len(held(by_image)) == 1

    def test_fields_of_a_plate_are_images(self, tmp_path):
        path = tmp_path / "p.zarr"
        fields = write_plate(path, "0.5", "ome-zarr")
        found = []
        for fold in range(3):
            data = ZarrDataModule(
                train_data=path, hold_out="images", n_folds=3, fold=fold, patch_size=(8, 8)
            )
            assert len(held(data)) == 2
            found += held(data)
            data.teardown("fit")
        assert sorted(found) == sorted(f"{path}/{field}" for field in fields)


names = st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=40, unique=True)


class TestFolds:
    @PROPERTY
    @given(names, st.data())
    def test_they_partition_the_units_evenly_whatever_the_order(self, units_, data):
        n_folds = data.draw(st.integers(2, len(units_)))
        shuffled = data.draw(st.permutations(units_))
        fold = dict(zip(units_, deal(units_, n_folds).tolist(), strict=True))
        again = dict(zip(shuffled, deal(shuffled, n_folds).tolist(), strict=True))
        assert fold == again
        counts = np.bincount(list(fold.values()), minlength=n_folds)
        assert len(counts) == n_folds
        assert counts.max() - counts.min() <= 1

    @PROPERTY
    @given(
        st.lists(st.from_regex(r"[a-z0-9_/ ]{0,6}[a-z]\.tif", fullmatch=True), min_size=2),
        st.sampled_from(KINDS),
        st.randoms(),
    )
    def test_neither_folder_nor_order_matters(self, paths, kind, random):
        def fold_of(paths, root):
            stacks = named(*(f"{root}/{path}" for path in paths), samples=2)
            of, names = units(stacks, kind)
            folds = deal(names, 2)[of].reshape(-1, 2).tolist()
            return dict(zip((file_of(f"/{path}") for path in paths), folds, strict=True))

        paths = list({str(file_of(f"/{path}"))[1:]: None for path in paths})
        # Two folders, so that the common one is the root.
        paths += ["first/a.tif", "second/a.tif"]
        there = random.sample(paths, len(paths))
        assert fold_of(paths, "/data/1") == fold_of(there, "/mnt/disk/other")

    def test_another_process_deals_the_same(self):
        code = (
            "from careamics_dm.sampling.folds import deal;"
            "print(deal(list('abcdefghij'), 3).tolist())"
        )
        found = {
            subprocess.run(
                [sys.executable, "-c", code],
                env={"PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in "12"
        }
        assert found == {"[1, 1, 0, 1, 2, 2, 2, 0, 0, 0]\n"}  # published splits stay

    def test_every_file_validates_in_exactly_one_run_of_a_sweep(self, tmp_path):
        tiffs(tmp_path, [f"{kind}/{i}.tif" for kind in "ab" for i in range(5)])
        runs = [
            TiffDataModule(train_data=tmp_path, n_folds=4, fold=fold, seed=fold, patch_size=(8, 8))
            for fold in range(4)
        ]
        found = [held(data) for data in runs]
        assert sorted(map(len, found)) == [2, 2, 3, 3]
        assert sorted(itertools.chain(*found)) == sorted(map(str, tmp_path.glob("*/*.tif")))
        for data, mine in zip(runs, found, strict=True):
            trained = {row["image"] for row in data.split_table() if row["split"] == "train"}
            assert len(trained) == 10 - len(mine)
            assert not trained & set(mine)

    @pytest.mark.parametrize(("n", "n_val"), [(2, 1), (7, 1), (10, 1), (25, 3)])
    def test_by_default_there_are_ten_or_as_many_as_units(self, n, n_val):
        data = module([(1, 8, 8)] * n, hold_out="files")
        assert len(held(data)) == n_val


class TestValidation:
    @pytest.mark.parametrize("sampling", ["random", "grid"])
    def test_it_covers_what_is_held_out(self, sampling):
        data = module(n_folds=4, sampling=sampling)
        (name,) = held(data)
        expected = set(data.settings.train_data[int(name[-4:])].reshape(-1).tolist())
        assert pixels(data.val_dataloader()) == expected
        assert not pixels(data.train_dataloader()) & expected

    def test_some_may_be_chosen_by_seed(self):
        some = [
            pixels(module(n_folds=4, n_val_patches=5, seed=s).val_dataloader()) for s in (0, 0, 1)
        ]
        assert len(some[0]) == 5 * 64
        assert some[0] == some[1] != some[2]

    def test_training_counts_what_it_is_left(self):
        assert module(n_val_patches=0).n_train_patches == 4 * 27
        assert module(n_folds=4).n_train_patches == 3 * 27
        assert module(hold_out="samples", n_folds=6).n_train_patches == 10 * 9
        assert module(n_folds=4, sampling="grid").n_train_patches == 3 * 27

    def test_with_masks_patches_have_their_centre_inside(self):
        masks = [np.zeros((3, 24, 24), bool) for _ in range(4)]
        for mask in masks:
            mask[:, 12, 12] = mask[:, 20, 5] = True
        for data in (module(n_folds=4, train_mask=masks), module(n_folds=4)):
            plan = data.val_dataloader().patches.plan
            masked = data.settings.train_mask is not None
            assert len(plan) == (3 if masked else 27)
            if masked:
                assert plan.places(np.arange(3)).start.tolist() == [[8, 8]] * 3

    def test_gaps_are_left_out(self):
        class Gappy(RecordingStack):
            def valid_region(self, sample_idx, channels):
                return [((0, 0), (24, 12))]

        one, whole = np.ones((2, 1, 24, 24)), np.ones((3, 1, 24, 24))
        stacks = [Gappy(one, "a.tif"), RecordingStack(whole, "b.tif")]
        for fold in range(2):
            data = Stacks(stacks, n_folds=2, fold=fold)
            (name,) = held(data)
            plan = data.val_dataloader().patches.plan
            # Of the three columns of patches, one lies in what was acquired.
            assert len(plan) == (2 * 3 if name == "a.tif" else 3 * 9)
            assert data.n_train_patches == (3 * 9 if name == "a.tif" else 2 * 9 // 2)
            data.teardown("fit")

    @pytest.mark.parametrize("workers", [0, 2])
    def test_streamed_and_in_memory_it_is_the_same(self, tmp_path, workers):
        store = zarr.create_array(
            tmp_path / "a.zarr", shape=(11, 32, 32), dtype="int32", chunks=(4, 16, 16)
        )
        store[...] = np.arange(11 * 32 * 32).reshape(11, 32, 32)
        found = []
        for in_memory in (True, False):
            data = ZarrDataModule(
                train_data=tmp_path / "a.zarr",
                axes="SYX",
                hold_out="samples",
                n_folds=3,
                in_memory=in_memory,
                patch_size=(8, 8),
                num_workers=0 if in_memory else workers,
                start_method=None if in_memory or not workers else "fork",
                exact_statistics=True,
            )
            samples = np.array(held(data, "sample"))
            val, train = pixels(data.val_dataloader()), pixels(data.train_dataloader())
            assert val == set(store[...][samples].reshape(-1).tolist())
            assert not train & val
            trained = np.delete(store[...], samples, axis=0)
            assert data.statistics["image"].offset == pytest.approx([trained.mean()])
            assert data.statistics["image"].scale == pytest.approx([trained.std()])
            found.append((val, data.statistics))
            data.teardown("fit")
        assert found[0] == found[1]

    def test_ranks_share_it(self):
        data = module(n_folds=4, batch_size=1)
        whole = pixels(data.val_dataloader())
        parts = []
        for rank in range(2):
            loader = data.val_dataloader()
            loader.patches.share = Share(rank, 2)
            parts.append(pixels(loader))
        assert parts[0] | parts[1] == whole
        assert parts[0] != parts[1]

    @pytest.mark.parametrize("sampling", ["random", "grid"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_keeps_the_promises_of_data_modules(self, kind, sampling):
        check_datamodule(module(hold_out=kind, n_folds=3, fold=1, sampling=sampling))

    def test_a_broken_promise_is_named(self):
        with pytest.raises(AssertionError, match="of a sample that is held out"):
            check_datamodule(Leaky(train_data=counted(*[(3, 24, 24)] * 4), **LITTLE, n_folds=4))
        with pytest.raises(AssertionError, match="of a sample that is trained on"):
            check_datamodule(Lax(train_data=counted(*[(3, 24, 24)] * 4), **LITTLE, n_folds=4))

    def test_of_a_run_only_what_is_held_out_validates(self, tmp_path):
        data, model = module(n_folds=4), Identity()
        trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0).fit(model, datamodule=data)
        assert len(model.seen) == -(-3 * 27 // 8)
        assert len(model.validated) == -(-27 // 8)

    def test_pairs_of_held_out_files_are_held_out(self):
        data = module([(6, 24, 24)] * 3, axes="TYX", repeats="T", n_folds=3)
        (name,) = held(data)
        whole = data.settings.train_data[int(name[-4:])]
        val = list(data.val_dataloader())
        assert {*torch.cat([b["target"].reshape(-1) for b in val]).tolist()} == {
            *whole[1::2].reshape(-1).tolist()
        }
        train = torch.cat(
            [
                b[key].reshape(-1)
                for b in data.train_dataloader()
                for key in b
                if key != "orientation"
            ]
        )
        assert not {*train.tolist()} & {*whole.reshape(-1).tolist()}


class Leaky(ArrayDataModule):
    """Trains on all samples."""

    def train_dataloader(self):
        loader = super().train_dataloader()
        loader.patches.plan = replace(loader.patches.plan, trained=None)
        return loader


class Lax(ArrayDataModule):
    """Validates on samples that it says it trains on."""

    def split_table(self):
        return [row | {"split": "train"} for row in super().split_table()]


class Stacks(PatchDataModule):
    """Image stacks as they are."""

    def __init__(self, stacks, **options):
        self.stacks = stacks
        super().__init__(**{"train_data": "stacks", "patch_size": (8, 8), "axes": "SYX"} | options)

    def list_sources(self, data, what):
        return Listing(list(range(len(self.stacks))))

    def open_source(self, source, axes):
        return [self.stacks[source]]


@st.composite
def cases(draw, kinds=("patches", *KINDS)):
    """Small images in 2-D and 3-D, and all that decides what validates."""
    n_axes = draw(st.integers(2, 3))
    patch = tuple(draw(st.integers(1, 4)) for _ in range(n_axes))
    one = st.tuples(st.integers(1, 3), *(st.integers(p, p + 7) for p in patch))
    shapes = draw(st.lists(one, min_size=2, max_size=4))
    options = {
        "axes": "S" + "ZYX"[-n_axes:],
        "patch_size": patch,
        "hold_out": draw(st.sampled_from(kinds)),
        "sampling": draw(st.sampled_from(["random", "grid"])),
        "seed": draw(st.integers(0, 99)),
        "n_val_patches": draw(st.sampled_from([None, None, 1, 3])),
    }
    if options["hold_out"] != "patches":
        most = len(shapes)
        if options["hold_out"] == "samples":
            most = sum(shape[0] for shape in shapes)
        options["n_folds"] = draw(st.integers(2, most))
        options["fold"] = draw(st.integers(0, options["n_folds"] - 1))
    if options["sampling"] == "random":
        options["patches_per_epoch"] = 40
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        options["train_mask"] = [rng.random(shape) < 0.7 for shape in shapes]
    return shapes, options


def opened(shapes, options):
    data = module(shapes, **options)
    try:
        data.setup("fit")
        data.train_dataloader()
    except DataError as error:
        # Small and masked as they are, nothing may be left; that is told, and tested below.
        assume("leave no" not in str(error) and "must be left" not in str(error))
        raise
    return data


def rows_of(patches, epoch=0):
    """Count the samples of patches through all images."""
    first = np.cumsum([0] + [extent.samples for extent in patches.extents])
    places = patches.plan.epoch(epoch).places(np.arange(len(patches.plan)))
    return first[places.image] + places.sample


class TestNoLeak:
    @PROPERTY
    @given(cases())
    def test_no_pixel_that_validates_is_ever_trained_on(self, case):
        data = opened(*case)
        kept = data.val_dataloader()
        assume(kept)  # of a handful of patches none is held out by default
        val, loader = pixels(kept), data.train_dataloader()
        assert val
        for _ in range(3):
            train = pixels(loader)
            assert train
            assert not val & train
        data.teardown("fit")

    @PROPERTY
    @given(cases(KINDS))
    def test_samples_that_are_held_out_never_come_in_training(self, case):
        data = opened(*case)
        rows, images = data.split_table(), case[0]
        assert len(rows) == sum(shape[0] for shape in images)
        out = np.array([row["split"] == "val" for row in rows])
        assert 0 < out.sum() < len(out)
        patches = data.train_dataloader().patches
        for epoch in range(4):
            assert not out[rows_of(patches, epoch)].any()
        assert out[rows_of(data.val_dataloader().patches)].all()
        data.teardown("fit")

    @PROPERTY
    @given(cases(KINDS), st.booleans())
    def test_statistics_know_nothing_of_held_out_samples(self, case, exact):
        shapes, options = case
        data = opened(shapes, options | {"exact_statistics": exact})
        changed = [image.astype(np.int32) for image in counted(*shapes)]
        for row in data.split_table():
            if row["split"] == "val":
                changed[int(row["image"][-4:])][row["sample"]] += 10_000
        other = opened(shapes, options | {"exact_statistics": exact, "train_data": changed})
        assert other.measure_statistics() == data.measure_statistics()
        rest = np.concatenate(
            [
                data.settings.train_data[int(row["image"][-4:])][row["sample"]].reshape(-1)
                for row in data.split_table()
                if row["split"] == "train"
            ]
        )
        assert data.statistics["image"].offset == pytest.approx([rest.mean()])
        for each in (data, other):
            each.teardown("fit")


@pytest.mark.parametrize(
    "hold_out", [{}, {"hold_out": "samples", "n_folds": 4}], ids=["patches", "samples"]
)
def test_patches_that_replace_others_are_of_what_is_trained_on(tmp_path, hold_out):
    # More than the pool holds, so that samples are decoded together, the held-out ones too.
    shape = (16, 256, 256)
    (whole,) = counted(shape)
    store = zarr.create_array(tmp_path / "a.zarr", shape=shape, dtype="int32", chunks=(4, 64, 64))
    store[...] = whole
    data = ZarrDataModule(
        train_data=tmp_path / "a.zarr",
        axes="SYX",
        **hold_out,
        n_val_patches=400,
        patches_per_epoch=400,
        in_memory=False,
        pool_mib=1,
        patch_size=(8, 8),
        patch_filter=MaxFilter(threshold=whole.size // 2),
        augmentation=False,
    )
    out = whole[np.array([row["split"] == "val" for row in data.split_table()[:16]])]
    val = pixels(data.val_dataloader()) | set(out.reshape(-1).tolist())
    assert val
    loader = data.train_dataloader()
    for _ in range(3):
        assert not pixels(loader) & val
    data.teardown("fit")


def test_statistics_read_no_more_samples_at_once_than_are_stored_together():
    stacks = named("a.tif", samples=9)
    stacks[0].samples_per_block = 4
    trained = np.array([1, 1, 1, 0, 1, 1, 1, 1, 1], bool)
    images = ImageSet(stacks, channels=[None])
    for flags, sizes in ((None, [1, 4, 4]), (trained, [1, 3, 4])):
        blocks = pixel_blocks(images, 0, None, 0, allow_nan=False, trained=flags)
        assert sorted(block.shape[1] // 64 for block in blocks) == sizes


class TestState:
    def test_whole_samples_are_rows_of_source_and_sample(self):
        data = module(n_folds=4)
        data.setup("fit")
        (name,) = held(data)
        assert data.state_dict()["held_out"] == [[name, 0], [name, 1], [name, 2]]

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_checkpoint_keeps_the_split_whatever_is_asked_for_now(self, kind, tmp_path):
        first = module(hold_out=kind, n_folds=4, fold=3)
        first.train_dataloader()
        torch.save(first.state_dict(), tmp_path / "state")
        state = torch.load(tmp_path / "state", weights_only=True)
        val = pixels(first.val_dataloader())
        for options in ({"n_folds": 2}, {"hold_out": "samples", "fold": 1}, {"patch_size": (4, 4)}):
            for order in ("before", "after"):
                other = module(**options)
                if order == "after":
                    other.setup("fit")
                other.load_state_dict(state)
                assert pixels(other.val_dataloader()) == val
                assert not pixels(other.train_dataloader()) & val
                assert other.state_dict()["held_out"] == state["held_out"]
                assert other.state_dict()["statistics"] == state["statistics"]

    def test_a_run_that_goes_on_validates_on_the_same(self, tmp_path):
        first = Identity()
        trainer(tmp_path, max_epochs=2, callbacks=[SaveAt(5, tmp_path / "a.ckpt")]).fit(
            first, datamodule=module(n_folds=4, fold=2)
        )
        again = Identity()
        data = module(n_folds=4, fold=0)
        trainer(tmp_path, max_epochs=2).fit(
            again, datamodule=data, ckpt_path=tmp_path / "a.ckpt", weights_only=True
        )
        assert again.validated[-4:] == first.validated[-4:]
        assert held(data) == held(module(n_folds=4, fold=2))
        assert "as in the checkpoint, in 1 of 4 images" in data.summary()

    def test_images_come_back_in_another_order(self):
        stacks = [
            RecordingStack(np.random.default_rng(i).random((2, 1, 16, 16)), f"{i}.tif")
            for i in range(4)
        ]
        first, other = Stacks(stacks, n_folds=2), Stacks(stacks[::-1], n_folds=2, fold=1)
        first.setup("fit")
        other.load_state_dict(first.state_dict())
        assert held(other) == held(first)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (["gone", 0], r"data of the checkpoint are in gone, which the train"),
            (
                ["train_data_0001", 3],
                r"validates on sample 3 of train_data_0001, but .* has 3 sample\(s\)",
            ),
        ],
    )
    def test_what_is_missing_now_is_told(self, row, message):
        data = module(n_folds=4)
        data.setup("fit")
        with pytest.raises(DataError, match=message):
            data.load_state_dict(data.state_dict() | {"held_out": [row]})

    def test_a_checkpoint_that_leaves_nothing_to_train_on_is_told(self):
        first = module(n_folds=2)
        first.setup("fit")
        state = first.state_dict()
        numbers = [int(name[-4:]) for name in held(first)]
        stacks = [
            RecordingStack(first.settings.train_data[i][:, None], f"train_data_{i:04d}")
            for i in numbers
        ]
        other = Stacks(stacks, n_folds=2)
        other.load_state_dict(state)
        with pytest.raises(DataError, match=r"6 of 6 samples .* Nothing is left to train on"):
            other.setup("fit")


class TestTable:
    def test_every_sample_trains_or_validates(self, tmp_path):
        data = module([(2, 24, 16)] * 3, n_folds=3)
        (name,) = held(data)
        assert data.split_table() == [
            {
                "split": "val" if f"train_data_{i:04d}" == name else "train",
                "image": f"train_data_{i:04d}",
                "sample": sample,
                "start": "",
                "size": "24 16",
            }
            for i in range(3)
            for sample in range(2)
        ]

    @pytest.mark.parametrize(
        ("axes", "shape", "patch"), [("SYX", (2, 24, 24), (8, 8)), ("ZYX", (8, 24, 24), (4, 8, 8))]
    )
    def test_held_out_patches_are_listed(self, axes, shape, patch):
        data = module([shape], axes=axes, patch_size=patch, n_val_patches=3)
        rows = data.split_table()
        samples = shape[0] if "S" in axes else 1
        assert [row["split"] for row in rows] == ["train"] * samples + ["val"] * 3
        kept, rest = pixels(data.val_dataloader()), set()
        for row in rows[samples:]:
            start, size = ([int(n) for n in row[key].split(" ")] for key in ("start", "size"))
            box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
            image = data.settings.train_data[0]
            rest |= {*(image[row["sample"]] if "S" in axes else image)[box].reshape(-1).tolist()}
        assert rest == kept

    def test_validation_data_are_listed(self):
        data = module([(1, 24, 24)], val_data=counted((2, 16, 16)))
        found = [(row["split"], row["image"], row["size"]) for row in data.split_table()]
        val = ("val", "val_data_0000", "16 16")
        assert found == [("train", "train_data_0000", "24 24"), val, val]

    def test_without_validation_all_train(self):
        assert held(module(n_val_patches=0)) == []

    def test_without_data_there_is_none(self):
        with pytest.raises(DataError, match="is not given, but validate needs it"):
            module(train_data=None).split_table()

    def test_the_summary_says_it_in_words(self, tmp_path):
        tiffs(tmp_path, [f"{i}.tif" for i in range(20)])
        data = TiffDataModule(train_data=tmp_path, hold_out="images", patch_size=(8, 8))
        data.setup("fit")
        first, second = (name.rpartition("/")[2] for name in held(data))
        assert (
            f"2 of 20 images held out for validation (fold 0 of 10): {first}, {second}; 8 patches"
        ) in data.summary()
        data = module()
        data.setup("fit")
        assert "8 held out for validation" in data.summary()


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"hold_out": "folders"}, "hold_out='folders': choose among None, patches, samples"),
            ({"n_folds": 1}, "n_folds=1 is too small: give at least 2"),
            ({"n_folds": 2.5}, "n_folds=2.5: give a whole number or null"),
            ({"fold": -1}, "fold=-1 is too small"),
            ({"n_folds": 3, "fold": 3}, "fold=3, but n_folds=3: give 0 to 2"),
            ({"fold": 1}, "folds are of samples, images or files"),
            ({"hold_out": "patches", "n_folds": 3}, "folds are of samples, images or files"),
            ({"hold_out": "files", "val_data": "x"}, "hold_out=files, .* but val_data is given"),
            ({"n_folds": 3, "val_data": "x"}, "n_folds=3, .* but val_data is given"),
            ({"fold": 3, "val_data": "x"}, "fold=3 .* but val_data is given"),
            ({"hold_out": "images", "n_val_patches": 0}, "but n_val_patches=0 means none"),
            ({"n_folds": 3, "n_val_patches": 0}, "but n_val_patches=0 means none"),
            ({"hold_out": "samples", "repeats": "T"}, "with repeats=T samples .* same scene"),
        ],
    )
    def test_a_contradiction_is_told_at_once(self, options, message):
        with pytest.raises(DataError, match=message):
            module(**options)

    @pytest.mark.parametrize(
        ("shapes", "options", "message"),
        [
            (
                [(3, 8, 8)],
                {"hold_out": "files"},
                "hold_out=files needs 2 files or more.*train_data",
            ),
            (
                [(3, 8, 8)],
                {"hold_out": "images"},
                "Set hold_out to samples or patches, or give val",
            ),
            (
                [(1, 8, 8)],
                {"hold_out": "samples"},
                "needs 2 samples .* Set hold_out to patches, or",
            ),
            (
                [(3, 8, 8)] * 3,
                {"n_folds": 4},
                "n_folds=4, but there are only 3 files .* or set hold_out to images",
            ),
            (
                [(3, 8, 8)] * 3,
                {"hold_out": "samples", "n_folds": 10},
                "n_folds=10, but there are only 9 samples .* Use at most 9 folds",
            ),
            ([(3, 8, 8)] * 3, {"hold_out": "files", "fold": 3}, "fold=3, but 3 files make 3 folds"),
        ],
    )
    def test_too_little_is_told_at_set_up(self, shapes, options, message):
        with pytest.raises(DataError, match=message):
            module(shapes, **options).setup("fit")

    @pytest.mark.parametrize(
        ("which", "message"),
        [
            ("train", r"leave no place for a training patch of \(8, 8\) in the others"),
            ("val", r"leave no validation patch of \(8, 8\) side by side"),
        ],
    )
    def test_a_mask_that_leaves_nothing_on_one_side_is_told_at_set_up(self, which, message):
        (name,) = held(module(n_folds=4))
        masks = [
            np.full((3, 24, 24), (f"train_data_{i:04d}" == name) is not (which == "val"))
            for i in range(4)
        ]
        with pytest.raises(DataError, match=message) as error:
            module(n_folds=4, train_mask=masks).setup("fit")
        assert name in str(error.value)

    def test_small_images_that_are_skipped_are_no_units(self):
        data = module([(1, 24, 24), (1, 4, 4)], small_images="skip", n_folds=2)
        with (
            pytest.warns(UserWarning, match="smaller than patch_size"),
            pytest.raises(DataError, match="hold_out=files needs 2 files"),
        ):
            data.setup("fit")

    def test_prediction_does_not_mind(self):
        data = module(train_data=None, predict_data=counted((1, 16, 16)), n_folds=3, fold=1)
        data.setup("predict")
        assert len(data.predict_stacks) == 1
