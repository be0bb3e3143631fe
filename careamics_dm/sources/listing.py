"""What a user names (a path, a list, a folder, a glob, a manifest) as a list of files."""

import csv
import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from careamics_dm.errors import DataError
from careamics_dm.sources.file_kind import other_kind

MANIFESTS = (".csv", ".yaml", ".yml", ".txt")
COLUMNS = ("input", "target", "mask", "split")
"""Of a manifest; others are keys of the format (``scene``, ``level``) or ``channel``."""
CHANNELS = ("channel", "target_channel")
"""Keys that every format knows: the channel of a row's input, and of its target."""
SPLITS = ("train", "val", "test", "predict")
Data = Any  # what an argument such as train_data may be: a path, a list of paths, an array


@dataclass(frozen=True)
class Listing:
    """Inputs in order, with their targets and masks where a manifest names them."""

    inputs: list[Any]
    targets: list[Any] | None = None
    masks: list[Any] | None = None
    root: Path | None = None
    """The folder that was searched; files of two folders pair by their names below it."""
    keys: list[dict[str, str]] | None = None
    """Per input, the other fields of its row in a manifest, which say what in the file is meant:
    those of `careamics_dm.PatchDataModule.open_source`, and `CHANNELS`."""

    def take(self, rows: Sequence[int]) -> "Listing":
        """Keep some inputs, with all that belongs to them, in that order."""
        inputs, targets, masks, keys = (
            None if column is None else [column[i] for i in rows]
            for column in (self.inputs, self.targets, self.masks, self.keys)
        )
        return Listing(inputs or [], targets, masks, self.root, keys)

    def beside(self, column: Literal["targets", "masks"]) -> "Listing | None":
        """Return the targets or masks of a manifest as a listing of their own.

        What a row says of its file it says of its target and mask too, but for the channel.
        """
        listed = self.targets if column == "targets" else self.masks
        if listed is None:
            return None
        keys = [{k: v for k, v in row.items() if k not in CHANNELS} for row in self.keys or ()]
        for key, row in zip(keys, self.keys or (), strict=True):
            if column == "targets" and "target_channel" in row:
                key["channel"] = row["target_channel"]
        return Listing(listed, keys=keys or None)


def list_files(data: Data, extensions: Sequence[str], what: str) -> Listing:
    """Find the files that an argument names, as listed or sorted by path.

    ``data`` is a file; a folder, searched recursively for the extensions (hidden files are left
    out); a glob (``scan_*/**/*.tif``); a manifest (see `read_manifest`); or a list of files.
    ``extensions`` are in lower case, with the dot. ``what`` is the name of the argument, for
    messages; a manifest's rows are chosen by it. All faults of a list come in one message.
    """
    paths = named_paths(data, what)
    if not isinstance(data, str | os.PathLike):
        _check_files(paths, extensions, what)
        return Listing([*paths])
    (path,) = paths
    if path.is_dir():
        return Listing(_search(path, extensions, what), root=path)
    if path.exists():
        _check_kind(path, what)
        if path.suffix.lower() in MANIFESTS and path.suffix.lower() not in extensions:
            return read_manifest(path, what, extensions)
        return Listing([path])
    # Path.glob would take hidden files too.
    found = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
    files = [name for name in found if name.is_file() or _is_store(name, extensions)]
    files = _each_once(files, what)
    if not files:
        raise DataError(f"{what}: no file matches the pattern {path}. Check the pattern.")
    return Listing([*files])


def named_paths(data: Data, what: str) -> list[Path]:
    """Return the path that an argument names, which may be a glob, or the paths of a list.

    Raises a DataError if there is none, or nothing at some of them.
    """
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        if not data:
            raise DataError(f"{what}: the list is empty. Name at least one file.")
        paths = [_as_path(item, what) for item in data]
        _check_exist(paths, what)
        return paths
    path = _as_path(data, what)
    if not path.exists() and not glob.has_magic(str(path)):
        raise DataError(f"{what}: {path} does not exist (seen from {Path.cwd()}). Check the path.")
    return [path]


