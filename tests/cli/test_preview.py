"""`careamics-preview`: what a model would see, without training."""

import numpy as np
import pytest
import tifffile
from apps import noise, refuse, succeed, write_tiffs
from matplotlib.image import imread

SMALL = ("data.patch_size=[16,16]", "data.n_val_patches=2")


def rows(picture):
    """Rows of panels in a contact sheet below its title, by the white lines between them."""
    inside = picture[60:, picture.shape[1] // 3 :, :3]
    filled = (inside < 0.9).any(axis=(1, 2))
    return int((np.diff(filled.astype(int)) == 1).sum() + filled[0])


@pytest.fixture
def images(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50), (33, 64)])
    return ("data=tiff", "data.train_data=images")


def test_it_prints_a_summary_draws_patches_and_trains_nothing(tmp_path, images):
    done = succeed("preview", tmp_path, *images, *SMALL)
    assert done.files == {"preview.png"}
    assert str(done.folder / "preview.png") in done.out
    assert "train    2 image(s) YX" in done.out
    assert "batches of 16" in done.out and "2 held out for validation" in done.out
    assert "image    offset 199." in done.out and "scale 14." in done.out  # of Poisson noise
    assert rows(imread(done.folder / "preview.png")) == 3  # stored, seen, masked


def test_lacking_targets_are_refused_as_in_training(tmp_path, images):
    message = refuse("preview", tmp_path, *images, *SMALL, "model=care")
    assert "CAREModule learns from clean targets, but train_data has no targets" in message


def test_it_shows_targets(tmp_path, images):
    write_tiffs(tmp_path / "targets", "YX", [(40, 50), (33, 64)])
    targets = "data.train_target=targets"
    done = succeed("preview", tmp_path, *images, *SMALL, targets, "model=care")
    assert rows(imread(done.folder / "preview.png")) == 4  # both, stored and seen
    assert "target" in done.out
    masked = succeed("preview", tmp_path, *images, *SMALL, targets, folder="masked")
    assert rows(imread(masked.folder / "preview.png")) == 5  # as Noise2Void sees it


def test_it_shows_the_middle_of_volumes(tmp_path):
    tifffile.imwrite(tmp_path / "volume.tif", noise((8, 40, 50)), metadata={"axes": "ZYX"})
    data = ("data=tiff", "data.train_data=volume.tif", "data.patch_size=[4,16,16]")
    done = succeed("preview", tmp_path, *data, "data.n_val_patches=2", "n=3")
    assert rows(imread(done.folder / "preview.png")) == 3


def test_without_data_it_shows_the_sample(tmp_path):
    for model, n in (("n2n", 4), ("structn2v", 3)):
        done = succeed("preview", tmp_path, f"model={model}", folder=model)
        assert rows(imread(done.folder / "preview.png")) == n
    done = succeed("preview", tmp_path, "experiment=n2v_3d")
    assert "filaments" in done.out and "32×256×256" in done.out
    assert done.files == {"preview.png"}


def test_other_settings_of_the_model_and_the_data_are_shown_as_they_are(tmp_path, images):
    settings = ("model=structn2v", "data.augmentation=false", "data.normalization=none", "n=2")
    done = succeed("preview", tmp_path, *images, *SMALL, *settings)
    assert "offset 0, scale 1" in done.out
    assert rows(imread(done.folder / "preview.png")) >= 2  # stored and seen look the same


def test_it_shows_what_modules_of_others_would_get(tmp_path, images):
    for setting in ("data.batch_format=tensor", "data.batch_size=null"):
        assert succeed("preview", tmp_path, *images, *SMALL, setting).files == {"preview.png"}


def test_it_finds_faults(tmp_path, images):
    (tmp_path / "images/bad.tif").write_text("no TIFF")
    message = refuse("preview", tmp_path, *images, *SMALL)
    assert "bad.tif" in message
    assert "n=0: give how many" in refuse("preview", tmp_path, *images, "n=0")
    assert "train_data is not given" in refuse("preview", tmp_path, "data=tiff")
    assert "no data=nothing" in refuse("preview", tmp_path, "data=nothing")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.masking.roi_size=17", "roi_size=17 is larger than data.patch_size=(16, 16)"),
        ("model.masking.struct_mask=axial", "'axial' is a line along Z"),
        ("model.network.depth=5", "axis Y has 16 pixels, but the network needs a multiple of 32"),
    ],
)
@pytest.mark.parametrize("app", ["preview", "train"])
def test_what_does_not_suit_the_patches_is_said_before_training(
    app, setting, message, tmp_path, images
):
    found = refuse(app, tmp_path, *images, *SMALL, "data.augmentation=false", setting)
    assert message in found


def test_a_constant_image_is_said(tmp_path):
    tifffile.imwrite(tmp_path / "empty.tif", np.full((40, 50), 7, np.uint16))
    with pytest.warns(UserWarning, match=r"the same value everywhere \(channel 0: 7\)"):
        succeed("preview", tmp_path, "data=tiff", "data.train_data=empty.tif", *SMALL)
