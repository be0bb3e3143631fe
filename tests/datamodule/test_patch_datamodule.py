"""Data modules in real runs: stages, loaders, state, and what is said about bad input."""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import reader_threads, wait_for_none
from modules import Autoencoder, Identity, SaveAll, SaveAt, trainer
from torch.testing._internal.distributed.fake_pg import FakeStore

from careamics_dm import (
    ArrayDataModule,
    Augmentation,
    MeanStd,
    PatchDataModule,
    ZarrDataModule,
)
from careamics_dm.datamodule import source_opener
from careamics_dm.errors import DataError
from careamics_dm.testing.datamodule_checks import check_datamodule

pytestmark = pytest.mark.usefixtures("files_close")

rng = np.random.default_rng(0)

# Lightning asks any data module for validation data, and finds none where there shall be none.
no_validation = pytest.mark.filterwarnings(
    "ignore:You passed in a `val_dataloader` but have no `validation_step`",
    "ignore:Total length of `list` across ranks is zero",
)


def noise(*shape, dtype=np.uint16):
    return rng.integers(0, 1000, shape).astype(dtype)


def module(**options):
    options = {"train_data": noise(3, 64, 64), "axes": "SYX", "patch_size": (16, 16)} | options
    return ArrayDataModule(**({"batch_size": 8} | options))


def stacked(loader, key="image"):
    return torch.cat([batch[key] for batch in loader])


def unordered(x):
    return sorted(patch.numpy().tobytes() for patch in x)


class TestPromises:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"val_data": noise(1, 40, 50)},
            {"n_val_patches": 0},
            {"sampling": "grid"},
            {"batch_size": None},
            {"batch_format": "tuple", "tile_size": (24, 24)},
            {"batch_format": "tensor", "normalization": "quantile"},
            {
                "augmentation": False,
                "small_images": "pad",
                "patch_size": (70, 70),
                "n_val_patches": 0,
            },
            {"train_target": noise(3, 64, 64, dtype=np.float64)},
        ],
        ids=lambda options: ",".join(options) or "defaults",
    )
    def test_arrays_keep_them(self, options):
        images = [noise(2, 50, 64), noise(1, 30, 20)]
        check_datamodule(
            module(**({"test_data": noise(1, 64, 64), "predict_data": images} | options))
        )

    def test_so_do_volumes_from_files(self, tmp_path):
        np.save(tmp_path / "a.npy", noise(2, 12, 40, 30))
        path = tmp_path / "a.npy"
        check_datamodule(
            module(
                train_data=path,
                predict_data=path,
                axes="CZYX",
                patch_size=(4, 16, 16),
                tile_size=(5, 20, 20),
                n_val_patches=2,
                in_memory=False,
            )
        )


