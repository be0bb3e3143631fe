"""BSD68 by the published protocol: ``python tests/benchmarks/bsd68.py bsd=FOLDER algorithm=n2v``.

Trains on the 400 grey images of 180 x 180 that denoisers are trained on since DnCNN (Zhang et al.,
IEEE TIP 2017), with Gaussian noise of standard deviation 25 (of 0 to 255; not clipped, float32),
denoises the 68 test images (Martin et al., ICCV 2001; Roth & Black, CVPR 2005) with the same kind
of noise, and prints the mean PSNR with a data range of 255 beside the published ones. The folder
holds ``train400.tif`` (``S Y X``, uint8) and ``test68/*.tif``.

``algorithm`` is n2v, n2v2, n2n or care; ``steps`` (1,000 by default) the number of batches in all.
A run leaves ``model.ckpt`` in ``out`` (``bsd68_ALGORITHM``) after every 100 steps; the same command
goes on from there. Noise2Void's authors trained 80,000 steps of 128 patches with 96 filters:
``steps=80000 data.batch_size=128 model.network.first_filters=96``. Whatever else is given is an
override of careamics-train.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import numpy as np
import tifffile
from hydra.utils import instantiate

from careamics_dm.callbacks.training import SaveModel
from careamics_dm.cli import BASE
from careamics_dm.evaluation.metrics import psnr

SIGMA, STEPS_PER_EPOCH = 25.0, 100
PUBLISHED = {
    "n2v": ("Noise2Void, Krull et al. 2019", 27.71),
    "n2v2": ("N2V2, Höck et al. 2022", 28.32),
    "n2n": ("Noise2Noise, as in Krull et al. 2019", 28.86),
    "care": ("supervised U-Net, as in Krull et al. 2019", 29.06),
    "bm3d": ("BM3D, as in Krull et al. 2019", 28.59),
}


def noisy(clean: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """Add the noise; the same for the same seed."""
    noise = np.random.default_rng(seed).normal(0, SIGMA, clean.shape)
    return (clean + noise).astype(np.float32)


def arguments(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Tell our own ``key=value`` from overrides of careamics-train."""
    own = {"algorithm": "n2v", "steps": "1000", "bsd": "", "out": "", "seed": "0"}
    given = dict(word.split("=", 1) for word in words if word.split("=")[0] in own)
    rest = [word for word in words if word.split("=")[0] not in own]
    own |= given
    own["out"] = own["out"] or f"bsd68_{own['algorithm']}"
    if own["algorithm"] not in PUBLISHED or own["algorithm"] == "bm3d" or not own["bsd"]:
        sys.exit(f"{__doc__}\nalgorithm={own['algorithm']}, bsd={own['bsd']}: see above.")
    return own, rest


def main() -> None:
    """Train, or go on, and evaluate."""
    own, rest = arguments(sys.argv[1:])
    algorithm, steps, seed = own["algorithm"], int(own["steps"]), int(own["seed"])
    out = Path(own["out"])
    with hydra.initialize_config_module("careamics_dm.conf", **BASE):
        config = hydra.compose("train", [f"model={algorithm}", *rest])
    warnings.filterwarnings("ignore", module="lightning")  # about its own affairs
    L.seed_everything(seed, verbose=False)
    clean = tifffile.imread(Path(own["bsd"]) / "train400.tif")
    tests = [tifffile.imread(path) for path in sorted(Path(own["bsd"], "test68").glob("*.tif"))]
    target = {"care": clean, "n2n": noisy(clean, seed + 1)}.get(algorithm)
    batch = config.data.batch_size
    data = instantiate(
        config.data,
        train_data=noisy(clean, seed),
        train_target=target if target is None else target.astype(np.float32),
        predict_data=[noisy(image, seed + 2 + i)[None] for i, image in enumerate(tests)],
        axes="SYX",
        patches_per_epoch=STEPS_PER_EPOCH * batch,
        n_val_patches=0,
        seed=seed,
    )
    model = instantiate(config.model)
    last, epochs = out / "model.ckpt", -(-steps // STEPS_PER_EPOCH)
    trainer = L.Trainer(
        max_epochs=epochs,
        logger=False,
        enable_model_summary=False,
        callbacks=[SaveModel(out, keep="last")],
    )
    out.mkdir(parents=True, exist_ok=True)
    begun = (out / "steps.txt").read_text() if last.exists() else str(steps)
    if begun != str(steps):  # the learning rate falls over the whole run
        sys.exit(f"{out} was begun with steps={begun}. Give that, or another out=FOLDER.")
    (out / "steps.txt").write_text(str(steps))
    start = time.perf_counter()
    resume = last if last.exists() else None
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    seconds = time.perf_counter() - start
    predicted = trainer.predict(model, datamodule=data)
    images = [batch["prediction"][0, 0].numpy() for batch in predicted]
    values = [psnr(truth, image, 255) for truth, image in zip(tests, images, strict=True)]
    before = [
        psnr(truth, image[0], 255) for truth, image in zip(tests, data.data["predict"], strict=True)
    ]
    filters = config.model.network.get("first_filters", "?")
    print(f"\n{algorithm}: {trainer.global_step} steps of {batch} patches of {data.patch_size}, ")
    print(f"{filters} filters, {seconds:.0f} s of training in this session\n")
    print("| method | mean PSNR of the 68, dB |\n|---|---|")
    print(f"| noisy | {np.mean(before):.2f} |\n| **{algorithm}, here** | {np.mean(values):.2f} |")
    for name, value in PUBLISHED.values():
        print(f"| {name}, published | {value:.2f} |")


if __name__ == "__main__":
    main()
