from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset

from careamics_dm.formats.array import ArrayDataModule
from careamics_dm.models.base import RestorationModule
from careamics_dm.models.batch import Batch, unpack
from careamics_dm.models.unet import UNet

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # Lightning 2.6 on torch 2.13
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
]
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Items(Dataset[dict[str, Tensor]]):
    """A list as a dataset."""

    def __init__(self, items: list[dict[str, Tensor]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.items[index]


class Identity(RestorationModule):
    """Learns to give back its input."""

    def loss(self, batch: Batch) -> Tensor:
        image = unpack(batch)[0]
        return F.mse_loss(self(image), image)


class Data(L.LightningDataModule):
    """The public members a data module may offer, and batches of noise."""

    n_channels = 1
    n_target_channels = 1
    patch_size: tuple[int, ...] = (8, 8)
    validates = True

    def loader(self) -> DataLoader[dict[str, Tensor]]:
        images = [{"image": torch.randn(self.n_channels, *self.patch_size)} for _ in range(4)]
        return DataLoader(Items(images), batch_size=2)

    train_dataloader = test_dataloader = predict_dataloader = loader

    def val_dataloader(self) -> Any:
        return self.loader() if self.validates else []

    def denormalize(self, y: Tensor, side: str = "target") -> Tensor:
        return 100 + 10 * y


def trainer(tmp_path: Path, **options: Any) -> L.Trainer:
    options = {"max_epochs": 1, **options}
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **options,
    )


small = functools.partial(UNet, first_filters=2, depth=1)


def test_builds_the_network_from_the_data(tmp_path: Path) -> None:
    data = Data()
    data.patch_size, data.n_channels = (4, 8, 8), 2
    data.n_target_channels = 2
    model = Identity(small)
    run = trainer(tmp_path)
    run.fit(model, datamodule=data)
    assert isinstance(model.network, UNet)
    assert (model.network.dims, model.network.in_channels) == (3, 2)
    assert {"train_loss", "val_loss"} <= set(run.callback_metrics)
    built = model.network
    run.test(model, datamodule=data, verbose=False)
    assert model.network is built
    assert "test_loss" in run.callback_metrics


def test_without_data_module_a_network_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no data module; pass a built network"):
        trainer(tmp_path).fit(Identity(small), Data().loader())
    with pytest.raises(ValueError, match=r"pass a built network"):
        Identity(small)(torch.zeros(1, 1, 8, 8))


def test_works_alone_and_with_foreign_networks(tmp_path: Path) -> None:
    network = nn.Conv2d(1, 1, 3, padding=1)
    model = Identity(network)
    x = torch.randn(2, 1, 7, 9)
    assert torch.equal(model(x), network(x))
    assert torch.equal(model.predict_step(x)["prediction"], network(x))
    trainer(tmp_path, max_steps=2).fit(model, Data().loader())


def test_patch_size_that_does_not_fit(tmp_path: Path) -> None:
    data = Data()
    data.patch_size = (65, 64)
    model = Identity(functools.partial(UNet, first_filters=2))
    words = r"patch_size=\(65, 64\) does not suit.*axis Y has 65 .* multiple of 4. Use 64 or 68"
    with pytest.raises(ValueError, match=words):
        trainer(tmp_path).fit(model, datamodule=data)
    # Prediction pads, so there the patch size of training does not matter.
    predictions = trainer(tmp_path).predict(model, datamodule=data)
    assert predictions is not None


def test_channels_that_do_not_fit(tmp_path: Path) -> None:
    data = Data()
    data.n_channels = 3
    with pytest.raises(ValueError, match=r"in_channels=1, but the data have n_channels=3"):
        trainer(tmp_path).fit(Identity(UNet(1, dims=2, first_filters=2)), datamodule=data)


def test_a_batch_may_be_a_dict_a_tuple_or_a_tensor() -> None:
    x, y = torch.zeros(1), torch.ones(1)
    same: list[Any] = [{"image": x, "target": y, "region": x}, (x, y), [x, y, x]]
    for batch in same:
        image, target = unpack(batch)
        assert image is x and target is y
    region = torch.zeros(1, 8, dtype=torch.int64)
    alone: list[Any] = [{"image": x}, (x,), x, (x, region)]
    for batch in alone:
        assert unpack(batch)[1] is None
    with pytest.raises(ValueError, match=r"dict with the keys 'x'; let the loader"):
        unpack({"x": x})
    with pytest.raises(ValueError, match="empty sequence"):
        unpack([])


@pytest.mark.parametrize("shape", [(9, 8), (1, 2), (3, 5, 17), (1, 1, 1)])
def test_predict_pads_and_crops(shape: tuple[int, ...]) -> None:
    model = Identity(UNet(1, dims=len(shape), first_filters=2, depth=3)).eval()
    region = torch.arange(4).view(2, 2)
    result = model.predict_step({"image": torch.randn(2, 1, *shape), "region": region})
    assert result["prediction"].shape == (2, 1, *shape)
    assert result["region"] is region


def test_predict_is_in_the_units_of_the_data(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    first = (run.predict(Identity(nn.Identity()), datamodule=Data()) or [])[0]
    assert isinstance(first, dict)
    assert set(first) == {"prediction"}
    assert first["prediction"].mean() == pytest.approx(100, abs=5)


@pytest.mark.parametrize("validates", [True, False])
def test_plateau_follows_what_there_is(tmp_path: Path, validates: bool) -> None:
    data = Data()
    data.validates = validates
    plateau = functools.partial(ReduceLROnPlateau, patience=0, threshold=1e9, factor=0.1)
    model = Identity(nn.Conv2d(1, 1, 1), scheduler=plateau)
    run = trainer(tmp_path, max_epochs=3)
    run.fit(model, datamodule=data)
    expected = "val_loss" if validates else "train_loss"
    assert run.lr_scheduler_configs[0].monitor == expected
    assert run.optimizers[0].param_groups[0]["lr"] < 1e-3


def test_plateau_waits_for_validation(tmp_path: Path) -> None:
    model = Identity(nn.Conv2d(1, 1, 1), scheduler=ReduceLROnPlateau)
    run = trainer(tmp_path, max_epochs=3, check_val_every_n_epoch=2)
    run.fit(model, datamodule=Data())
    assert run.lr_scheduler_configs[0].frequency == 2


def test_other_optimizer_and_scheduler(tmp_path: Path) -> None:
    model = Identity(
        nn.Conv2d(1, 1, 1),
        optimizer=functools.partial(torch.optim.SGD, lr=0.5),
        scheduler=functools.partial(StepLR, step_size=1, gamma=0.5),
    )
    run = trainer(tmp_path, max_epochs=2)
    run.fit(model, datamodule=Data())
    assert isinstance(run.optimizers[0], torch.optim.SGD)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.125)


def test_loss_that_is_not_finite_stops_training(tmp_path: Path) -> None:
    images = [{"image": torch.full((1, 4, 4), torch.nan)}] * 2
    with pytest.raises(
        FloatingPointError, match=r"train_loss is nan after epoch 0; check the images"
    ):
        trainer(tmp_path).fit(Identity(nn.Conv2d(1, 1, 1)), DataLoader(Items(images)))


def test_checkpoint_loads_with_weights_only(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    run = trainer(tmp_path)
    model = Identity(small)
    run.fit(model, datamodule=Data())
    run.save_checkpoint(path)
    weights = torch.load(path, weights_only=True)["state_dict"]
    assert all(isinstance(value, Tensor) for value in weights.values())

    loaded = Identity.load_from_checkpoint(path, network=small(1, dims=2), weights_only=True)
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(loaded.eval()(x), model.eval()(x))
    with pytest.raises(ValueError, match=r"pass a built network"):
        Identity.load_from_checkpoint(path, network=small, weights_only=True)
    # With a trainer and a data module the network is built before the weights arrive.
    fresh = Identity(small)
    trainer(tmp_path).test(fresh, datamodule=Data(), ckpt_path=path, verbose=False)
    assert torch.equal(fresh.eval()(x), model(x))


def test_a_compiled_network_learns_predicts_and_is_saved_as_any_other(tmp_path: Path) -> None:
    compiled = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:  # "eager", counted
        compiled.append(graph)
        return graph.forward

    def trained(compile: bool | dict[str, Any]) -> Identity:
        torch.manual_seed(0)
        model = Identity(small, compile=compile)
        trainer(tmp_path).fit(model, datamodule=Data())
        return model

    plain, model = trained(False), trained({"backend": backend})
    assert compiled
    assert model.state_dict().keys() == plain.state_dict().keys()
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(model.predict_step(x), plain.predict_step(x))
    before = len(compiled)
    model.trainer.save_checkpoint(path := tmp_path / "model.ckpt")
    fresh = Identity(small, compile={"backend": backend})
    trainer(tmp_path).test(fresh, datamodule=Data(), ckpt_path=path, verbose=False)
    torch.testing.assert_close(fresh(x), plain(x))
    assert len(compiled) == before  # only training compiles


def test_compile_is_true_false_or_arguments(tmp_path: Path) -> None:
    model = Identity(small, compile="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="compile='yes': give true, false or arguments"):
        trainer(tmp_path).fit(model, datamodule=Data())


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_batches_of_a_loader_without_its_data_module_are_refused(
    tmp_path: Path, stage: str
) -> None:
    image = torch.rand(32, 32).numpy()
    roles = ("train_data", "val_data", "test_data", "predict_data")
    data = ArrayDataModule(axes="YX", patch_size=(8, 8), **{r: image.copy() for r in roles})
    loaders = {
        "fit": data.train_dataloader,
        "validate": data.val_dataloader,
        "test": data.test_dataloader,
        "predict": data.predict_dataloader,
    }
    model = Identity(nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match=r"neither normalised nor turned: give the trainer the da"):
        getattr(trainer(tmp_path), stage)(model, loaders[stage]())
    batch = next(iter(loaders[stage]()))
    with pytest.raises(ValueError, match=r"call data\.transform\(batch\) in a loop"):
        model.predict_step(batch)
    assert model.predict_step(data.transform(batch))["prediction"].isfinite().all()
