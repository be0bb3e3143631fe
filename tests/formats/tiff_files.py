"""TIFF files as microscopes and their programs write them, small."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

OME = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'


def numbers(shape: tuple[int, ...], dtype: str = "uint16") -> NDArray[Any]:
    """Pixels among which hardly any two planes are alike."""
    values = np.random.default_rng(0).integers(0, 250, shape)
    return values > 125 if dtype == "bool" else values.astype(dtype)


def ome_set(folder: Path, stack: NDArray[Any], described_by: str) -> list[Path]:
    """Write a stack ``TZYX`` as a file per frame; ``described_by`` each, the first, a companion."""
    n_frames, n_planes, height, width = stack.shape
    names = [f"f{i}.ome.tif" for i in range(n_frames)]
    parts = "".join(
        f'<TiffData FirstT="{i}" IFD="0" PlaneCount="{n_planes}">'
        f'<UUID FileName="{name}">urn:uuid:{name}</UUID></TiffData>'
        for i, name in enumerate(names)
    )

    def whole(name: str) -> str:
        return (
            f'<OME {OME} UUID="urn:uuid:{name}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
            f'DimensionOrder="XYZCT" Type="uint16" SizeX="{width}" SizeY="{height}" '
            f'SizeZ="{n_planes}" SizeC="1" SizeT="{n_frames}" PhysicalSizeX="0.5" '
            f'PhysicalSizeY="0.5"><Channel ID="Channel:0:0"/>{parts}</Pixels></Image></OME>'
        )

    main = {"first": names[0], "companion": "set.companion.ome"}.get(described_by, "")
    pointer = f'<OME {OME}><BinaryOnly MetadataFile="{main}" UUID="urn:uuid:{main}"/></OME>'
    if described_by == "companion":
        (folder / main).write_text(whole(main))
    for name, frame in zip(names, stack, strict=True):
        text = whole(name) if main in ("", name) else pointer
        tifffile.imwrite(
            folder / name, frame, description=text, metadata=None, photometric="minisblack"
        )
    return [folder / name for name in names]


def mm_stack(
    path: Path, pages: NDArray[Any], index: Sequence[tuple[int, int, int, int]], **summary: Any
) -> None:
    """Write a file of a recording of Micro-Manager; ``index`` is C, Z, T, position of each page."""
    text = json.dumps({"MicroManagerVersion": "2.0", **summary}).encode()
    head = 40 + len(text)
    _, height, width = pages.shape
    n_bytes, meta = pages[0].nbytes, b"{}"
    step = 162 + 16 + n_bytes + len(meta)
    starts = [head + i * step for i in range(len(pages))]
    out = bytearray(struct.pack("<2sHI", b"II", 42, head))
    out += struct.pack("<IIII", 54773648, head + step * len(pages), 0, 0)
    out += struct.pack("<IIII", 0, 0, 2355492, len(text)) + text
    for i, (start, page) in enumerate(zip(starts, pages, strict=True)):
        pixels = start + 162
        after = pixels + n_bytes
        tags = [
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1),
            (262, 3, 1, 1), (273, 4, 1, pixels), (277, 3, 1, 1), (278, 3, 1, height),
            (279, 4, 1, n_bytes), (282, 5, 1, after), (283, 5, 1, after + 8), (296, 3, 1, 3),
            (51123, 2, len(meta), after + 16),
        ]  # fmt: skip
        out += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        out += struct.pack("<I", starts[i + 1] if i + 1 < len(pages) else 0)
        out += page.tobytes() + struct.pack("<IIII", 1, 1, 1, 1) + meta
    out += struct.pack("<II", 3453623, len(pages))
    for place, start in zip(index, starts, strict=True):
        out += struct.pack("<IIIII", *place, start)
    path.write_bytes(bytes(out))


def nd_tiff(folder: Path, files: dict[str, NDArray[Any]]) -> None:
    """Write a data set of NDTiff, of the frames of a time series in several files."""
    text, time, index = b'{"PixelSize_um": 0.25}', 0, b""
    for name, pages in files.items():
        head = 28 + len(text)
        _, height, width = pages.shape
        n_tags = 10
        step = 2 + n_tags * 12 + 4 + pages[0].nbytes + 4
        out = bytearray(struct.pack("<2sHI", b"II", 42, head))
        out += struct.pack("<IIIII", 483729, 3, 0, 2355492, len(text)) + text
        for i, page in enumerate(pages):
            pixels = head + i * step + 2 + n_tags * 12 + 4
            tags = [
                (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1),
                (262, 3, 1, 1), (273, 4, 1, pixels), (277, 3, 1, 1), (278, 3, 1, height),
                (279, 4, 1, page.nbytes), (51123, 2, 4, pixels + page.nbytes),
            ]  # fmt: skip
            out += struct.pack("<H", n_tags) + b"".join(struct.pack("<HHII", *t) for t in tags)
            out += struct.pack("<I", head + (i + 1) * step if i + 1 < len(pages) else 0)
            out += page.tobytes() + b"{ }\0"
            axes = json.dumps({"time": time}).encode()
            index += struct.pack("<I", len(axes)) + axes + struct.pack("<I", len(name))
            index += name.encode()
            index += struct.pack("<IiiiiIii", pixels, width, height, 1, 0, 0, 0, 0)
            time += 1
        (folder / name).write_bytes(bytes(out))
    (folder / "NDTiff.index").write_bytes(index)


def scan_image(
    path: Path,
    pages: NDArray[Any],
    first: int,
    settings: dict[str, Any],
    *,
    bigtiff: bool = True,
    extra: Sequence[int] = (),
) -> None:
    """Write a file of ScanImage that starts at frame ``first`` of the recording.

    The descriptions of its pages are equally long, but for ``extra`` characters of each.
    """
    software = "\n".join(f"SI.{name} = {value}" for name, value in settings.items())
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as file:
        for i, page in enumerate(pages):
            text = f"frameNumbers = {first + i:<8}" + "." * (extra[i] if extra else 0)
            file.write(page, software=software, description=text, metadata=None, contiguous=False)


def stk(path: Path, planes: NDArray[Any], size: float, step: float) -> None:
    """Write a Z stack as MetaMorph does, with its pixel size in micrometers."""
    n, height, width = planes.shape
    after = 8 + 2 + 11 * 12 + 4  # the header and one directory
    of_plane = struct.pack("<6I", round(step * 1000), 1000, 0, 0, 0, 0) * n
    first, second, values = after, after + 24, after + 24 + len(of_plane)
    fraction = struct.pack("<2I", round(size * 1000), 1000)
    text = struct.pack("<I", 3) + b"um\0"
    pixels = values + len(fraction) + len(text)
    calibration = struct.pack("<6I", 4, values, 5, values, 6, values + len(fraction))
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, pixels), (277, 3, 1, 1), (278, 3, 1, height), (279, 4, 1, planes[0].nbytes),
        (33628, 4, 3, first), (33629, 5, n, second),
    ]  # fmt: skip
    out = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    out += b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    path.write_bytes(out + calibration + of_plane + fraction + text + planes.tobytes())


def lsm(path: Path, planes: NDArray[Any], size: float, step: float) -> None:
    """Write a Z stack as Zeiss LSM microscopes do, each plane with a thumbnail."""
    info = np.zeros(1, tifffile.TIFF.CZ_LSMINFO)
    info["MagicNumber"], info["StructureSize"] = 67127628, info.itemsize
    for axis, n in zip("ZYX", planes.shape, strict=True):
        info[f"Dimension{axis}"] = n
        info[f"VoxelSize{axis}"] = (step if axis == "Z" else size) * 1e-6
    info["DimensionChannels"] = info["DimensionTime"] = 1
    tag = [(34412, 1, info.nbytes, info.tobytes(), True)]
    with tifffile.TiffWriter(path) as file:
        for i, plane in enumerate(planes):
            how: dict[str, Any] = {"metadata": None, "contiguous": False}
            file.write(plane, subfiletype=0, extratags=tag if i == 0 else (), **how)
            file.write(plane[:8, :8], subfiletype=1, **how)
