"""Another project mounts our groups where it likes, without a plugin and without surprises."""

import pickle

import hydra
import lightning as L
import pytest
import torch
from apps import ALLOWED, BASE, ended, write_tiffs
from hydra.utils import instantiate

from careamics_dm import MinMax, N2VModule, TiffDataModule

FILTER = "data/patch_filter@denoise.data.patch_filter=max"
PROJECT = {
    # The primary configuration and a model are named as ours are, on purpose.
    "conf/train.yaml": """
        hydra:
          searchpath: [pkg://careamics_dm.conf]
          run: {dir: out}
        defaults:
          - data@denoise.data: tiff
          - model@denoise.model: n2v2
          - model@classify.model: n2v
          - override data/normalization@denoise.data.normalization: min_max
          - _self_
        denoise:
          data:
            {train_data: images, patch_size: [16, 16], patches_per_epoch: 12, n_val_patches: 2}
          model: {network: {depth: 1}}
    """,
    "conf/model/n2v.yaml": "theirs: true\n",
    # What ours include must not be shadowed.
    **dict.fromkeys(
        [
            f"conf/{g}/{n}.yaml"
            for g in ("data", "model")
            for n in ("_base", "shared_data", "model")
        ],
        "theirs: true\n",
    ),
    "app.py": """
        import hydra
        import lightning as L
        import torch
        from torch import nn

        class Autoencoder(L.LightningModule):
            def __init__(self):
                super().__init__()
                self.net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 1))

            def training_step(self, batch, _):
                return nn.functional.mse_loss(self.net(batch["image"]), batch["image"])

            def configure_optimizers(self):
                return torch.optim.Adam(self.parameters())

        @hydra.main(config_path="conf", config_name="train", BASE)
        def main(cfg):
            data = hydra.utils.instantiate(cfg.denoise.data)
            trainer = L.Trainer(
                max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
            )
            trainer.fit(Autoencoder(), datamodule=data)
            model = hydra.utils.instantiate(cfg.denoise.model)
            network = cfg.denoise.model.network
            print("steps", trainer.global_step, "of", type(data).__name__, data.settings.method)
            print(data.settings.patch_filter, list(cfg.denoise))
            print("ours", type(model).__name__, model.masking.strategy, network.n2v2, network.depth)
            print("theirs", cfg.classify.model.theirs)

        main()
    """,
}


@pytest.fixture
def images(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50), (60, 70)])
    return tmp_path / "images"


def test_a_foreign_application_mounts_our_groups_and_trains_its_own_module(tmp_path, images):
    for name, text in PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        indent = len(text) - len(text.lstrip("\n ")) - 1 if text.startswith("\n") else 0
        text = "\n".join(line[indent:] for line in text.split("\n"))
        path.write_text(text.replace("BASE", f"**{BASE}"))
    overrides = ("denoise.data.batch_size=3", FILTER, "denoise.data.patch_filter.threshold=1")
    done = ended(tmp_path / "app.py", tmp_path, *overrides, HYDRA_FULL_ERROR="1")
    assert done.code == 0, done.err
    assert "steps 4 of TiffDataModule MinMax(" in done.out
    assert "ours N2VModule median True 1" in done.out
    assert "theirs True" in done.out
    assert "MaxFilter(" in done.out and "['data', 'model']" in done.out
    assert "theirs" not in done.out.replace("theirs True", "")


def test_a_notebook_composes_and_instantiates_again_and_again(images):
    modules = []
    for size in (16, 32):
        with hydra.initialize_config_module("careamics_dm.conf", **BASE):
            config = hydra.compose(
                "train",
                [
                    "data=tiff",
                    f"data.train_data={images}",
                    f"data.patch_size=[{size},{size}]",
                    "data.n_val_patches=1",
                    "data/normalization=min_max",
                ],
            )
        data = instantiate(config.data, **ALLOWED)
        data.setup("fit")
        batch = data.transform(next(iter(data.train_dataloader())))
        assert batch["image"].shape[1:] == (1, size, size)
        data.teardown("fit")
        modules.append(data)
        assert isinstance(instantiate(config.model, **ALLOWED), N2VModule)
    first, second = modules
    assert isinstance(first, TiffDataModule) and isinstance(first.settings.normalization, MinMax)
    assert (first.patch_size, second.patch_size) == ((16, 16), (32, 32))


def test_what_is_instantiated_has_no_trace_of_omegaconf(images):
    with hydra.initialize_config_module("careamics_dm.conf", **BASE):
        config = hydra.compose(
            "train",
            [
                "data=tiff",
                f"data.train_data=[{images}/image_0.tif,{images}/image_1.tif]",
                "data.channels=[0]",
                "data.axes=CYX",
                "data/normalization=mean_std",
                "data.normalization.mean=[1.0]",
                "data.normalization.std=[2.0]",
                "data/augmentation=default",
            ],
        )
    data, model = instantiate(config.data, **ALLOWED), instantiate(config.model, **ALLOWED)
    assert b"omegaconf" not in pickle.dumps(data)
    assert b"omegaconf" not in pickle.dumps(model.masking)
    assert type(data.settings.train_data) is list and type(data.settings.normalization.mean) is list
    network = model._build(in_channels=1, out_channels=1, dims=2)
    assert b"omegaconf" not in pickle.dumps(network)
    optimizer = model._plan._make_optimizer(network.parameters())
    assert isinstance(optimizer, torch.optim.Adam)
    assert b"omegaconf" not in pickle.dumps(optimizer.state_dict())
    assert issubclass(type(data), L.LightningDataModule)