@no_validation
class TestTraining:
    def test_an_autoencoder_of_someone_elses_trains_on_dicts(self, tmp_path):
        trainer(tmp_path, max_epochs=1).fit(Autoencoder(), datamodule=module(n_val_patches=0))

    def test_on_tensors(self, tmp_path):
        data = module(n_val_patches=0, batch_format="tensor")
        trainer(tmp_path, max_epochs=1).fit(Autoencoder(key=None), datamodule=data)

    def test_on_tuples(self, tmp_path):
        data = module(n_val_patches=0, batch_format="tuple")
        trainer(tmp_path, max_epochs=1).fit(Autoencoder(key=0), datamodule=data)

    def test_every_epoch_has_new_patches_and_the_same_validation(self, tmp_path):
        model = Identity()
        trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(model, datamodule=module())
        half = len(model.seen) // 2
        assert half == 5  # 3 × 16 patches, 8 held out, in batches of 8
        assert set(model.seen[:half]).isdisjoint(model.seen[half:])
        assert len(model.validated) == 2
        assert len(set(model.validated)) == 1

    def test_new_patches_come_also_with_loaders_that_are_made_anew(self, tmp_path):
        whole, anew = Identity(), Identity()
        data = {"train_data": noise(3, 64, 64)}
        trainer(tmp_path, max_epochs=3).fit(whole, datamodule=module(**data))
        options = {"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1}
        trainer(tmp_path, **options).fit(anew, datamodule=module(**data))
        assert anew.seen == whole.seen

    def test_all_stages_in_one_go_leave_nothing_running(self, tmp_path):
        np.save(tmp_path / "a.npy", noise(3, 64, 64))
        path = tmp_path / "a.npy"
        data = module(train_data=path, test_data=path, predict_data=path, in_memory=False)
        run, model = trainer(tmp_path, max_epochs=1), Identity()
        run.test(model, datamodule=data, verbose=False)
        run.predict(model, datamodule=data)
        run.fit(model, datamodule=data)
        run.validate(model, datamodule=data, verbose=False)
        run.predict(model, datamodule=data)
        assert not reader_threads()

    def test_a_stop_in_mid_epoch_leaves_no_thread(self, tmp_path):
        np.save(tmp_path / "a.npy", noise(30, 64, 64))
        data = module(train_data=tmp_path / "a.npy", in_memory=False, batch_size=2)
        run = trainer(tmp_path, max_steps=3, max_epochs=-1)
        run.fit(Identity(), datamodule=data)
        assert not reader_threads()

    def test_the_summary_is_told_once_at_the_start_of_a_run(self, tmp_path, caplog):
        with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
            options = {"max_epochs": 2, "reload_dataloaders_every_n_epochs": 1}
            data = module()
            trainer(tmp_path, **options).fit(Identity(), datamodule=data)
        told = [r.getMessage() for r in caplog.records if "3 sample(s) of 64×64" in r.getMessage()]
        assert told == [data.summary()]

    @pytest.mark.parametrize(("workers", "in_memory"), [(0, True), (0, False), (2, False)], ids=str)
    def test_a_run_resumed_in_mid_epoch_sees_the_very_next_batch(
        self, tmp_path, workers, in_memory
    ):
        np.save(tmp_path / "a.npy", np.arange(3 * 64 * 64, dtype=np.uint16).reshape(3, 64, 64))

        def run(model, steps, ckpt_path=None):
            data = module(
                train_data=tmp_path / "a.npy",
                batch_size=4,
                in_memory=in_memory,
                num_workers=workers,
                start_method="fork" if workers else None,
            )
            saved = tmp_path / f"{steps}.ckpt"
            options = {"max_steps": steps, "max_epochs": -1, "num_sanity_val_steps": 0}
            options["callbacks"] = [SaveAt(steps, saved)]
            trainer(tmp_path, **options).fit(
                model, datamodule=data, ckpt_path=ckpt_path, weights_only=ckpt_path and True
            )
            data.teardown("fit")
            return data, saved

        whole = Identity()
        run(whole, 27)  # 10 batches an epoch
        for stop in (13,) if workers else (3, 10, 13, 20):
            first, second = Identity(), Identity()
            before, saved = run(first, stop)
            after, _ = run(second, 27, saved)
            assert first.seen == whole.seen[:stop]
            assert second.seen == whole.seen[stop:]
            assert after.statistics == before.statistics

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"val_check_interval": 2},
            {"limit_train_batches": 3},
            {"max_steps": 7, "max_epochs": -1},
            {"reload_dataloaders_every_n_epochs": 1},
        ],
        ids=str,
    )
    def test_a_run_resumed_from_any_checkpoint_goes_on_with_the_same_batches(
        self, tmp_path, options
    ):
        options = {"max_epochs": 2, "num_sanity_val_steps": 0} | options
        data = {"train_data": noise(3, 64, 64), "n_val_patches": 32}
        whole, saved = Identity(), SaveAll(tmp_path)
        trainer(tmp_path, callbacks=[saved], **options).fit(whole, datamodule=module(**data))
        for path in saved.paths:
            rest = Identity()
            fit = trainer(tmp_path, **options).fit
            fit(rest, datamodule=module(**data), ckpt_path=path, weights_only=True)
            done = torch.load(path, weights_only=True)["global_step"]
            assert rest.seen == whole.seen[done:], path.name

    def test_overfitting_sees_the_same_batches_in_every_epoch(self, tmp_path):
        model = Identity()
        trainer(tmp_path, max_epochs=3, overfit_batches=2).fit(model, datamodule=module())
        assert model.seen == model.seen[:2] * 3 and model.seen[0] != model.seen[1]

    def test_single_patches_are_normalised_but_neither_batched_nor_turned(self):
        data = module(batch_size=None, axes="CYX")
        patch = next(iter(data.train_dataloader()))
        done = data.transform(patch)["image"]
        assert done.shape == (3, 16, 16)
        offset, scale = (torch.tensor(v)[:, None, None] for v in data.statistics["image"][:2])
        assert torch.allclose(done, (patch["image"].float() - offset) / scale, atol=1e-6)


