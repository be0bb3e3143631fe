"""Checkpoints made to do harm: each is refused with one message, and nothing in it is executed."""

import math
from collections import Counter, OrderedDict
from contextlib import chdir

import numpy as np
import pytest
import torch
from apps import SMALL, noise, refuse, succeed, write_tiffs
from careamics_files import content as of_careamics

from careamics_dm import load_model
from careamics_dm.cli.checkpoints import load_checkpoint
from careamics_dm.cli.trust import check_config
from careamics_dm.errors import DataError

MARK = "executed"
SYSTEM = {"_target_": "os.system", "command": f"touch {MARK}"}
IMPORTED = {"_target_": "hostile.Net"}
LAYERS = "torch.nn"
NOT_TRUSTED, NOT_PLAIN, INTERPOLATION = "If you trust it", "no plain value", "interpolation"
NO_KEY, NO_PATH, DAMAGED, TOO_DEEP = "which no run writes", "no import path", "is damaged", "nested"
UNSUITABLE, INCOMPLETE, PICKLED = "not those of this network", "is incomplete", "pickled objects"


def deep(inner, levels):
    for _ in range(levels):
        inner = [inner]
    return inner


def endless():
    inner = []
    inner.append(inner)
    return inner


def many():
    """Few lists that stand for more than a million million values."""
    inner = [1, 2]
    for _ in range(40):
        inner = [inner, inner]
    return inner


class Text(str):
    pass


