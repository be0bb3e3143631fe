"""The configuration says what the code says, and belongs to nobody but us."""

import importlib
import inspect
from importlib import resources
from pathlib import Path

import hydra
import pytest
import yaml
from apps import SMALL, refuse, succeed, write_tiffs
from hydra.utils import get_object
from omegaconf import OmegaConf

CONF = Path(str(resources.files("careamics_dm.conf")))
OPTIONS = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))
GROUPS = sorted({str(path.parent) for path in OPTIONS})
APPS = ("train", "predict", "preview")
IN_DATA = ("normalization", "augmentation", "patch_filter")  # arguments of a data module
VARIANTS = {
    # What makes an option another one than the defaults of its class.
    "model/n2v2.yaml": {"network": {"n2v2": True}, "masking": {"strategy": "median"}},
    "model/structn2v.yaml": {"masking": {"struct_mask": "horizontal"}},
    "model/care.yaml": {"network": {"independent_channels": False}},
    "model/n2n.yaml": {"network": {"independent_channels": False}},
    "model_data/structn2v.yaml": {"augmentation": {"quarter_turns": False}},
    "augmentation/flips.yaml": {"quarter_turns": False},
    "augmentation/none.yaml": {"flip": "", "quarter_turns": False},
}


def load(path: Path | str):
    return yaml.safe_load((CONF / path).read_text(encoding="utf-8"))


def nodes(config: dict, differs: dict):
    """Every node that names one of our classes, with what it may set otherwise."""
    if config.get("_target_", "").startswith("careamics_dm."):
        yield config, differs
    for key, value in config.items():
        if isinstance(value, dict):
            yield from nodes(value, differs.get(key, {}))


def compose(app: str, *overrides: str):
    with hydra.initialize_config_module("careamics_dm.conf", version_base="1.3"):
        return hydra.compose(app, list(overrides))


@pytest.mark.parametrize("path", OPTIONS, ids=str)
def test_keys_are_arguments_and_have_their_defaults(path):
    for config, differs in nodes(load(path), VARIANTS.get(path.as_posix(), {})):
        parameters = inspect.signature(get_object(config["_target_"])).parameters
        given = {key: value for key, value in config.items() if not key.startswith("_")}
        assert given.keys() <= parameters.keys()
        for key, value in given.items():
            default = parameters[key].default
            if isinstance(value, dict) or path.parent.name == "experiment":
                continue  # an object, compared by itself; a choice, which is no default
            if key in differs:
                assert value == differs[key] != default
            elif default is inspect.Parameter.empty:
                assert value is None  # the application knows
            else:
                assert (list(default) if isinstance(default, tuple) else default) == value


@pytest.mark.parametrize("path", sorted((CONF / "data").glob("*.yaml")), ids=lambda p: p.stem)
def test_each_format_is_one_module_and_one_file_with_all_of_its_arguments(path):
    config = load(path)
    module = importlib.import_module(f"careamics_dm.formats.{path.stem}")
    assert config.pop("_target_").startswith(module.__name__ + ".")
    assert config.pop("_convert_") == "all"
    signature = inspect.signature(get_object(load(path)["_target_"]))
    assert config.keys() == signature.parameters.keys()


def test_formats_share_their_arguments_so_that_a_sweep_over_them_works():
    shared = [set(load(path)) for path in sorted((CONF / "data").glob("*.yaml"))]
    assert {"train_data", "patch_size", "batch_size", "seed"} <= set.intersection(*shared)
    assert load("data/array.yaml").keys() <= load("data/tiff.yaml").keys()


@pytest.mark.parametrize("path", OPTIONS, ids=str)
def test_a_group_file_stands_alone(path):
    """Else another project's file of the same name would slip into ours, or a key be missing."""
    text = (CONF / path).read_text(encoding="utf-8")
    assert "${" not in text
    assert "defaults" not in load(path)


@pytest.mark.parametrize("path", OPTIONS, ids=str)
def test_objects_get_plain_containers(path):
    config = load(path)
    several = path.parent.name in ("callbacks", "model_data")  # parts of an object take after it
    for part in config.values() if several else [config]:
        assert part.get("_convert_") == "all" or path.parent.name.startswith("experiment")


def test_variants_of_noise2void_differ_only_where_they_say():
    basis = load("model/n2v.yaml")
    for name in ("n2v2", "structn2v"):
        expected = OmegaConf.merge(basis, VARIANTS[f"model/{name}.yaml"])
        assert load(f"model/{name}.yaml") == OmegaConf.to_container(expected)


def test_models_that_learn_from_pairs_have_the_network_and_the_schedule_of_noise2void():
    basis, care, n2n = (load(f"model/{name}.yaml") for name in ("n2v", "care", "n2n"))
    assert care["network"] == basis["network"] | {"independent_channels": False}
    assert care["optimizer"] == basis["optimizer"] and care["scheduler"] == basis["scheduler"]
    target = {"_target_": "careamics_dm.models.n2n.N2NModule"}
    assert n2n == care | target | {"loss": "mse"}


@pytest.mark.parametrize("path", OPTIONS, ids=str)
def test_every_option_composes(path):
    group, option = path.parts[0], path.stem
    place = f"+{group}@data.{group}" if group in IN_DATA else group
    app = "predict" if path.as_posix() == "trainer/predict.yaml" else "train"
    choices = [f"{place}={option}"]
    if group == "experiment_data":  # chosen by what they are of
        experiment, _, data = option.partition("_")
        choices = [f"experiment={experiment}", f"data={data}"]
    if group == "model_data":
        choices = [f"model={option}"]
    config = compose(app, *choices)
    part = config.data[group] if place.startswith("+") else config.get(group)
    if group.startswith("experiment") or group == "model_data":
        expected = load(path).get("data", load(path))
        part = {key: config.data[key] for key in expected}
    else:
        expected = load(path)
    assert part == expected


@pytest.mark.parametrize("app", APPS)
def test_an_application_composes_and_has_no_key_of_hydra_in_its_configuration(app):
    config = compose(app)
    assert "data" in config and "hydra" not in config
    assert "${" not in OmegaConf.to_yaml(config)


@pytest.mark.parametrize("app", APPS)
def test_an_unknown_experiment_is_an_error(app):
    with pytest.raises(Exception, match="experiment"):
        compose(app, "experiment=nonsense")


def test_top_level_names_are_the_applications():
    assert {path.stem for path in CONF.glob("*.yaml")} == set(APPS)


def test_a_patch_filter_is_chosen_and_set_on_the_command_line(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50)])
    chosen = (*SMALL, "data=tiff", "data.train_data=images", "+patch_filter@data.patch_filter=max")
    message = refuse("train", tmp_path, *chosen)
    assert "patch_filter: threshold is not given. Give the least maximum" in message
    succeed("train", tmp_path, *chosen, "data.patch_filter.threshold=240")