class TestValidation:
    def test_it_is_held_out_by_seed(self):
        data = {"train_data": noise(3, 64, 64)}
        one, again, other = (stacked(module(**data, seed=s).val_dataloader()) for s in (1, 1, 2))
        assert len(one) == 8
        assert torch.equal(one, again)
        assert not torch.equal(one, other)

    def test_data_of_its_own_are_covered_or_chosen_from(self):
        image = noise(1, 64, 64)
        whole = stacked(module(val_data=image).val_dataloader())
        assert len(whole) == 16
        assert np.array_equal(
            whole.numpy().reshape(4, 4, 16, 16).swapaxes(1, 2).reshape(64, 64), image[0]
        )
        some = stacked(module(val_data=image, n_val_patches=5).val_dataloader())
        assert len(some) == 5
        assert set(unordered(some)) < set(unordered(whole))

    @no_validation
    @pytest.mark.parametrize("val_data", [None, noise(1, 64, 64)], ids=["held out", "given"])
    def test_none_is_none(self, tmp_path, val_data):
        data, model = module(val_data=val_data, n_val_patches=0), Identity()
        assert data.val_dataloader() == []
        trainer(tmp_path, max_epochs=1).fit(model, datamodule=data)
        assert len(model.seen) == 6
        assert model.validated == []

    def test_clean_targets_may_be_there_for_validation_only(self):
        image = noise(1, 64, 64)
        data = module(val_data=image, val_target=image)
        for batch in data.val_dataloader():
            done = data.transform(batch)
            assert torch.equal(done["image"], done["target"])

    @pytest.mark.parametrize(("samples", "n"), [(8, 8), (4, 4), (1, 1)])
    def test_of_little_data_at_most_a_quarter_is_held_out(self, samples, n):
        data = module(train_data=noise(samples, 32, 32))
        assert len(stacked(data.val_dataloader())) == n
        assert len(stacked(data.train_dataloader())) == 4 * samples - n

    def test_of_a_single_patch_none_is(self):
        data = module(train_data=noise(1, 16, 16))
        assert data.val_dataloader() == []
        assert len(stacked(data.train_dataloader())) == 1

    def test_too_many_leave_nothing_to_train_on(self):
        with pytest.raises(DataError, match=r"n_val_patches=48, but.*hold only 48"):
            module(n_val_patches=48).setup("fit")

    def test_a_checkpoint_restores_the_split(self):
        data = {"train_data": noise(3, 64, 64)}
        first = module(**data, seed=1)
        held = stacked(first.val_dataloader())
        state = first.state_dict()
        for order in ("before", "after"):
            other = module(**data, seed=2)
            if order == "after":
                other.setup("fit")
            other.load_state_dict(state)
            assert torch.equal(stacked(other.val_dataloader()), held)
            assert other.state_dict() == state

    def test_a_split_of_another_patch_size_is_made_anew(self):
        data = {"train_data": noise(3, 64, 64)}
        first = module(**data)
        first.setup("fit")
        other = module(**data, patch_size=(32, 32))
        other.load_state_dict(first.state_dict())
        assert stacked(other.val_dataloader()).shape[-2:] == (32, 32)

    def test_a_split_of_missing_images_is_an_error(self):
        first = module()
        first.setup("fit")
        state = first.state_dict()
        state["held_out"][0][0] = "gone.tif"
        other = module()
        with pytest.raises(
            DataError, match=r"validation data of the checkpoint are in gone\.tif.*weights=FILE"
        ):
            other.load_state_dict(state)
            other.setup("fit")