NETWORKS = {
    # Targets
    "system": (SYSTEM, NOT_TRUSTED),
    "eval": ({"_target_": "builtins.eval", "source": "1"}, NOT_TRUSTED),
    "own_module": (IMPORTED, NOT_TRUSTED),
    "partial": (SYSTEM | {"_partial_": True}, NOT_TRUSTED),
    "converted": (SYSTEM | {"_convert_": "all"}, NOT_TRUSTED),
    "by_way_of_ours": (
        SYSTEM | {"_target_": "careamics_dm.prediction.tiff_writer.os.system"},
        NOT_TRUSTED,
    ),
    "by_way_of_torch": (SYSTEM | {"_target_": "torch.nn.os.system"}, NOT_TRUSTED),
    "by_way_of_layers": (
        {"_target_": "torch.nn.functional.importlib.import_module", "name": "hostile"},
        NOT_TRUSTED,
    ),
    "by_way_of_modules": (
        {"_target_": "torch.nn.modules.module.functools.partial"},
        NOT_TRUSTED,
    ),
    "long_chain": (
        SYSTEM | {"_target_": "torch.nn.modules.module.torch.nn.os.system"},
        NOT_TRUSTED,
    ),
    "chain_of_ours": (
        SYSTEM | {"_target_": "careamics_dm.models.n2v.N2VModule.os.system"},
        NOT_TRUSTED,
    ),
    "chain_to_a_class": ({"_target_": "torch.nn.os.Linear"}, NOT_TRUSTED),
    "method_of_a_layer": ({"_target_": "torch.nn.Module.load_state_dict"}, NOT_TRUSTED),
    "globals": ({"_target_": "torch.nn.Module.__init__.__globals__.get"}, NOT_TRUSTED),
    "class_of_a_class": ({"_target_": "careamics_dm.UNet.__class__"}, NOT_TRUSTED),
    "hub": ({"_target_": "torch.hub.load", "repo_or_dir": ".", "source": "local"}, NOT_TRUSTED),
    "load": ({"_target_": "torch.load", "f": "x", "weights_only": False}, NOT_TRUSTED),
    "script": ({"_target_": "torch.jit.load", "f": "x"}, NOT_TRUSTED),
    "compile": ({"_target_": "torch.utils.cpp_extension.load", "name": "x"}, NOT_TRUSTED),
    "parallel": ({"_target_": "torch.nn.parallel.replicate"}, NOT_TRUSTED),
    "initializer": ({"_target_": "torch.nn.init.normal_"}, NOT_TRUSTED),
    "function_of_ours": ({"_target_": "careamics_dm.stitch"}, NOT_TRUSTED),
    "build": ({"_target_": "careamics_dm.cli.application.build"}, NOT_TRUSTED),
    "writer": ({"_target_": "careamics_dm.TiffWriter", "folder": MARK}, NOT_TRUSTED),
    "callback": ({"_target_": "careamics_dm.callbacks.training.Pictures"}, NOT_TRUSTED),
    "similar_package": ({"_target_": "careamics_dm_evil.UNet"}, NOT_TRUSTED),
    "similar_torch": ({"_target_": "torch.nn_evil.Linear"}, NOT_TRUSTED),
    "lightning": ({"_target_": "lightning.Trainer"}, NOT_TRUSTED),
    "hydra": ({"_target_": "hydra.utils.get_method", "path": "os.system"}, NOT_TRUSTED),
    "nothing": ({"_target_": "careamics_dm.nothing"}, NOT_TRUSTED),
    "dots": ({"_target_": ".."}, NO_PATH),
    "spaces": ({"_target_": "os.system "}, NO_PATH),
    "newline": ({"_target_": "torch.nn.Linear\nos.system"}, NO_PATH),
    "no_text": ({"_target_": 3}, NO_PATH),
    "list_target": ({"_target_": ["os.system"]}, NO_PATH),
    "null_target": ({"_target_": None}, NO_PATH),
    "nested_target": ({"_target_": SYSTEM}, NO_PATH),
    # Where they hide
    "in_a_list": ({"layers": [SYSTEM]}, NOT_TRUSTED),
    "in_lists": ({"layers": deep(SYSTEM, 20)}, NOT_TRUSTED),
    "in_an_allowed_class": ({"_target_": "careamics_dm.UNet", "depth": SYSTEM}, NOT_TRUSTED),
    "in_a_layer": ({"_target_": f"{LAYERS}.Sequential", "arg": SYSTEM}, NOT_TRUSTED),
    "in_a_tuple": ({"layers": (SYSTEM,)}, NOT_PLAIN),
    "a_tuple": ((SYSTEM,), NOT_PLAIN),
    "in_a_set": ({"layers": {"os.system"}}, NOT_PLAIN),
    "in_another_dict": (OrderedDict(SYSTEM), NOT_PLAIN),
    "in_a_counter": (Counter({"_target_": 1}), NOT_PLAIN),
    "in_a_text_of_another_class": ({"_target_": Text("os.system")}, PICKLED),
    "bytes": ({"_target_": b"os.system"}, NOT_PLAIN),
    "complex": ({"depth": 1j}, NOT_PLAIN),
    "tensor": ({"depth": torch.ones(1)}, NOT_PLAIN),
    "dtype": ({"depth": torch.float32}, NOT_PLAIN),
    "key": ({("_target_",): "os.system"}, NOT_PLAIN),
    "very_deep": (deep(SYSTEM, 60), TOO_DEEP),
    "extremely_deep": (deep(SYSTEM, 250), TOO_DEEP),
    "endless": (endless(), TOO_DEEP),
    "too_many": (many(), TOO_DEEP),
    # Keys for Hydra
    "args": ({"_target_": "careamics_dm.UNet", "_args_": [SYSTEM]}, NO_KEY),
    "recursive": ({"_target_": "careamics_dm.UNet", "_recursive_": False}, NO_KEY),
    "call": ({"_call_": "os.system"}, NO_KEY),
    "whitelist": (SYSTEM | {"_execution_whitelist_": ["os.*"]}, NOT_TRUSTED),
    "whitelist_alone": ({"_execution_whitelist_": ["os.*"]}, NO_KEY),
    "isolate": ({"_target_": "careamics_dm.UNet", "_isolate_": True}, NO_KEY),
    "dunder": ({"_target_": "careamics_dm.UNet", "__class__": "os.system"}, NO_KEY),
    "partial_number": ({"_target_": "careamics_dm.UNet", "_partial_": 1}, NO_KEY),
    "partial_text": ({"_target_": "careamics_dm.UNet", "_partial_": "true"}, NO_KEY),
    "partial_object": ({"_target_": "careamics_dm.UNet", "_partial_": SYSTEM}, NO_KEY),
    "convert": ({"_target_": "careamics_dm.UNet", "_convert_": "os.system"}, NO_KEY),
    "convert_list": ({"_target_": "careamics_dm.UNet", "_convert_": ["all"]}, NO_KEY),
    # Interpolations
    "resolver": ("${oc.env:HOME}", INTERPOLATION),
    "decoded": ("${oc.decode:'{_target_: os.system, command: ls}'}", INTERPOLATION),
    "in_a_text": ({"_target_": "x${oc.env:HOME}"}, INTERPOLATION),
    "of_a_key": ({"_target_": "${a.b}"}, INTERPOLATION),
    "in_a_key": ({"${a.b}": 1}, INTERPOLATION),
    "in_a_list_of_texts": ({"layers": ["a", "b ${.c}"]}, INTERPOLATION),
    "escaped": ({"_target_": "\\\\${a.b}"}, INTERPOLATION),
    "open": ({"_target_": "os.${"}, INTERPOLATION),
    # Functions by their import path
    "read_func": (
        {"_target_": "careamics_dm.CustomDataModule", "read_func": "hostile:read"},
        NOT_TRUSTED,
    ),
    "loader": (
        {"_target_": "careamics_dm.CustomDataModule", "image_stack_loader": "hostile.read"},
        NOT_TRUSTED,
    ),
    "old_loader": (
        {
            "_target_": "careamics_dm.formats.custom.datamodule.CustomDataModule",
            "read_func": "os.system",
        },
        NOT_TRUSTED,
    ),
    "function_object": ({"read_func": SYSTEM}, NOT_TRUSTED),
}
"""What stands where the network's configuration should."""