def read_manifest(path: Path, what: str, extensions: Sequence[str] = ()) -> Listing:
    """Read a manifest: a table of files, so that no name has to survive a shell.

    It is a ``.csv`` with a header, a ``.yaml`` (a list of mappings or of names) or a ``.txt`` (a
    name per line), in UTF-8. Columns: ``input`` and, where wanted, ``target``, ``mask``, ``split``
    (``train_data`` takes the rows of ``train``, and so on) and keys that say what in the file is
    meant (``scene``, ``channel``, ``target_channel``). Relative paths start at the manifest; what
    has a ``://`` is a URL. Targets and masks may be left out for all rows of a split, keys for
    some. ``extensions`` are those of folders that are sources themselves (``.zarr``).
    """
    try:
        rows = _rows(path)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{what}: manifest {path} cannot be read: {error}.") from error
    if not rows:
        raise DataError(f"{what}: manifest {path} has no row. Name at least one file.")
    columns = {key for row in rows for key in row}
    if "input" not in columns:
        raise DataError(
            f"{what}: manifest {path} has the columns {', '.join(sorted(columns))}, but not input, "
            f"which names the files. There may be {', '.join(COLUMNS)} and keys of the format."
        )
    chosen = list(enumerate(rows, start=1))
    if "split" in columns:
        for number, row in chosen:
            if row.get("split") not in SPLITS:
                raise DataError(
                    f"{what}: manifest {path}: row {number} has split={row.get('split') or ''}. "
                    f"Choose among {', '.join(SPLITS)}."
                )
        split = what.split("_")[0]
        chosen = [(number, row) for number, row in chosen if row["split"] == split]
        if not chosen:
            raise DataError(f"{what}: manifest {path} has no row with split={split}.")

    def files(column: str) -> list[Any] | None:
        empty = [number for number, row in chosen if not row.get(column)]
        if len(empty) == len(chosen) and column != "input":
            return None
        if empty:
            raise DataError(f"{what}: manifest {path}: row {empty[0]} has no {column}.")
        names = [row[column] for _, row in chosen]
        return [n if "://" in n else path.parent / at_home(Path(n)) for n in names]

    inputs, targets, masks = files("input") or [], files("target"), files("mask")
    named = [file for file in (*inputs, *(targets or ()), *(masks or ())) if isinstance(file, Path)]
    _check_exist(named, what)
    _check_files(named, extensions, what)
    extra = sorted(columns - set(COLUMNS))
    keys = [{key: row[key] for key in extra if row.get(key)} for _, row in chosen]
    return Listing(inputs, targets, masks, keys=keys if extra else None)


def pair(inputs: Listing, others: Listing, what: str) -> Listing:
    """Put targets or masks into the order of their inputs; anything unpaired is an error.

    Files of two folders pair by their path below the folder, without the extension (``.ome.tif``
    is one); anything else pairs by order.
    """
    if inputs.root is not None and others.root is not None:
        ours, theirs = _by_name(inputs, what), _by_name(others, what)
        lone = {inputs.root: ours.keys() - theirs.keys(), others.root: theirs.keys() - ours.keys()}
        if any(lone.values()):
            found = [f"in {root}, {_some(sorted(n), 20)}" for root, n in lone.items() if n]
            raise DataError(
                f"{what}: files of {inputs.root} and {others.root} pair by name, but these have "
                f"no partner: {'; '.join(found)}. Add the missing files or give lists."
            )
        return others.take([theirs[name] for name in ours])
    if len(inputs.inputs) != len(others.inputs):
        raise DataError(
            f"{what}: {len(inputs.inputs)} input(s) but {len(others.inputs)} of these. Lists pair "
            "by order: make them equally long."
        )
    return others


def _as_path(item: Any, what: str) -> Path:
    if not isinstance(item, str | os.PathLike):
        raise DataError(f"{what}: {type(item).__name__} is not a path. Give a path or a list.")
    if not str(item):
        raise DataError(f"{what}: the path is empty. Name a file or a folder.")
    if "://" in str(item):
        raise DataError(
            f"{what}: {item} is a URL, and only data=zarr reads from URLs. Copy the files to a "
            "disk of this machine, or mount their storage, and give that path."
        )
    return at_home(Path(item))


def at_home(path: Path) -> Path:
    """Resolve a ``~`` that stands alone: a file may be called ``~a.tif``."""
    return path.expanduser() if path.parts[:1] == ("~",) else path


def _check_exist(paths: list[Path], what: str) -> None:
    if faults := [str(path) for path in paths if not path.exists()]:
        raise DataError(
            f"{what}: {len(faults)} file(s) do not exist: {_some(faults, 20)} (seen from "
            f"{Path.cwd()}). Check the paths."
        )