class TestData:
    def test_masks_say_where_patches_may_be(self):
        image, mask = np.zeros((2, 64, 64), np.float32), np.zeros((2, 64, 64), bool)
        image[1, 20:56, 20:56] = 1
        mask[1, 28:36, 28:36] = True
        mask[1, 40, 40] = True
        for sampling in ("random", "grid"):
            data = module(
                train_data=image,
                train_mask=mask,
                n_val_patches=0,
                sampling=sampling,
                augmentation=False,
            )
            patches = stacked(data.train_dataloader())
            assert len(patches) == data.n_train_patches
            assert (patches[:, 0, 8, 8] == 1).all()

    def test_masks_have_no_channels(self):
        data = module(train_data=noise(2, 64, 64), train_mask=np.ones((64, 64)), axes="CYX")
        data.setup("fit")
        image, mask = noise(2, 2, 64, 64), noise(2, 2, 64, 64)
        bad = module(train_data=image, train_mask=mask, axes="SCYX")
        with pytest.raises(DataError, match='axes="SYX"'):
            bad.setup("fit")

    def test_an_inverted_mask_is_told(self):
        data = module(train_mask=np.zeros((3, 64, 64)), n_val_patches=0)
        with pytest.raises(DataError, match=r"has its centre inside the mask.*inverted"):
            data.train_dataloader()

    def test_targets_may_have_other_axes_and_channels(self):
        image = noise(2, 64, 64)
        target = np.stack([image[:, :, :] * 2, image * 3, image * 4], axis=-1).astype(np.uint16)
        data = module(
            train_data=image,
            train_target=target,
            target_axes="SYXC",
            target_channels=[2, 0],
            normalization="none",
        )
        for batch in data.train_dataloader():
            done = data.transform(batch)
            assert torch.equal(done["target"][:, :1], done["image"] * 4)
            assert torch.equal(done["target"][:, 1:], done["image"] * 2)
        assert (data.n_channels, data.n_target_channels) == (1, 2)

    @pytest.mark.parametrize("channels", [[0], [2, 0], [1, 2]])
    def test_channels_are_chosen_by_index(self, channels):
        image = noise(3, 64, 64)
        batch = {"train_data": image, "axes": "CYX", "augmentation": False, "seed": 1}
        chosen = stacked(module(**batch, channels=channels).train_dataloader())
        whole = stacked(module(**batch).train_dataloader())
        assert torch.equal(chosen, whole[:, channels])

    def test_a_selection_with_gaps_is_kept_within_the_pool(self):
        image = noise(4, 3, 256, 256)
        data = module(train_data=image, axes="SCYX", channels=[0, 2], pool_mib=1)
        data.setup("fit")
        assert not any(e.in_memory for e in data.images_of("train").extents())
        assert "in memory" in data.summary()

    def test_in_memory_or_not_the_patches_are_the_same(self, tmp_path):
        np.save(tmp_path / "a.npy", noise(3, 64, 64))
        found = []
        for in_memory in ("auto", True, False):
            data = module(train_data=tmp_path / "a.npy", in_memory=in_memory)
            loader = data.train_dataloader()
            found.append([unordered(stacked(loader)) for _ in range(2)])
            assert ("in memory" in data.summary()) is (in_memory is not False)
        assert found[0] == found[1] == found[2]
        assert found[0][0] != found[0][1]

    def test_small_images_may_be_padded_or_skipped(self):
        images = [noise(1, 64, 64), noise(1, 10, 64)]
        padded = module(train_data=images, small_images="pad", n_val_patches=0)
        assert padded.n_train_patches == 20
        assert len(stacked(padded.train_dataloader())) == 20
        skipped = module(train_data=images, small_images="skip", n_val_patches=0)
        with pytest.warns(UserWarning, match=r"1 image\(s\) smaller .* train_data_0001"):
            skipped.setup("fit")
        assert skipped.n_train_patches == 16

    def test_two_modules_do_not_disturb_each_other(self):
        one, two = module(seed=1), module(seed=2, patch_size=(8, 8))
        alone = [stacked(module(train_data=one.settings.train_data, seed=1).train_dataloader())]
        loaders = iter(one.train_dataloader()), iter(two.train_dataloader())
        mixed = []
        for ours, _ in zip(*loaders, strict=False):
            mixed.append(ours["image"])
        assert torch.equal(torch.cat(mixed), alone[0])

    def test_batch_formats(self):
        image = noise(1, 64, 64)
        data = {"train_target": None, "predict_data": image, "tile_size": (32, 32)}
        expected = {
            "dict": (["image"], ["image", "region"]),
            "tuple": (1, 2),
            "tensor": (torch.Tensor, torch.Tensor),
        }
        for batch_format, kinds in expected.items():
            one = module(**data, batch_format=batch_format)
            for loader, kind in zip(
                (one.train_dataloader(), one.predict_dataloader()), kinds, strict=True
            ):
                done = one.on_after_batch_transfer(next(iter(loader)), 0)
                if batch_format == "dict":
                    assert list(done) == kind
                elif batch_format == "tuple":
                    assert len(done) == kind
                else:
                    assert isinstance(done, kind)

    def test_a_batch_of_someone_elses_passes_untouched(self):
        batch = [torch.zeros(1)]
        assert module().on_after_batch_transfer(batch, 0) is batch

    def test_a_set_that_fits_is_read_once_for_training_and_validation(self, tmp_path):
        np.save(tmp_path / "a.npy", noise(3, 64, 64))
        data = module(train_data=tmp_path / "a.npy", in_memory=False)
        train, val = data.train_dataloader(), data.val_dataloader()
        for _ in range(2):
            list(train), list(val)
        assert train.patches.images.kept is val.patches.images.kept
        assert set(train.patches.images.kept) == {(0, 0), (0, 1), (0, 2)}
        data.teardown("fit")
        assert not train.patches.images.kept

    def test_validation_of_a_huge_image_reads_only_its_patches(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((1, 2048, 2048), np.uint16))
        data = module(train_data=tmp_path / "a.npy", in_memory=False, pool_mib=1)
        loader = data.val_dataloader()
        plan = loader.patches.plan
        regions = [plan.region(window) for window in plan.places(np.arange(len(plan))).window]
        assert len(regions) == 8
        assert all(np.subtract(r.stop, r.start).tolist() == list(data.patch_size) for r in regions)

    def test_predicting_some_images_only(self):
        data = module(predict_data=[noise(1, 20, 20)] * 4)
        data.select_predict([2, 0])
        assert {int(b["region"][0, 0]) for b in data.predict_dataloader()} == {0, 2}
        data.select_predict([])
        assert len(data.predict_dataloader()) == 0
        data.select_predict(None)
        assert len(data.predict_dataloader()) == 4