def weight(content, change):
    weights = content["state_dict"]
    name = next(name for name in weights if name.endswith("weight"))
    weights[name] = change(weights[name])


def statistics(content, **changed):
    data = next(v for v in content.values() if isinstance(v, dict) and "statistics" in v)
    data["statistics"]["image"] |= changed


def data_state(content, **changed):
    next(v for v in content.values() if isinstance(v, dict) and "statistics" in v).update(changed)


def drop_weight(content):
    del content["state_dict"][next(iter(content["state_dict"]))]


OTHERS = {
    # In other places
    "model": (lambda c: c["careamics_dm"].update(model=SYSTEM), NOT_TRUSTED),
    "optimizer": (lambda c: c["careamics_dm"]["model"].update(optimizer=SYSTEM), NOT_TRUSTED),
    "scheduler": (lambda c: c["careamics_dm"]["model"].update(scheduler=IMPORTED), NOT_TRUSTED),
    "masking": (lambda c: c["careamics_dm"]["model"].update(masking=SYSTEM), NOT_TRUSTED),
    "tuple_elsewhere": (lambda c: c["careamics_dm"].update(trainer=(SYSTEM,)), NOT_PLAIN),
    "interpolation_elsewhere": (lambda c: c["careamics_dm"].update(seed="a${b}"), INTERPOLATION),
    "no_dict": (lambda c: c["careamics_dm"].update(model=[SYSTEM]), INCOMPLETE),
    "no_data": (lambda c: c["careamics_dm"].update(data=3), INCOMPLETE),
    "no_epoch": (lambda c: c.pop("epoch"), INCOMPLETE),
    # Weights
    "nan": (lambda c: weight(c, lambda w: w * math.nan), DAMAGED),
    "infinite": (lambda c: weight(c, lambda w: w / 0), DAMAGED),
    "no_tensor": (lambda c: weight(c, lambda w: w.tolist()), DAMAGED),
    "text": (lambda c: weight(c, lambda w: "weight"), DAMAGED),
    "sparse": (lambda c: weight(c, lambda w: w.to_sparse()), DAMAGED),
    "meta": (lambda c: weight(c, lambda w: w.to("meta")), DAMAGED),
    "stretched": (lambda c: weight(c, lambda w: torch.zeros(1).expand(10**12)), DAMAGED),
    "shape": (lambda c: weight(c, lambda w: torch.zeros(3)), UNSUITABLE),
    "missing": (drop_weight, UNSUITABLE),
    "surplus": (lambda c: c["state_dict"].update(other=torch.zeros(3)), UNSUITABLE),
    "none": (lambda c: c.update(state_dict={}), UNSUITABLE),
    "no_names": (lambda c: c.update(state_dict=[torch.zeros(3)]), DAMAGED),
    "numbered": (lambda c: c.update(state_dict={3: torch.zeros(3)}), DAMAGED),
    # Statistics
    "nan_offset": (lambda c: statistics(c, offset=[math.nan]), DAMAGED),
    "huge_offset": (lambda c: statistics(c, offset=[10**400]), DAMAGED),
    "infinite_scale": (lambda c: statistics(c, scale=[math.inf]), DAMAGED),
    "zero_scale": (lambda c: statistics(c, scale=[0.0]), DAMAGED),
    "negative_scale": (lambda c: statistics(c, scale=[-1.0]), DAMAGED),
    "text_scale": (lambda c: statistics(c, scale=["1"]), DAMAGED),
    "tensor_scale": (lambda c: statistics(c, scale=torch.ones(1)), NOT_PLAIN),
    "no_scale": (lambda c: statistics(c, scale=[]), DAMAGED),
    "nan_limit": (lambda c: statistics(c, low=[0.0], high=[math.nan]), DAMAGED),
    "one_limit": (lambda c: statistics(c, low=[0.0], high=None), DAMAGED),
    "fewer_limits": (lambda c: statistics(c, low=[], high=[]), DAMAGED),
    "other_statistics": (lambda c: statistics(c, mean=[1.0]), DAMAGED),
    "list_of_statistics": (lambda c: data_state(c, statistics=[1]), DAMAGED),
    "other_side": (lambda c: data_state(c, statistics={"other": {}}), DAMAGED),
    "many_channels": (lambda c: data_state(c, n_channels="1"), DAMAGED),
    "no_channels": (lambda c: data_state(c, n_channels=0), DAMAGED),
    "two_states": (lambda c: c.update(x={"statistics": {}, "n_channels": 1}), INCOMPLETE),
}
"""What is changed elsewhere."""
HOSTILE = {
    **{
        f"network_{name}": (
            lambda c, n=network: c["careamics_dm"]["model"].update(network=n),
            words,
        )
        for name, (network, words) in NETWORKS.items()
    },
    **OTHERS,
}