def _check_files(paths: list[Path], extensions: Sequence[str], what: str) -> None:
    for path in paths:
        _check_kind(path, what)
    if folders := [str(p) for p in paths if p.is_dir() and not _is_store(p, extensions)]:
        raise DataError(
            f"{what}: {_some(folders)} is a folder in a list. Name its files, or the folder alone."
            f"{other_kind(folders[0], '')}"
        )


def _check_kind(path: Path, what: str) -> None:
    """Refuse what would keep its reader waiting for ever."""
    if not path.is_file() and not path.is_dir():
        raise DataError(f"{what}: {path} is a pipe or a device. Name a file or a folder.")


def _is_store(path: Path, extensions: Sequence[str]) -> bool:
    """Whether a folder is a source itself, as a Zarr store is."""
    return path.is_dir() and path.name.lower().endswith(tuple(extensions))


def _search(folder: Path, extensions: Sequence[str], what: str) -> list[Any]:
    unreadable: list[OSError] = []
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=unreadable.append):
        # Hidden: macOS leaves a "._name.tif" beside every file on a foreign disk.
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent) / name for name in names if not name.startswith(".")]
    found = sorted(path for path in found if path.name.lower().endswith(tuple(extensions)))
    faults = [f"{path} is a link to what is not there" for path in found if not path.exists()]
    faults += [f"{error.filename} cannot be read ({error.strerror})" for error in unreadable]
    if faults:
        raise DataError(
            f"{what}: folder {folder}: {'; '.join(faults[:5])}{'; ...' * (len(faults) > 5)}. "
            "Repair or remove them, or list the files."
        )
    files = _each_once([path for path in found if path.is_file()], what)
    if not files:
        others = sorted({p.suffix or p.name for p in folder.rglob("*") if p.is_file()})
        raise DataError(
            f"{what}: folder {folder} has no file ending in {', '.join(extensions)} "
            f"(found: {_some(others) if others else 'nothing'}). Check the folder and the format."
            f"{other_kind(folder, '')}"
        )
    return list(files)


def _each_once(files: list[Path], what: str) -> list[Path]:
    """Leave out links to files that are there themselves, with a warning."""
    if not any(path.is_symlink() for path in files):
        return files
    real = {path.resolve() for path in files if not path.is_symlink()}
    chosen, links = [], []
    for path in files:
        target = path.resolve()
        if path.is_symlink() and target in real:
            links.append(str(path))
        else:
            chosen.append(path)
            real.add(target)
    if links:
        # Late: processes that only read import this module, too.
        from lightning.pytorch.utilities import rank_zero_warn

        rank_zero_warn(
            f"{what}: {len(links)} link(s) to files that are taken already are left out: "
            f"{_some(links)}."
        )
    return chosen


def _rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a manifest; a ValueError says what is wrong with its text."""
    # utf-8-sig: spreadsheets put a byte order mark in front.
    if path.suffix.lower() == ".csv":
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            names = table.fieldnames or ()
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"it has several columns {', '.join(twice)}")
            return [_csv_row(n, row) for n, row in enumerate(table, start=1)]
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".txt":
        return [{"input": line} for line in text.split("\n") if line.strip()]
    import yaml  # comes with hydra-core; only manifests need it

    try:
        # BaseLoader: names stay as they are written, also 0012, null and 2024-05-01.
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    if content and not isinstance(content, list):
        raise ValueError("expected a list of files or of mappings")
    return [_yaml_row(n, row) for n, row in enumerate(content or [], start=1)]


def _csv_row(number: int, row: dict[Any, Any]) -> dict[str, str]:
    if None in row:
        raise ValueError(f"row {number} has more fields than the header; quote names with a comma")
    return {str(key).strip(): value or "" for key, value in row.items()}


def _yaml_row(number: int, row: Any) -> dict[str, str]:
    fields = {"input": row} if isinstance(row, str) else row
    if not isinstance(fields, dict) or not all(isinstance(v, str) for v in fields.values()):
        raise ValueError(f"row {number} is neither a name nor a mapping of names")
    return fields


def _by_name(listing: Listing, what: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for i, path in enumerate(listing.inputs):
        bare = path.relative_to(listing.root).with_suffix("")
        name = str(bare.with_suffix("") if bare.suffix.lower() == ".ome" else bare)
        if name in found:
            raise DataError(
                f"{what}: {listing.inputs[found[name]]} and {path} have the same name without "
                "extension, by which files pair. Rename one or give lists."
            )
        found[name] = i
    return found


def _some(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
