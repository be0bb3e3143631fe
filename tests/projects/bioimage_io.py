"""Five models exported for bioimage.io, tested and run by its library in another process.

Run: pip install -e '.[export]'; python tests/projects/bioimage_io.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).parents[1]))

SHORT = ("trainer.max_epochs=2", "data.patches_per_epoch=64", "model.network.first_filters=4")
VOLUME = ("data.patch_size=[8,32,32]", "data.patches_per_epoch=16", "model.network.depth=1")
TWO = ("data=tiff", "data.train_data=two.tif", "data/normalization=quantile")
MODELS = {
    "n2v": (),
    "n2v2": ("model=n2v2",),
    "care": ("model=care", *VOLUME),
    "n2n": ("model=n2n", "data/normalization=mean_std", "data.normalization.clip=0.01"),
    "two": TWO,
}


def export(folder):
    """Train and export; write what `predict` makes of an image of other sizes."""
    from apps import succeed

    from careamics_dm import predict, samples

    noisy = samples.noisy("nuclei")
    two = np.stack([noisy[:192, :192], 3 * noisy[-192:, -192:]])
    tifffile.imwrite(folder / "two.tif", two, metadata={"axes": "CYX"}, imagej=True)
    images = {"care": samples.noisy("filaments")[None, :14, :96, :144], "two": two}
    for name, settings in MODELS.items():
        succeed("train", folder, *SHORT, *settings, folder=name)
        image = ("image=two.tif",) * (name == "two")
        model = f"checkpoint={name}/model.ckpt"
        succeed("export", folder, model, f"folder={name}.zip", "license=MIT", *image)
        pixels = images.get(name, noisy[None, 100:292, 40:248]).astype(np.float32)
        axes = f"C{'ZYX'[-pixels.ndim + 1 :]}"
        restored = predict(folder / name / "model.ckpt", pixels, axes=axes, channels=None)
        np.savez(folder / f"{name}.npz", image=pixels, restored=restored)


def check(folder):
    """Test each package, and compare; nothing of careamics_dm is imported."""
    import bioimageio.core as core
    from bioimageio.core.digest_spec import create_sample_for_model

    for name in MODELS:
        path = folder / f"{name}.zip"
        model = core.load_model_description(path)
        summary = core.test_model(path)
        assert summary.status == "passed", summary.details
        stored = np.load(folder / f"{name}.npz")
        image, restored = stored["image"], stored["restored"]
        for weights in ("pytorch_state_dict", "torchscript"):
            with core.create_prediction_pipeline(model, weight_format=weights) as pipeline:
                plain = {"skip_input_padding": True, "skip_output_cropping": True}
                inside = np.s_[..., 32:-32, 32:-32]  # the library mirrors images by the halo
                axes = ["batch", "channel", *"zyx"[-image.ndim + 1 :]]
                block = dict(zip(axes, image[None].shape, strict=True))
                block |= {"y": 76, "x": 76}  # and all planes
                whole, blocks = (
                    pipeline.predict_sample_without_blocking,
                    pipeline.predict_sample_with_fixed_blocking,
                )
                errors = {}
                for how, predict, options, part in (
                    ("plain", whole, plain, np.s_[...]),
                    ("mirrored", whole, {}, inside),
                    ("blocks", blocks, {"input_block_shape": {"image": block}}, inside),
                ):
                    sample = create_sample_for_model(model, inputs={"image": image[None]})
                    found = predict(sample, **options).members["restored"].data.values[0]
                    errors[how] = np.abs(found - restored)[part].max() / image.std()
                assert max(errors.values()) < 2e-6, (name, weights, errors)
                print(f"{name} {weights}: passed; differs, in std of the image, by {errors}")
    assert "careamics_dm" not in sys.modules


if __name__ == "__main__":
    if len(sys.argv) > 1:
        check(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as place:
            export(Path(place))
            subprocess.run([sys.executable, __file__, place], check=True)
