"""What other programs make of OME-Zarr: ``python zarr_readers.py STORE...``, in an environment of
its own: ``pip install ome-zarr ngff-zarr yaozarrs "napari[pyqt6]" napari-ome-zarr``.

Run by hand, after a change of what is written; not a test.
"""

# ruff: noqa: E402
from __future__ import annotations

import os
import sys
import warnings

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
warnings.simplefilter("ignore")

import ngff_zarr
import yaozarrs
import zarr
from napari.components import ViewerModel  # a viewer without its window
from napari.plugins import _initialize_plugins
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader


def by_yaozarrs(path):
    yaozarrs.validate_zarr_store(path)
    yield "valid"


def by_ome_zarr(path):
    for node in Reader(parse_url(path))():
        shapes = [level.shape for level in node.data]
        if shapes:
            names = node.metadata.get("channel_names") or node.metadata.get("name")
            axes = "".join(axis["name"] for axis in node.metadata["axes"])
            first = node.metadata["coordinateTransformations"][0]
            yield f"{axes} {shapes} {names} {first} {node.metadata.get('contrast_limits')}"


def by_ngff_zarr(path):
    attributes = zarr.open_group(path, mode="r").attrs
    plate = attributes.get("ome", attributes).get("plate")
    fields = [f"{path}/{well['path']}/0" for well in plate["wells"]] if plate else [path]
    for image in (one for field in fields for one in ngff_zarr.from_ngff_zarr(field).images[:1]):
        yield f"{image.dims} {image.data.shape} {image.scale} {image.axes_units}"


def by_napari(path):
    viewer = ViewerModel()
    viewer.open(path, plugin="napari-ome-zarr")
    for layer in viewer.layers:
        levels = layer.data if layer.multiscale else [layer.data]
        shown = (layer.name, [level.shape for level in levels], layer.axis_labels, layer.scale)
        limits = [round(float(limit), 3) for limit in layer.contrast_limits]
        yield f"{shown} {[str(u) for u in layer.units]} {limits} {layer.colormap.name}"


_initialize_plugins()
for store in sys.argv[1:]:
    print(store)
    for read in (by_yaozarrs, by_ome_zarr, by_ngff_zarr, by_napari):
        try:
            lines = list(read(store))
        except Exception as error:
            lines = [f"DOES NOT OPEN: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]
        for line in lines or ["nothing"]:
            print(f"   {read.__name__:<12} {line}")
