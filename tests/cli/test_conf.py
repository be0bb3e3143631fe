"""The configuration says what the code says, and belongs to nobody but us."""

import inspect
from functools import cache
from pathlib import Path

import hydra
import pytest
import yaml
from apps import BASE, CONF, SMALL, compose, refuse, succeed, write_tiffs
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

SHARED = "careamics_dm"  # a namespace of ours: what our own files include
OPTIONS = sorted(p for p in CONF.glob("**/*.yaml") if p.parent != CONF and p.parent.name != SHARED)
APPS = ("train", "predict", "preview", "export")
VARIANTS = {
    # What makes an option another one than the defaults of its class.
    "model/n2v2": {"network": {"n2v2": True}, "masking": {"strategy": "median"}},
    "model/structn2v": {"masking": {"struct_mask": "horizontal"}},
    "model/care": {"network": {"independent_channels": False}},
    "model/n2n": {"network": {"independent_channels": False}},
    "data/augmentation/flips": {"quarter_turns": False},
    "data/augmentation/none": {"flip": "", "quarter_turns": False},
}


def option(path: Path) -> str:
    """Its group and name, such as data/patch_filter/max; also of somebody else's file."""
    return path.relative_to(root_of(path)).with_suffix("").as_posix()


def root_of(path: Path) -> Path:
    return CONF if path.is_relative_to(CONF) else path.parents[1]


@cache
def alone(path: Path) -> DictConfig:
    """An option by itself, with what it includes."""
    name = option(path)
    with hydra.initialize_config_dir(str(root_of(path)), **BASE):
        config = hydra.compose(name, ["hydra.searchpath=[pkg://careamics_dm.conf]"])
    for key in Path(name).parent.parts:
        config = config[key]
    return config


def composed(path: Path) -> dict:
    """That as plain containers of one's own."""
    return OmegaConf.to_container(alone(path))


def nodes(config: dict, differs: dict):
    """Every node that names one of our classes, with what it may set otherwise."""
    if config.get("_target_", "").startswith("careamics_dm."):
        yield config, differs
    for key, value in config.items():
        if isinstance(value, dict):
            yield from nodes(value, differs.get(key, {}))


def of_an_object(paths):
    return [path for path in paths if path.parent.name != "experiment"]


@pytest.mark.parametrize("path", of_an_object(OPTIONS), ids=option)
def test_keys_are_arguments_and_have_their_defaults(path):
    for config, differs in nodes(composed(path), VARIANTS.get(option(path), {})):
        parameters = inspect.signature(get_object(config["_target_"])).parameters
        given = {key: value for key, value in config.items() if not key.startswith("_")}
        assert given.keys() <= parameters.keys()
        for key, value in given.items():
            default = parameters[key].default
            if isinstance(value, dict):
                continue  # an object, compared by itself
            if key in differs:
                assert value == differs[key] != default
            elif default is inspect.Parameter.empty:
                assert value is None  # the application knows
            else:
                assert (list(default) if isinstance(default, tuple) else default) == value


@pytest.mark.parametrize("path", sorted((CONF / "data").glob("*.yaml")), ids=lambda p: p.stem)
def test_each_format_is_one_module_or_folder_and_one_file_with_all_of_its_arguments(path):
    config = composed(path)
    target = config.pop("_target_")
    assert target.count(".") == 1 or not path.is_relative_to(CONF)  # our files may move
    assert get_object(target).__module__.split(".")[2] == path.stem
    assert config.pop("_convert_") == "all"
    assert config.keys() == inspect.signature(get_object(target)).parameters.keys()


@pytest.mark.parametrize("path", sorted((CONF / "data").glob("*.yaml")), ids=lambda p: p.stem)
def test_what_formats_share_is_written_once(path):
    shared = yaml.safe_load((CONF / SHARED / "shared_data.yaml").read_text(encoding="utf-8"))
    assert not shared.keys() & (yaml.safe_load(path.read_text()).keys() - {"defaults"})


