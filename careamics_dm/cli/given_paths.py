"""Paths on the command line, looked at before torch is imported: a wrong one is refused at once.

Whatever is not plainly a path of this machine is left to the code that opens it.
"""

from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from careamics_dm.cli.distributed_run import is_restarted, n_started
from careamics_dm.errors import DataError
from careamics_dm.sources.listing import named_paths

_STAGES = {
    "train": (("train", "val"), ("test",), ("predict",)),
    "predict": (("predict",),),
    "preview": (("train", "val"),),
    "export": (),
}
"""Roles whose data a command opens, those together whose faults come in one message."""
_OF_FILES = ("ArrayDataModule", "TiffDataModule", "CziDataModule", "CustomDataModule")


def check_given_paths(command: str, config: dict[str, Any], given: AbstractSet[str]) -> None:
    """Refuse a checkpoint or data that do not exist, with the message of what would open them.

    ``given`` are the keys on the command line: only data that are named there are looked for.
    """
    if n_started() > 1:  # ranks started together report a fault once, when they are connected
        return
    resumed = config.get("checkpoint") if command == "train" else None
    if is_restarted() or resumed == "auto":  # a run may go on, or have nothing left to do
        return
    for key in ("checkpoint", "weights"):
        if isinstance(path := config.get(key), str) and path:
            checkpoint_file(path, key)
    if resumed:  # it may have nothing left to do, and its checkpoint says the format
        return
    for stage in _STAGES[command]:
        faults = [fault for role in stage if (fault := _fault(config["data"], role, given))]
        if faults:
            raise DataError("\n".join(faults))


def checkpoint_file(path: str | Path, key: str = "checkpoint") -> Path:
    """Return the path of a checkpoint; a DataError, of the setting ``key``, if there is no file."""
    if "://" in str(path):
        raise DataError(
            f"{key}: {path} is a URL, but checkpoints are read from local files. Copy it to "
            "this machine and give that path."
        )
    path = Path(path).expanduser()
    if path.is_dir():
        inside = " or ".join(sorted(str(file) for file in path.glob("*.ckpt")))
        if not inside:
            raise unusable(path, "is a folder without a checkpoint", key)
        raise DataError(f"{key}: {path} is a folder. Name a file in it: {inside}.")
    if not path.is_file():
        raise unusable(path, f"does not exist (seen from {Path.cwd()})", key)
    return path


def unusable(path: str | Path, why: str, key: str = "checkpoint") -> DataError:
    """Make the error for a checkpoint that can't be used."""
    return DataError(f"{key}: {path} {why}. Name another model.ckpt of a run.")


def _fault(data: dict[str, Any], role: str, given: AbstractSet[str]) -> str:
    """Say what does not exist of the data of a role; empty if nothing is known to be wrong."""
    for key in (f"{role}_data", f"{role}_target", f"{role}_mask"):
        value: Any = data.get(key)
        items = value if isinstance(value, list) else [value]
        if f"data.{key}" not in given or not all(isinstance(item, str) for item in items):
            continue
        try:
            _look(data, value, key)
        except DataError as error:
            return str(error)
    return ""


def _look(data: dict[str, Any], value: str | list[str], what: str) -> None:
    module, _, name = str(data.get("_target_")).rpartition(".")
    if module != "careamics_dm" or data.get("image_stack_loader"):  # may be named otherwise
        return
    if name in _OF_FILES:
        named_paths(value, what)
    elif name == "ZarrDataModule":
        from careamics_dm.formats.zarr.discovery import check_exist  # late: others need no fsspec

        check_exist(value, what)
