"""Zarr and OME-Zarr: stores, groups and arrays; plates; zip files and URLs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import zarr
from lightning.pytorch.utilities import rank_zero_warn
from zarr.abc.store import Store
from zarr.storage import StorePath

from careamics_dm.datamodule.patch_datamodule import PatchDataModule
from careamics_dm.datamodule.settings import SharedSettings
from careamics_dm.errors import DataError
from careamics_dm.formats.zarr.array import Engine, check_engine, forget_stores
from careamics_dm.formats.zarr.discovery import (
    Argument,
    Choice,
    Found,
    Selection,
    ZarrSource,
    check_choice,
    expand,
    find_stores,
    is_node_folder,
    is_uri,
    locate,
)
from careamics_dm.formats.zarr.opening import open_zarr
from careamics_dm.formats.zarr.store_files import Options, is_remote, scheme_of
from careamics_dm.images import argument_checks as check
from careamics_dm.images.image_stack import ImageStack
from careamics_dm.sources.listing import MANIFESTS, Listing, at_home, list_files, read_manifest
from careamics_dm.sources.opening import attempt_all, join_faults


class ZarrDataModule(PatchDataModule):
    """Patches from Zarr and OME-Zarr, of format 2 and 3.

    Data arguments take a store (``images.zarr``, a zip file of one, or a URL), a group or an
    array in it (``images.zarr/group``, or what zarr prints: ``file://images.zarr/group``), a
    list of stores or of such URIs, a folder (searched recursively for stores), a glob or a
    manifest. Of OME-Zarr the images are taken, those of all fields of a plate, never labels; of
    other stores the arrays at the root, by name. A pyramid's level or a label image may be named
    itself, the latter as mask or target. OME metadata say axes, pixel size and channel
    names; arrays that say nothing need an ``axes`` string.

    Parameters
    ----------
    level : int
        Level of the pyramid of OME images; 0 is full resolution. Noise2Void should not learn
        from others: scaling down correlates the noise of neighbours.
    row, column, field : str, int or list, optional
        Which fields of plates: a name, a list of names, or a pattern. Such as ``"B"`` or ``3``, or
        ``"[A-C]"``; all by default.
    missing_chunks : {"error", "fill"} or dict
        What to do about chunks that are not there. Writers may leave out those that hold nothing
        but the fill value, so ``"fill"`` puts it there; but a chunk may also be lost. Of masks they
        are filled unless ``{"mask": "error"}`` says otherwise: where a mask is 0 nothing is read.
        ``"fill"`` by itself is for targets and masks, and for images where these are not given;
        else name them: ``{"image": "fill"}``, ``{"image": "fill", "target": "fill"}``.
        Stores that can't be listed (``http``) are checked when they are read; chunks inside
        shards are looked for in folders only.
    storage_options : dict, optional
        For URLs, passed on to the fsspec file system: ``{"anon": True}``. Commands keep them with
        the run, so leave keys and passwords to the environment (``AWS_PROFILE``, say).
    engine : {"auto", "zarr", "tensorstore"}
        What decodes. ``"auto"`` takes tensorstore, which is faster, where it is installed
        (``pip install "careamics-dm[fast]"``). It reads folders; zarr-python reads the rest,
        codecs that tensorstore lacks, and in worker processes that are forked after tensorstore
        was used, also to write results.
    **shared
        Arguments of all formats; see `Settings`.
    """

    def __init__(
        self,
        *,
        level: int = 0,
        row: Choice = None,
        column: Choice = None,
        field: Choice = None,
        missing_chunks: Literal["error", "fill"] | Mapping[Argument, str] = "error",
        storage_options: Options | None = None,
        engine: Engine = "auto",
        **shared: Unpack[SharedSettings],
    ) -> None:
        super().__init__(**shared)
        check_engine(engine)
        self.level = check.number("level", level, 0)
        self.row = check_choice("row", row)
        self.column = check_choice("column", column)
        self.field = check_choice("field", field)
        self.missing_chunks = missing_chunks
        self._filling = self._check_missing_chunks()
        if not isinstance(storage_options, Mapping | None):
            raise DataError(f"storage_options={storage_options!r}: give names and values, or null.")
        self.storage_options = storage_options
        self.engine = engine
        self._filled: dict[str, int] = {}
        self._odd_scales: list[str] = []

    def list_sources(self, data: Any, what: str) -> Listing:
        """One source per image array; see the class for what may be named."""
        listing = _items(data, what)
        items = listing.inputs
        keys = listing.keys or [{}] * len(items)
        own: Argument = "image"
        for argument in get_args(Argument):
            own = argument if what.endswith(f"_{argument}") else own
        inputs = self._expand_all(items, keys, what, own)
        partners = {
            f"{name}s": self._expand_all(column, keys, what, name)
            for name in get_args(Argument)[1:]
            if (column := getattr(listing, f"{name}s")) is not None
        }
        for name, column in partners.items():
            for item, ours, theirs in zip(items, inputs, column, strict=True):
                if len(ours.sources) != len(theirs.sources):
                    raise DataError(
                        f"{what}: {item} has {len(ours.sources)} image(s), but "
                        f"{len(theirs.sources)} {name}. Name images that match."
                    )
        if missing := [name for found in inputs for name in found.missing]:
            rank_zero_warn(
                f"{what}: {len(missing)} well(s), field(s) or image(s) that metadata list are not "
                f"there and are left out: {', '.join(missing[:3])}{', ...' * (len(missing) > 3)}."
            )
        if others := [name for found in inputs for name in found.others]:
            rank_zero_warn(
                f"{what}: {len(others)} array(s) of one dimension or of no numbers are no images "
                f"and are left out: {', '.join(others[:3])}{', ...' * (len(others) > 3)}."
            )
        self._check_level(inputs, keys, what)
        root = listing.root
        if root is None and len(items) == 1 and inputs[0].by_name:
            root = Path(str(locate(items[0])))
        rest = [{k: v for k, v in row.items() if k not in _FIELDS} for row in keys]
        rest = [row for row, found in zip(rest, inputs, strict=True) for _ in found.sources]
        flat = {name: _flat(column) for name, column in partners.items()}
        return Listing(_flat(inputs), **flat, root=root, keys=rest if any(keys) else None)

    def open_source(
        self,
        source: ZarrSource,
        axes: str,
        *,
        level: str | None = None,
        row: str | None = None,
        column: str | None = None,
        field: str | None = None,
    ) -> list[ImageStack]:
        """See `PatchDataModule.open_source`; `list_sources` has chosen by row, column and field."""
        stack, remarks = open_zarr(
            source,
            axes,
            level=check.key("level", level, self.level),
            trust_axes=self.settings.trust_axes,
            fill=source.argument in self._filling,
            storage_options=self.storage_options,
            engine=self.engine,
        )
        if level is not None and source.kind == "image":
            stack.source += f"/level_{level}"  # rows may name several of an image
        if remarks.n_filled and source.argument != "mask":
            self._filled[stack.source] = remarks.n_filled
        if remarks.odd_scale:
            self._odd_scales.append(stack.source)
        return [stack]

    def setup(self, stage: str) -> None:
        """See `PatchDataModule.setup`; warns once of what is filled or left out."""
        try:
            super().setup(stage)
        finally:
            forget_stores()  # zip files stay open only where they are read
        if self._filled:
            first, n = next(iter(self._filled)), sum(self._filled.values())
            rank_zero_warn(
                f"{n} missing chunk(s) of {len(self._filled)} array(s), such as {first}, are read "
                "as the fill value (missing_chunks=fill)."
            )
            self._filled.clear()
        if self._odd_scales:
            rank_zero_warn(
                f"the pixel size of {len(self._odd_scales)} image(s), such as "
                f"{self._odd_scales[0]}, is left out: their coordinateTransformations are others "
                "than a scale and a translation after it."
            )
            self._odd_scales.clear()

    def _check_missing_chunks(self) -> set[str]:
        """Return the arguments whose missing chunks are filled."""
        given = self.missing_chunks
        if isinstance(given, Mapping):
            for name, value in given.items():
                check.one_of("a name in missing_chunks", name, get_args(Argument))
                check.one_of(f"missing_chunks.{name}", value, ("error", "fill"))
            return {name for name, value in {"mask": "fill", **given}.items() if value == "fill"}
        if check.one_of("missing_chunks", given, ("error", "fill")) == "error":
            return {"mask"}
        alone = not self.settings.has_targets and self.settings.train_mask is None
        return {"target", "mask", *["image"] * alone}

    def _check_level(self, images: list[Found], keys: list[dict[str, str]], what: str) -> None:
        """Refuse levels of what has none."""
        for found, row in zip(images, keys, strict=True):
            level = row.get("level", str(self.level))
            plain = [source for source in found.sources if source.kind == "array"]
            if level == "0":
                continue
            # Masks and targets may be of the level's size already.
            if plain and what.endswith("_data"):
                raise DataError(
                    f"{what}: {plain[0]}: is an array, but level={level} chooses one of a pyramid. "
                    "Leave it out, or name the OME image around it."
                )

    def _expand_all(
        self, items: list[Any], keys: list[dict[str, str]], what: str, argument: Argument
    ) -> list[Found]:
        """Expand what is named as an ``argument``; all faults in one message."""

        def expand_one(item: Any, row: dict[str, str]) -> Found:
            given = {name: row.get(name, getattr(self, name)) for name in _FIELDS}
            chosen: Selection = {name: c for name, c in given.items() if c is not None}
            labels = not what.endswith("_data")
            return expand(locate(item), self.storage_options or {}, chosen, labels)

        faults: list[str] = []
        results = attempt_all(expand_one, items, keys, faults)
        if faults:
            raise DataError(join_faults(what, faults))
        expanded = [found for found in results if found is not None]
        for found in expanded:
            found.sources = [source._replace(argument=argument) for source in found.sources]
        return expanded


_FIELDS: tuple[Literal["row", "column", "field"], ...] = ("row", "column", "field")


def _flat(found: list[Found]) -> list[ZarrSource]:
    return [source for one in found for source in one.sources]


def _as_text(item: Any) -> Any:
    """Return the URI of what zarr-python opened; anything else as it is."""
    if isinstance(item, zarr.Group | zarr.Array):
        item = item.store_path
    if not isinstance(item, StorePath | Store):
        return item
    if not scheme_of(str(item)):
        raise DataError(f"{item}: give the URL of what is in this store, and storage_options.")
    return str(item)


def _items(data: Any, what: str) -> Listing:
    """List what an argument names, before any store is opened."""
    data = [*map(_as_text, data)] if isinstance(data, list | tuple) else _as_text(data)
    if isinstance(data, list):
        uris = [item for item in data if is_uri(item)]
        if uris and len(uris) < len(data):
            other = next(item for item in data if not is_uri(item))
            raise DataError(
                f"{what}: the list mixes URIs ({uris[0]}) and stores ({other}). Name only stores, "
                "or only groups and arrays by their URIs."
            )
        if data and all(isinstance(item, str | Path) and str(item) for item in data):
            return Listing([*data])
        return list_files(data, ("",), what)  # says what is wrong
    if isinstance(data, str) and (is_uri(data) or is_remote(data)):
        return Listing([data])
    # Path("") is the current folder, but an empty name is a mistake.
    path = at_home(Path(data)) if isinstance(data, str | Path) and str(data) else None
    if path is None or (not path.exists() and any(c in str(path) for c in "*?[")):
        return list_files(data, ("",), what)
    if path.is_dir() and not is_node_folder(path) and (stores := find_stores(path)):
        return Listing([*stores], root=path)
    if path.suffix.lower() in MANIFESTS and path.is_file():
        return read_manifest(path, what, ("",))
    return Listing([path])  # a folder without stores is refused, with what is there