def algorithm(content, **changed):
    content["hyper_parameters"]["algorithm_config"].update(changed)


def optimizer(content, **parameters):
    algorithm(content, optimizer={"name": "Adam", "parameters": parameters})


WEIGHTS = ("nan", "infinite", "no_tensor", "text", "sparse", "meta", "stretched", "shape")
WEIGHTS += ("missing", "surplus", "none", "no_names", "numbered")
OF_CAREAMICS = {
    **{name: OTHERS[name] for name in WEIGHTS},
    "no_epoch": OTHERS["no_epoch"],
    **{n: (OTHERS[n][0], "not that of its weights") for n in ("no_names", "none", "numbered")},
    "no_weights": (lambda c: c.pop("state_dict"), "not that of its weights"),
    "settings": (lambda c: c["hyper_parameters"].update(algorithm_config=[1]), "is missing"),
    "algorithm": (lambda c: algorithm(c, algorithm=SYSTEM), "can load: n2v"),
    "state": (lambda c: algorithm(c, algorithm=torch.ones(1)), NOT_PLAIN),
    "network": (lambda c: algorithm(c, model=[SYSTEM]), "is missing"),
    "loss": (lambda c: algorithm(c, algorithm="care", loss=SYSTEM), "can load: mae"),
    "optimizer": (lambda c: algorithm(c, optimizer=SYSTEM), "optimizer.name is None"),
    "rate": (lambda c: optimizer(c, lr=SYSTEM), NOT_TRUSTED),
    "target": (lambda c: optimizer(c, lr={"_target_": "hostile.Net"}), NOT_TRUSTED),
    "args": (lambda c: optimizer(c, _args_=[SYSTEM]), NO_KEY),
    "tuple": (lambda c: optimizer(c, lr=(SYSTEM,)), NOT_PLAIN),
    "interpolation": (lambda c: optimizer(c, lr="${oc.env:HOME}"), INTERPOLATION),
    "many": (lambda c: algorithm(c, algorithm=many()), TOO_DEEP),
    "endless": (lambda c: optimizer(c, lr=endless()), TOO_DEEP),
    "pickled": (lambda c: optimizer(c, lr=Text("1")), PICKLED),
}
"""The same of a checkpoint of CAREamics."""
SHAPES = [name for name in HOSTILE if HOSTILE[name][1] == UNSUITABLE]
END_TO_END = [f"network_{name}" for name in ("system", "own_module", "a_tuple", "args", "decoded")]
END_TO_END += ["network_read_func", "optimizer", "nan", "zero_scale"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    np.save(folder / "noisy.npy", noise((60, 70)))
    succeed("train", folder, *SMALL, "data.train_data=noisy.npy", "data.axes=YX")
    return folder / "run" / "model.ckpt"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of data in which a module lies that leaves a mark when it is imported."""
    write_tiffs(tmp_path / "images", "YX", [(40, 50)])
    np.save(tmp_path / "noisy.npy", noise((60, 70)))
    (tmp_path / "hostile.py").write_text(
        f"from pathlib import Path\nPath(__file__).with_name({MARK!r}).touch()\n"
        "def read(path): pass\nclass Net: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_there_are_more_than_sixty():
    assert len(HOSTILE) > 60


def save(place, trained, name):
    content = torch.load(trained, weights_only=True)
    HOSTILE[name][0](content)
    torch.save(content, place / "hostile.ckpt")


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in SHAPES])
def test_it_is_refused_and_nothing_in_it_is_executed(place, trained, name):
    save(place, trained, name)
    with chdir(place), pytest.raises(DataError, match=HOSTILE[name][1]) as caught:
        found = load_checkpoint("hostile.ckpt")
        check_config(found["config"]["model"], [], "hostile.ckpt")
    assert "hostile.ckpt" in str(caught.value) and len(str(caught.value)) < 1000
    assert not list(place.rglob(MARK))


@pytest.mark.parametrize("name", [*END_TO_END, *SHAPES])
@pytest.mark.parametrize("app", ["predict", "train"])
def test_prediction_and_resumed_training_refuse_it_with_one_message(place, trained, name, app):
    save(place, trained, name)
    training = (*SMALL, "trainer.max_epochs=2", "data.train_data=noisy.npy", "data.axes=YX")
    arguments = training if app == "train" else ("data=tiff", "data.predict_data=images")
    message = refuse(app, place, *arguments, "checkpoint=hostile.ckpt")
    assert HOSTILE[name][1] in message and "hostile.ckpt" in message and len(message) < 1000
    assert not list(place.rglob(MARK))


@pytest.mark.parametrize("name", OF_CAREAMICS)
def test_a_checkpoint_of_careamics_is_refused_likewise(place, name):
    content, (change, words) = of_careamics("n2v"), OF_CAREAMICS[name]
    change(content)
    torch.save(content, place / "hostile.ckpt")
    with chdir(place), pytest.raises(DataError, match=words) as caught:
        load_model("hostile.ckpt")
    assert "hostile.ckpt" in str(caught.value) and len(str(caught.value)) < 1000
    assert not list(place.rglob(MARK))


def test_the_trap_is_a_real_one(place, trained):
    content = torch.load(trained, weights_only=True)
    content["careamics_dm"]["model"]["network"] = IMPORTED | {"_partial_": True}
    torch.save(content, place / "hostile.ckpt")
    refuse("predict", place, "data.predict_data=images", "checkpoint=hostile.ckpt")
    assert not (place / MARK).exists()
    trust = "trusted=[hostile]"
    refuse("predict", place, "data.predict_data=images", "checkpoint=hostile.ckpt", trust)
    assert (place / MARK).exists()