class TestState:
    def test_it_is_plain(self, tmp_path):
        data = module()
        data.train_dataloader()
        torch.save(data.state_dict(), tmp_path / "state")
        assert torch.load(tmp_path / "state", weights_only=True) == data.state_dict()

    def test_state_of_nothing_is_handed_on(self):
        state = module().state_dict()
        assert state["n_channels"] is None
        other = module()
        other.load_state_dict(state)
        assert other.state_dict() == state

    def test_held_out_rows_that_are_handed_on_keep_the_patch_size_of_their_grid(self):
        first = module()
        first.setup("fit")
        state = first.state_dict()
        other = module(train_data=None, predict_data=noise(1, 64, 64), patch_size=(8, 8))
        other.load_state_dict(state)
        other.setup("predict")
        assert other.state_dict() == state

    def test_before_setup_it_is_empty_but_there(self):
        state = module().state_dict()
        other = module()
        other.load_state_dict(state)
        assert stacked(other.train_dataloader()).dtype == torch.uint16

    def test_statistics_are_restored_for_prediction(self):
        first = module()
        first.train_dataloader()
        other = ArrayDataModule(predict_data=noise(1, 20, 20), axes="SYX")
        other.load_state_dict(first.state_dict())
        batch = next(iter(other.predict_dataloader()))
        assert torch.equal(other.transform(batch)["image"], first.transform(batch)["image"])

    def test_another_number_of_channels_is_an_error(self):
        first = module()
        first.setup("fit")
        other = ArrayDataModule(predict_data=noise(2, 20, 20), axes="CYX")
        other.load_state_dict(first.state_dict())
        with pytest.raises(DataError, match="predict_data has 2, the checkpoint has 1"):
            other.setup("predict")

    def test_a_module_pickles_also_after_use(self, tmp_path):
        data = module(num_workers=1, start_method="fork")
        trainer(tmp_path, max_epochs=1).fit(Identity(), datamodule=data)
        first = stacked(data.val_dataloader())
        copy = pickle.loads(pickle.dumps(data))
        data.teardown("fit")
        copy.num_workers = 0
        assert torch.equal(stacked(copy.val_dataloader()), first)

    def test_the_number_of_channels_is_known_after_setup(self):
        with pytest.raises(DataError, match="not known before setup"):
            _ = module().n_channels

    def test_before_setup_there_is_nothing_to_summarise(self):
        assert "call setup" in module().summary()


