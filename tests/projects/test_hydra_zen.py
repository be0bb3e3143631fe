"""hydra-zen: configurations with every argument, and what is made of them."""

from __future__ import annotations

import inspect

import pytest
from hydra_zen import builds, instantiate

import careamics_dm
from careamics_dm import CAREModule, MaxFilter, Quantile, TiffDataModule, UNet
from careamics_dm.models.trainer_data import build_network

CLASSES = [name for name in careamics_dm.__all__ if name.endswith("Module")] + ["UNet", "Masking"]


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_is_in_the_configuration(name):
    ours = getattr(careamics_dm, name)
    config = builds(ours, populate_full_signature=True)
    assert inspect.signature(config).parameters.keys() == inspect.signature(ours).parameters.keys()


def test_a_data_module_is_made_of_it():
    config = builds(TiffDataModule, populate_full_signature=True, hydra_convert="all")
    settings = instantiate(
        config(
            train_data="images",
            patch_size=[16, 16],
            level=1,
            normalization=builds(Quantile, high=0.9),
            patch_filter=builds(MaxFilter, threshold=1),
        )
    ).settings
    assert (settings.train_data, settings.patch_size) == ("images", (16, 16))
    assert (settings.normalization.high, settings.patch_filter.threshold) == (0.9, 1)


def test_networks_are_built_for_the_data_also_where_all_arguments_are_given():
    network = builds(UNet, populate_full_signature=True, zen_partial=True)
    config = builds(CAREModule, populate_full_signature=True)
    model = instantiate(config(network=network(depth=1, independent_channels=False)))
    data = type("Data", (), {"n_channels": 2, "patch_size": (8, 16, 16)})
    made = build_network(model._build, data, out_channels=1)
    assert (made.in_channels, made.out_channels, made.dims, made.depth) == (2, 1, 3, 1)
