"""A new format is one Python file and one YAML: nothing else knows of it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import test_conf as contract
from apps import SMALL, succeed

import careamics_dm.formats
from careamics_dm.testing.datamodule_checks import check_datamodule, check_image_stack

MODULE = '''
"""Text files with numbers."""

import numpy as np

from careamics_dm.images.axes import check_axes
from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.images.array_stack import ArrayStack
from careamics_dm.sources.listing import list_files


class ToyDataModule(PatchDataModule):
    """Patches from text files."""

    def __init__(self, *, delimiter=",", **shared):
        super().__init__(**shared)
        self.delimiter = delimiter

    def list_sources(self, data, what):
        return list_files(data, (".txt",), what)

    def open_source(self, source, axes, *, delimiter=None):
        pixels = np.loadtxt(source, np.uint16, delimiter=delimiter or self.delimiter)
        return [ArrayStack(pixels, check_axes(axes, pixels.shape, str(source)), str(source))]
'''


YAML = """
defaults: [/careamics_dm/shared_data@_here_, _self_]
_target_: careamics_dm.formats.toy.ToyDataModule
delimiter: ","
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Add the two files, each to a folder that is searched."""
    for folder in ("formats", "conf/data", "texts"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "formats" / "toy.py").write_text(MODULE)
    path = tmp_path / "conf" / "data" / "toy.yaml"
    path.write_text(YAML)
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 99, (50, 60))
        np.savetxt(tmp_path / "texts" / f"{i}.txt", pixels, "%d", delimiter=",")
    monkeypatch.setattr(
        careamics_dm.formats,
        "__path__",
        [*careamics_dm.formats.__path__, str(tmp_path / "formats")],
    )
    yield path
    sys.modules.pop("careamics_dm.formats.toy", None)


def test_its_yaml_passes_what_all_must(toy):
    contract.test_keys_are_arguments_and_have_their_defaults(toy)
    contract.test_each_format_is_one_module_or_folder_and_one_file_with_all_of_its_arguments(toy)
    contract.test_what_formats_share_is_written_once(toy)
    contract.test_a_group_file_includes_nothing_but_what_is_in_our_namespace(toy)
    contract.test_objects_get_plain_containers(toy)


def test_a_key_too_many_or_another_default_is_found(toy):
    text = toy.read_text()
    toy.write_text(text + "colour: red\n")
    with pytest.raises(AssertionError):
        contract.test_each_format_is_one_module_or_folder_and_one_file_with_all_of_its_arguments(
            toy
        )
    toy.write_text(text + "seed: 1\n")
    with pytest.raises(AssertionError):
        contract.test_keys_are_arguments_and_have_their_defaults(toy)


def test_it_trains_and_predicts_from_the_command_line(toy, tmp_path):
    done = succeed(
        "train",
        tmp_path,
        f"hydra.searchpath=[file://{toy.parents[1]}]",
        "data=toy",
        "data.train_data=texts",
        "data.predict_data=texts",
        "data.axes=YX",
        *SMALL,
    )
    assert {"model.ckpt", "denoised/0.tif", "denoised/1.tif"} <= done.files


def test_it_keeps_the_promises(toy, tmp_path):
    from careamics_dm.formats.toy import ToyDataModule

    data = ToyDataModule(train_data=tmp_path / "texts", axes="YX", patch_size=(16, 16))
    data.setup("fit")
    check_image_stack(data.images_of("train").stacks[0])
    check_datamodule(ToyDataModule(train_data=tmp_path / "texts", axes="YX", patch_size=(16, 16)))


def test_its_manifests_may_say_what_its_files_need(toy, tmp_path):
    from careamics_dm.formats.toy import ToyDataModule

    (tmp_path / "texts" / "2.txt").write_text("\n".join([";".join(["7"] * 60)] * 50))
    (tmp_path / "all.csv").write_text("input,delimiter\ntexts/0.txt,\ntexts/2.txt,;\n")
    data = ToyDataModule(train_data=tmp_path / "all.csv", axes="YX", patch_size=(16, 16))
    data.setup("fit")
    assert (data.images_of("train").stacks[1].extract_patch(0, None, (0, 0), (50, 60)) == 7).all()
    (tmp_path / "all.csv").write_text("input,scene\ntexts/0.txt,1\n")
    with pytest.raises(ValueError, match=r"column\(s\) scene, which mean nothing for this format"):
        ToyDataModule(train_data=tmp_path / "all.csv", axes="YX").setup("fit")