class TestArguments:
    def test_a_typo_is_named(self):
        with pytest.raises(TypeError, match="patchsize"):
            module(patchsize=(8, 8))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"axes": "SYQ"}, r"axes='SYQ': give letters of STCZYX"),
            ({"axes": "YY"}, r"axes='YY': give letters"),
            ({"axes": "CZ"}, r"axes='CZ': give letters.*Y and X"),
            ({"axes": None}, "axes=None: give letters"),
            ({"target_axes": "ABC"}, "target_axes='ABC'"),
            ({"trust_axes": "no"}, "trust_axes='no': give true or false"),
            ({"channels": []}, r"channels=\[\]: give a list of channel"),
            ({"channels": "DAPI"}, "channels='DAPI': give a list"),
            ({"channels": 0}, "channels=0: give a list"),
            ({"channels": [1.5]}, r"channels=\[1.5\]: give a list"),
            ({"target_channels": True}, "target_channels=True: give a list"),
            ({"patch_size": 64}, "patch_size=64: give 2 numbers"),
            ({"patch_size": (8, 8, 8, 8)}, "give 2 numbers"),
            ({"patch_size": (8, 0)}, r"patch_size=\(8, 0\): give whole numbers.*at least 1"),
            ({"patch_size": (8, 8.0)}, "give whole numbers"),
            ({"patch_size": (True, 8)}, "give whole numbers"),
            ({"patch_size": (8, 10**20)}, "at most 2147483647"),
            ({"patch_size": np.array(8)}, r"patch_size=array\(8\): give 2 numbers"),
            ({"patch_size": np.array([8.0, 8.0])}, "give whole numbers"),
            ({"patch_size": {8, 16}}, "give 2 numbers"),
            ({"axes": np.array([1, 2])}, r"axes=array\(\[1, 2\]\): give letters"),
            ({"channels": {0}}, r"channels=\{0\}: give a list of channel numbers"),
            ({"channels": b"01"}, "give a list of channel numbers"),
            ({"in_memory": np.ones((2, 2))}, "in_memory=.*: choose among auto"),
            ({"batch_size": 10**20}, "batch_size=100000000000000000000 is too large: give at most"),
            ({"batch_size": 8.0}, "batch_size=8.0: give a whole number or null"),
            ({"seed": 10**20}, "too large"),
            ({"batch_size": 0}, "batch_size=0 is too small: give at least 1"),
            ({"batch_size": "8"}, "batch_size='8': give a whole number or null"),
            ({"sampling": "all"}, "sampling='all': choose among random, grid"),
            ({"patches_per_epoch": 0}, "patches_per_epoch=0 is too small"),
            ({"patches_per_epoch": 9, "sampling": "grid"}, "goes with sampling=random"),
            ({"n_val_patches": -1}, "n_val_patches=-1 is too small: give at least 0"),
            ({"small_images": "crop"}, "choose among error, pad, skip"),
            ({"nan_policy": None}, "choose among error, zero, skip"),
            ({"in_memory": "yes"}, "in_memory='yes': choose among auto, True, False"),
            ({"in_memory": 1}, "in_memory=1: choose"),
            ({"pool_mib": 0}, "pool_mib=0 is too small"),
            ({"pool_mib": None}, "pool_mib=None: give a whole number"),
            ({"normalization": "zscore"}, "choose among mean_std, min_max, quantile, none"),
            ({"normalization": None}, "normalization=None: choose"),
            ({"exact_statistics": 1}, "exact_statistics=1: give true or false"),
            ({"augmentation": "none"}, "augmentation='none': give true or false"),
            ({"augmentation": Augmentation(flip="Z")}, "has no Z"),
            ({"patch_size": (8, 16)}, "square patches"),
            ({"tile_size": (8, 8, 8)}, r"tile_size=\(8, 8, 8\) must have as many numbers as patch"),
            ({"tile_overlap": (4, 4)}, r"tile_overlap=\(4, 4\) goes with tile_size"),
            ({"tile_size": (8, 8), "tile_overlap": (8, 4)}, "must be smaller than tile_size"),
            ({"tile_size": (8, 8), "tile_overlap": (4, -1)}, "at least 0"),
            ({"batch_format": "list"}, "choose among dict, tuple, tensor"),
            ({"num_workers": -1}, "num_workers=-1 is too small"),
            ({"start_method": "thread"}, "start_method='thread': choose among None, fork"),
            ({"seed": None}, "seed=None: give a whole number"),
            ({"seed": -1}, "seed=-1 is too small"),
            ({"val_target": "a.npy"}, "val_target is given without val_data"),
            ({"train_data": None, "train_mask": "a.npy"}, "train_mask is given without train_data"),
        ],
        ids=str,
    )
    def test_each_bad_value_has_one_clear_message(self, options, message):
        with pytest.raises(DataError, match=message) as caught:
            module(**options)
        assert "\n" not in str(caught.value)

    def test_numpy_numbers_and_lists_will_do(self):
        data = module(patch_size=list(np.array([16, 16])), batch_size=np.int64(4), channels=(0,))
        settings = data.settings
        assert (settings.patch_size, settings.batch_size, settings.channels) == ((16, 16), 4, [0])

    def test_a_formats_signature_shows_shared_and_own_arguments(self):
        class Format(PatchDataModule):
            def __init__(self, first, *, level=0, **shared):
                super().__init__(**shared)

        names = list(inspect.signature(Format).parameters)
        assert names[0] == "first"
        assert {"level", "train_data", "seed"} <= set(names)
        assert "shared" not in names

        class Closed(PatchDataModule):
            def __init__(self, level=0):
                super().__init__()

        assert list(inspect.signature(Closed).parameters) == ["level"]