@pytest.mark.parametrize("path", OPTIONS, ids=option)
def test_a_group_file_includes_nothing_but_what_is_in_our_namespace(path):
    """Else another project's file of the same name would slip into ours."""
    if path.parent.name == "experiment":
        return  # of our applications only
    text = path.read_text(encoding="utf-8")
    assert "${" not in text
    for included in (yaml.safe_load(text) or {}).get("defaults", []):
        assert included == "_self_" or included.startswith(f"/{SHARED}/")


@pytest.mark.parametrize("path", of_an_object(OPTIONS), ids=option)
def test_objects_get_plain_containers(path):
    config = composed(path)
    for part in config.values() if path.parent.name == "callbacks" else [config]:
        assert part["_convert_"] == "all"


def test_variants_of_noise2void_differ_only_where_they_say():
    basis = composed(CONF / "model/n2v.yaml")
    for name in ("n2v2", "structn2v"):
        expected = OmegaConf.merge(basis, VARIANTS[f"model/{name}"])
        assert composed(CONF / f"model/{name}.yaml") == OmegaConf.to_container(expected)


def test_neighbor2neighbor_has_the_network_and_the_schedule_of_noise2void():
    basis, found = (composed(CONF / f"model/{name}.yaml") for name in ("n2v", "neighbor2neighbor"))
    own = {"_target_": "careamics_dm.Neighbor2NeighborModule", "gamma": 2.0}
    assert found == {k: v for k, v in basis.items() if k != "masking"} | own


def test_models_that_learn_from_pairs_have_the_network_and_the_schedule_of_noise2void():
    basis, care, n2n = (composed(CONF / f"model/{name}.yaml") for name in ("n2v", "care", "n2n"))
    assert care["network"] == basis["network"] | {"independent_channels": False}
    assert care["optimizer"] == basis["optimizer"] and care["scheduler"] == basis["scheduler"]
    target = {"_target_": "careamics_dm.N2NModule"}
    assert n2n == care | target | {"loss": None}


@pytest.mark.parametrize("path", OPTIONS, ids=option)
def test_every_option_is_chosen_by_its_group(path):
    group, _, name = option(path).rpartition("/")
    app = "predict" if option(path) == "trainer/predict" else "train"
    config = compose(app, f"{group}={name}")
    if group == "experiment":
        expected = yaml.safe_load(path.read_text(encoding="utf-8")).get("data", {})
        assert expected.items() <= OmegaConf.to_container(config.data).items()
    else:
        assert OmegaConf.select(config, group.replace("/", ".")) == composed(path)


def test_parts_of_the_data_stay_when_formats_are_swept_over():
    for name in ("tiff", "zarr"):
        chosen = ("data/patch_filter=max", "data.augmentation=false")
        config = compose("train", f"data={name}", *chosen)
        assert config.data.patch_filter._target_ == "careamics_dm.MaxFilter"
        assert config.data.augmentation is False and config.data.normalization == "mean_std"


def test_an_experiment_says_how_each_format_reads_its_copy():
    custom = compose("train", "data=custom", "experiment=formats").data
    assert (custom.read_func, custom.extension) == ("numpy.load", ".npy")
    assert compose("train", "data=custom").data.read_func is None


@pytest.mark.parametrize("app", APPS)
def test_an_application_composes_and_has_no_key_of_hydra_in_its_configuration(app):
    config = compose(app)
    assert ("data" in config or app == "export") and "hydra" not in config
    assert "${" not in OmegaConf.to_yaml(config)


@pytest.mark.parametrize("app", APPS[:3])
def test_an_unknown_experiment_is_an_error(app):
    with pytest.raises(Exception, match="experiment"):
        compose(app, "experiment=nonsense")


def test_top_level_names_are_the_applications():
    assert {path.stem for path in CONF.glob("*.yaml")} == set(APPS)


def test_a_patch_filter_is_chosen_and_set_on_the_command_line(tmp_path):
    write_tiffs(tmp_path / "images", "YX", [(40, 50)])
    chosen = (*SMALL, "data=tiff", "data.train_data=images", "data/patch_filter=max")
    message = refuse("train", tmp_path, *chosen)
    assert "patch_filter: threshold is not given. Give the least maximum" in message
    succeed("train", tmp_path, *chosen, "data.patch_filter.threshold=240")
