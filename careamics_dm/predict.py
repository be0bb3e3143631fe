"""``careamics-predict``: apply a trained model to images and write the results."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from careamics_dm._hydra import application, build, overridden
from careamics_dm._interrupt import StopOnRequest
from careamics_dm.checkpoints import check_targets, load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    import lightning as L

    from careamics_dm.datamodule import PatchDataModule

FROM_CHECKPOINT = {
    "axes",
    "target_axes",
    "trust_axes",
    "channels",
    "target_channels",
    "patch_size",
    "nan_policy",
    "normalization",
}
"""Settings of the data that training decided; the command line overrides them."""


@application("predict")
def main(config: dict[str, Any], folder: Path) -> None:
    """Predict and write."""
    checkpoint = load_checkpoint(config["checkpoint"])
    trained = checkpoint["config"]
    given = {key.removeprefix("data.").split(".")[0] for key in overridden()}
    restored = {k: trained["data"][k] for k in FROM_CHECKPOINT - given if k in trained["data"]}
    check_targets([trained["model"], restored], config["trusted"], config["checkpoint"])
    config["data"] |= restored | {"batch_format": "dict"}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    data: PatchDataModule = build(config, "data")
    data.setup("predict")
    if "normalization" in given:
        checkpoint["data"]["statistics"] = {}
    data.load_state_dict(checkpoint["data"])
    print(data.summary())
    model: L.LightningModule = build(trained, "model")
    writer = build(config, "writer", folder=config["writer"]["folder"] or folder / "denoised")
    writer.setup(SimpleNamespace(datamodule=data), model, "predict")  # refused before all else
    if len(data.predict_dataloader()) == 0:
        print(f"\nnothing to predict: all results are there already, in {writer.folder}")
        return
    callbacks = [writer, StopOnRequest()]
    trainer: L.Trainer = build(config, "trainer", default_root_dir=folder, callbacks=callbacks)
    trainer.predict(
        model,
        datamodule=data,
        return_predictions=False,
        ckpt_path=config["checkpoint"],
        weights_only=True,
    )
    print(f"\ndenoised images  {writer.folder}")


if __name__ == "__main__":
    main()