class TestBadInput:
    @pytest.mark.parametrize(
        ("stage", "needed"),
        [
            ("fit", "train_data is not given, but fit needs it"),
            ("validate", r"val_data \(or train_data\) is not given"),
            ("test", "test_data is not given"),
            ("predict", "predict_data is not given"),
        ],
    )
    def test_a_stage_without_data_says_what_it_needs(self, stage, needed):
        with pytest.raises(DataError, match=needed):
            ArrayDataModule(axes="YX").setup(stage)

    def test_all_faults_of_all_sources_come_in_one_message(self, tmp_path):
        np.save(tmp_path / "good.npy", noise(3, 64, 64))
        np.save(tmp_path / "flat.npy", noise(64, 64))
        (tmp_path / "text.npy").write_text("no array")
        (tmp_path / "empty.npy").touch()
        names = ["good", "flat", "text", "empty"]
        data = module(
            train_data=[tmp_path / f"{name}.npy" for name in names],
            val_data=[tmp_path / "missing.npy", tmp_path / "lost.npy"],
        )
        with pytest.raises(DataError) as caught:
            data.setup("fit")
        message = str(caught.value)
        for name in ("flat", "text", "empty", "missing", "lost"):
            assert f"{name}.npy" in message
        assert "good.npy" not in message
        assert "train_data: 3 problems" in message

    def test_inputs_and_targets_that_are_missing_come_together(self, tmp_path):
        data = module(train_data=tmp_path / "a.npy", train_target=tmp_path / "b.npy")
        with pytest.raises(DataError) as caught:
            data.setup("fit")
        assert all(name in str(caught.value) for name in ("train_data", "train_target"))

    def test_a_fault_of_an_input_is_not_told_again_of_its_target(self):
        data = module(train_data=[noise(64, 64)], train_target=[noise(1, 64, 64)])
        with pytest.raises(DataError) as caught:
            data.setup("fit")
        assert str(caught.value).count("\n") == 0
        assert "train_data_0000" in str(caught.value)

    def test_one_of_three_images_smaller_than_the_patch(self):
        images = [noise(1, 64, 64), noise(1, 64, 15), noise(1, 16, 16)]
        message = r"train_data_0001: size \(64, 15\) is smaller than patch_size \(16, 16\).*skip"
        with pytest.raises(DataError, match=message):
            module(train_data=images).setup("fit")

    def test_all_images_skipped(self):
        with pytest.raises(DataError, match="every image is smaller than patch_size"):
            module(patch_size=(128, 128), small_images="skip").setup("fit")

    @pytest.mark.parametrize(
        ("axes", "patch", "needed"), [("ZYX", (8, 8), 3), ("SYX", (4, 8, 8), 2)]
    )
    def test_depth_that_does_not_suit_the_patch(self, axes, patch, needed):
        for role in ("train_data", "predict_data"):
            data = ArrayDataModule(**{role: noise(4, 32, 32)}, axes=axes, patch_size=patch)
            stage = "fit" if role == "train_data" else "predict"
            with pytest.raises(DataError, match=rf"{role}.*axes {axes}.*{needed} numbers"):
                data.setup(stage)

    def test_channel_counts_that_contradict(self):
        data = module(train_data=noise(2, 64, 64), val_data=noise(3, 64, 64), axes="CYX")
        with pytest.raises(DataError, match=r"train_data has 2, val_data has 3\. Select"):
            data.setup("fit")
        mixed = module(train_data=[noise(2, 64, 64), noise(3, 64, 64)], axes="CYX")
        with pytest.raises(DataError, match=r"train_data_0001 has 3 channel\(s\).*_0000 has 2"):
            mixed.setup("fit")

    def test_channels_that_do_not_exist(self):
        with pytest.raises(DataError, match=r"channel 5 does not exist: train_data has 3 channel"):
            module(axes="CYX", channels=[5]).setup("fit")
        with pytest.raises(DataError, match=r"channel 'DAPI' is unknown: .*no names"):
            module(axes="CYX", channels=["DAPI"]).setup("fit")

    def test_targets_of_another_size(self):
        data = module(train_target=noise(3, 64, 32))
        with pytest.raises(DataError, match=r"\(3, 64, 64\), its target .* \(3, 64, 32\)"):
            data.setup("fit")

    def test_unequally_many_targets(self):
        data = module(train_data=[noise(1, 64, 64)] * 2, train_target=[noise(1, 64, 64)])
        with pytest.raises(DataError, match=r"train_target: 2 input\(s\) but 1"):
            data.setup("fit")

    def test_a_setup_that_failed_can_be_repeated(self, tmp_path):
        data = module(train_data=tmp_path / "late.npy")
        with pytest.raises(DataError, match="does not exist"):
            data.setup("fit")
        np.save(tmp_path / "late.npy", noise(3, 64, 64))
        data.setup("fit")
        assert data.n_train_patches == 40

    @no_validation
    def test_nan_in_a_patch_stops_training_with_its_place(self, tmp_path):
        image = noise(3, 64, 64).astype(np.float32)
        image[1] = np.nan
        data = module(train_data=image, normalization=MeanStd(mean=0, std=1), n_val_patches=0)
        with pytest.raises(DataError, match="train_data: nan at sample 1, channel 0, YX="):
            trainer(tmp_path, max_epochs=1).fit(Autoencoder(), datamodule=data)


