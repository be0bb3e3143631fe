"""Checkpoints of CAREamics: what becomes of them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from apps import refuse, succeed
from careamics_files import MASKING, MEAN_STD, NETWORK, content, unet

from careamics_dm import DataError, from_careamics, load_model, predict
from careamics_dm.transforms.normalization import Affine

TARGETS = {"target_means": [10.0], "target_stds": [2.0]}
RANGE = {"name": "min_max", "per_channel": False, "skip_target": False}
RANGE |= {"input_mins": [50.0], "input_maxes": [90.0], "target_mins": None, "target_maxes": None}
QUANTILE = {"name": "quantile", "per_channel": True, "skip_target": False}
QUANTILE |= {"lower_quantiles": [0.02], "upper_quantiles": [0.9]}
QUANTILE |= {"input_lower_quantile_values": [1.0], "input_upper_quantile_values": [5.0]}
QUANTILE |= {"target_lower_quantile_values": [2.0], "target_upper_quantile_values": [4.0]}


@pytest.fixture
def write(tmp_path):
    def write(found):
        torch.save(found, tmp_path / "theirs.ckpt")
        return tmp_path / "theirs.ckpt"

    return write


class TestPrediction:
    @pytest.mark.parametrize(
        ("algorithm", "settings", "name"),
        [
            ("n2v", {}, "N2VModule"),
            ("n2v", {"conv_dims": 3, "depth": 1, "use_batch_norm": False}, "N2VModule"),
            ("n2v", {"n2v2": True, "depth": 1}, "N2VModule"),
            (
                "n2v",
                {"in_channels": 2, "num_classes": 2, "independent_channels": True, "axes": "CYX"},
                "N2VModule",
            ),
            ("care", {"in_channels": 2, "axes": "CYX", "use_batch_norm": False}, "CAREModule"),
            ("n2n", {"residual": True}, "N2NModule"),
        ],
    )
    def test_a_model_predicts_as_its_network_does(self, write, algorithm, settings, name):
        norm = MEAN_STD if algorithm == "n2v" else MEAN_STD | TARGETS
        found = content(algorithm, normalization=norm, **settings)
        model = from_careamics(write(found))
        network = NETWORK | settings
        shape = (network["in_channels"], *(16,) * network["conv_dims"])
        image = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
        raw = unet(network)(torch.from_numpy((image[None] - 100) / 20)).detach().numpy()[0]
        expected = raw * 20 + 100 if algorithm == "n2v" else raw * 2 + 10
        image = (
            image
            if "C" in found["datamodule_hyper_parameters"]["data_config"]["axes"]
            else image[0]
        )
        predicted = predict(model, image)
        assert predicted.reshape(expected.shape) == pytest.approx(expected, rel=1e-5)
        assert type(model.module).__name__ == name and not model.module.training

    def test_its_configuration_is_ours(self, write):
        masking = MASKING | {"struct_mask": {"axes": "vertical", "span": 7}}
        found = content("n2v", depth=1, use_batch_norm=False, normalization=QUANTILE, channels=[1])
        found["hyper_parameters"]["algorithm_config"]["n2v_config"] = masking
        model = from_careamics(write(found))
        assert model.config["model"]["network"] == {
            "_target_": "careamics_dm.UNet",
            "_partial_": True,
            "depth": 1,
            "first_filters": 2,
            "batch_norm": False,
            "residual": False,
            "independent_channels": False,
            "pool": [2, 2],
            "n2v2": False,
            "blur_padding": "zeros",
        }
        assert model.config["data"] == {
            "_target_": "careamics_dm.ArrayDataModule",
            "axes": "YX",
            "target_axes": None,
            "channels": [1],
            "patch_size": [16, 16],
            "batch_size": 8,
            "normalization": {
                "_target_": "careamics_dm.Quantile",
                "per_channel": True,
                "low": 0.02,
                "high": 0.9,
            },
            "normalize_target": True,
        }
        masking = model.module.masking
        assert (masking.roi_size, masking.struct_mask, masking.struct_span) == (5, "vertical", 7)
        optimizer = model.config["model"]["optimizer"]
        assert optimizer["_target_"] == "torch.optim.Adam" and optimizer["lr"] == 0.002

    @pytest.mark.parametrize(
        ("norm", "image", "target"),
        [
            (MEAN_STD, ([100.0], [20.000001]), None),
            (MEAN_STD | TARGETS, ([100.0], [20.000001]), ([10.0], [2.000001])),
            (MEAN_STD | TARGETS | {"skip_target": True}, ([100.0], [20.000001]), ([0.0], [1.0])),
            (RANGE, ([50.0], [40.00000001]), None),
            (QUANTILE, ([1.0], [4.00000001]), ([2.0], [2.00000001])),
            ({"name": "none"}, ([0.0], [1.0]), ([0.0], [1.0])),
        ],
    )
    def test_statistics(self, write, norm, image, target):
        expected = {"image": Affine(*image)} | ({"target": Affine(*target)} if target else {})
        assert from_careamics(write(content("care", normalization=norm))).statistics == expected

    def test_targets_of_noise2void_do_not_count(self, write):
        model = from_careamics(write(content("n2v", normalization=MEAN_STD | TARGETS)))
        assert model.statistics == {"image": Affine([100.0], [20.000001])}


def changed(part, **values):
    """Change settings of a part of the content."""

    def change(found):
        algorithm = found["hyper_parameters"]["algorithm_config"]
        data = found["datamodule_hyper_parameters"]["data_config"]
        parts = {"algorithm": algorithm, "data": data, "normalization": data["normalization"]}
        parts["network"] = algorithm["model"]
        parts |= {"masking": algorithm["n2v_config"], "file": found}
        for name, value in values.items():
            parts[part][name] = value

    return change


class TestWhatIsNotSupported:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (changed("algorithm", algorithm="hdn"), "algorithm is hdn; careamics_dm can load: n2v"),
            (changed("algorithm", algorithm="pn2v"), "algorithm is pn2v"),
            (changed("network", architecture="LVAE"), "model.architecture is LVAE"),
            (changed("network", final_activation="Tanh"), "final_activation is Tanh"),
            (changed("network", depth=11), "depth is 11; careamics_dm can load: 1 to 10"),
            (changed("network", depth=True), "depth is True"),
            (changed("network", num_channels_init=1024), "not that of its weights"),
            (changed("network", depth=10), "not that of its weights"),
            (changed("network", use_batch_norm=None), "use_batch_norm is None"),
            (lambda c: c["hyper_parameters"]["algorithm_config"]["model"].pop("depth"), "is None"),
            (
                lambda c: c["hyper_parameters"]["algorithm_config"]["model"].pop("in_channels"),
                "in_channels is None; careamics_dm can load: 1 to 65535",
            ),
            (changed("network", n2v2=True, residual=True), "residual is True"),
            (changed("network", num_classes=2, independent_channels=True), "channels in and out"),
            (changed("algorithm", optimizer={"name": "Rprop", "parameters": {}}), "name is Rprop"),
            (changed("masking", masked_pixel_percentage="1"), "masked_pixel_percentage is 1; it"),
            (changed("masking", strategy="blank"), "strategy is blank"),
            (changed("normalization", name="image_wise"), "normalization.name is image_wise"),
            (changed("normalization", input_means=None), "input_means is None"),
            (changed("normalization", input_stds=[float("nan")]), r"input_stds is \[nan\]"),
            (changed("normalization", input_stds=[-1.0]), "above 0"),
            (
                changed("normalization", input_means=[1.0, 2.0]),
                r"has 2 number\(s\) and input_stds 1",
            ),
            (
                changed("data", normalization=RANGE | {"input_maxes": [90.0, 95.0]}),
                r"has 1 number\(s\) and input_maxes 2, for 1 channel",
            ),
            (changed("normalization", input_means=[10**400]), "must be finite numbers"),
            (
                changed("data", normalization=QUANTILE | {"lower_quantiles": [0.0, 0.1]}),
                "lower_quantiles is .* has one for all",
            ),
            (changed("data", patching={"patch_size": [16, 16, 16]}), "for 2 dimensions"),
            (changed("file", datamodule_hyper_parameters=3), "data_hyper|datamodule_hyper"),
            (changed("file", datamodule_hyper_parameters={}), "data_config is missing"),
        ],
    )
    def test_it_is_one_error_that_names_the_setting(self, write, change, words):
        found = content("n2v", normalization=dict(MEAN_STD))
        change(found)
        path = write(found)
        with pytest.raises(DataError, match=words) as caught:
            from_careamics(path)
        assert str(path) in str(caught.value) and len(str(caught.value)) < 500

    def test_a_model_zoo_file_or_a_run_of_ours_is_none(self, write):
        with pytest.raises(DataError, match=r"not written by CAREamics 0\.3\. Try"):
            from_careamics(write({"state_dict": {}, "careamics_dm": {}}))


class TestSaving:
    def test_it_becomes_a_model_of_ours(self, write, tmp_path):
        model = from_careamics(write(content("care")), save=tmp_path / "model.ckpt")
        again = load_model(tmp_path / "model.ckpt")
        assert again.config == model.config and again.statistics == model.statistics
        weights = model.module.state_dict()
        assert all(torch.equal(weights[k], v) for k, v in again.module.state_dict().items())
        with pytest.raises(DataError, match=r"model\.ckpt exists already"):
            from_careamics(tmp_path / "theirs.ckpt", save=tmp_path / "model.ckpt")


class TestCommands:
    @pytest.fixture
    def place(self, write, tmp_path):
        from_careamics(write(content("n2v")), save=tmp_path / "model.ckpt")
        image = np.random.default_rng(0).normal(100, 20, (32, 48)).astype(np.float32)
        tifffile.imwrite(tmp_path / "image.tif", image, metadata={"axes": "YX"})
        return tmp_path

    def test_prediction(self, place):
        succeed("predict", place, "checkpoint=theirs.ckpt", "data.predict_data=image.tif")
        (expected,) = predict(place / "model.ckpt", place / "image.tif")
        assert np.array_equal(tifffile.imread(place / "run/denoised/image.tif"), expected)

    def test_training_starts_from_its_weights(self, place):
        data = ("data=tiff", "data.train_data=image.tif", "statistics=weights")
        short = ("trainer.max_epochs=1", "data.patches_per_epoch=8", "model.optimizer.lr=0")
        short += ("+trainer.enable_progress_bar=false", "data.n_val_patches=1")
        succeed("train", place, "weights=theirs.ckpt", *data, *short)
        model, before = load_model(place / "run/model.ckpt"), load_model(place / "theirs.ckpt")
        assert model.statistics == before.statistics
        weights = before.module.network.head.weight
        assert torch.equal(model.module.network.head.weight, weights)

    def test_training_cannot_go_on(self, place):
        data = ("data=tiff", "data.train_data=image.tif", "trainer.max_epochs=9")
        message = refuse("train", place, "checkpoint=model.ckpt", *data)
        assert "Begin a new one with its weights: weights=model.ckpt" in message