class TestSettings:
    def test_its_repr_shows_what_was_set(self):
        data = module(train_data=[noise(1, 64, 64)] * 5, fold=0, n_folds=4)
        image = "array of uint16, shape (1, 64, 64)"
        assert repr(data) == (
            f"ArrayDataModule(train_data=[{image}, {image}, {image}, ...], axes='SYX', "
            "patch_size=(16, 16), batch_size=8, n_folds=4)"
        )
        assert str(data) == repr(data)

    def test_its_repr_shows_no_secret(self):
        data = ZarrDataModule(train_data="s3://a/b.zarr", storage_options={"secret": "hush"})
        assert "hush" not in repr(data)
        assert "storage_options={'secret': ...}" in repr(data)

    def test_lightning_can_try_batch_sizes(self):
        data = module(val_data=noise(1, 64, 64), batch_size=4)
        assert len(next(iter(data.train_dataloader()))["image"]) == 4
        data.batch_size = 8
        assert data.settings.batch_size == 8
        assert len(next(iter(data.train_dataloader()))["image"]) == 8
        with pytest.raises(DataError, match="batch_size=0"):
            data.batch_size = 0

    def test_settings_do_not_change(self):
        with pytest.raises(AttributeError):
            module().settings.patch_size = (8, 8)


class Fails(Identity):
    def training_step(self, batch, batch_idx):
        raise RuntimeError("out of luck")


def test_a_failed_run_leaves_no_worker_process(tmp_path):
    image = np.zeros((64, 64), np.float32)
    data = ArrayDataModule(train_data=image, axes="YX", patch_size=(8, 8), num_workers=2)
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer(tmp_path, max_epochs=1).fit(Fails(), datamodule=data)
    wait_for_none(multiprocessing.active_children)


def test_without_a_trainer_the_process_group_says_which_images_are_mine():
    images = [np.zeros((8, 8), np.float32)] * 7
    data = ArrayDataModule(
        predict_data=images, axes="YX", patch_size=(8, 8), normalization="none", tile_size=(8, 8)
    )
    dist.init_process_group("fake", rank=1, world_size=3, store=FakeStore())
    try:
        mine = [batch["region"][:, 0].tolist() for batch in data.predict_dataloader()]
    finally:
        dist.destroy_process_group()
    assert mine == [[3], [4]]


def test_a_process_may_have_no_image_to_predict():
    image = np.zeros((8, 8))
    data = ArrayDataModule(predict_data=image, test_data=image, axes="YX", patch_size=(8, 8))
    allowed = []
    for stage in ("predict", "test"):
        data.setup(stage)
        allowed.append(data.allow_zero_length_dataloader_with_multiple_devices)
    assert allowed == [True, False]


@pytest.mark.parametrize(
    ("settings", "processes", "copies"),
    [
        ({}, None, 1),
        ({}, "4", 4),
        ({"num_workers": 2, "start_method": "fork"}, None, 1),
        ({"num_workers": 2, "start_method": "spawn"}, "2", 4),
        ({"start_method": "spawn"}, "2", 2),
    ],
)
def test_what_is_loaded_by_size_counts_masks_and_the_copies_of_processes(
    settings, processes, copies, tmp_path, monkeypatch
):
    np.save(tmp_path / "a.npy", noise(40, 50))
    np.save(tmp_path / "mask.npy", np.ones((40, 50), np.uint8))
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    found = []
    for free in (4 * 6000 * copies, 4 * 6000 * copies + 4):  # 40 x 50 of 2 + 1 bytes
        monkeypatch.setattr(source_opener, "available_bytes", lambda free=free: free)
        data = ArrayDataModule(
            train_data=tmp_path / "a.npy",
            train_mask=tmp_path / "mask.npy",
            axes="YX",
            patch_size=(16, 16),
            **settings,
        )
        found.append(data.images_of("train").extents()[0].in_memory)
    assert found == [False, True]
