"""What the metadata of a CZI say: sizes of pixels, frame interval, names of channels and scenes."""

from collections.abc import Sequence
from xml.etree import ElementTree

from careamics_dm.errors import DataError
from careamics_dm.images.argument_checks import positive
from careamics_dm.images.colors import channel_colors as colors_of

METER = 1e6  # micrometers in the unit of CZI


def parse(text: str, path: str) -> ElementTree.Element:
    """Parse the metadata; a file without any has an empty document."""
    try:
        return ElementTree.fromstring(text.strip("\0 \r\n") or "<ImageDocument/>")
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: its metadata are damaged ({error}). Save it again.") from error


DIMENSIONS = "./Metadata/Information/Image/Dimensions"


def pixel_size(metadata: ElementTree.Element) -> dict[str, tuple[float, str]]:
    """Return the pixel size of each spatial axis, µm, and the frame interval (T), s, if stated."""
    interval = positive(metadata.findtext(f"{DIMENSIONS}/T/Positions/Interval/Increment"))
    sizes = {"T": (interval, "s")} if interval else {}
    for distance in metadata.iterfind("./Metadata/Scaling/Items/Distance"):
        axis, value = distance.get("Id", ""), positive(distance.findtext("Value"))
        if axis in ("X", "Y", "Z") and value:
            sizes[axis] = (float(f"{value * METER:.12g}"), "µm")  # 1.6, not 1.5999999999999999
    return sizes


def channel_names(metadata: ElementTree.Element, channels: Sequence[int]) -> list[str]:
    """Return the names of channels, by index along C; nothing unless each has its own."""
    chosen = _of_channels(metadata, f"{DIMENSIONS}/Channels/Channel", channels)
    names = ["" if element is None else element.get("Name", "") for element in chosen]
    return names if all(names) and len(set(names)) == len(names) else []


def channel_colors(metadata: ElementTree.Element, channels: Sequence[int]) -> tuple[str, ...]:
    """Return the colours of channels, by index along C."""
    chosen = _of_channels(metadata, "./Metadata/DisplaySetting/Channels/Channel", channels)
    return colors_of(["" if one is None else one.findtext("Color", "") for one in chosen])


def _of_channels(
    metadata: ElementTree.Element, path: str, channels: Sequence[int]
) -> list[ElementTree.Element | None]:
    """Return what is said of channels, by index along C."""
    found = metadata.findall(path)
    by_id = {element.get("Id"): element for element in found}
    chosen = [by_id.get(f"Channel:{c}") for c in channels]
    if None in chosen and len(found) == len(channels):
        return list(found)  # named otherwise, but all there
    return chosen


def scene_name(metadata: ElementTree.Element, scene: int | None) -> str:
    """Return the name of a scene; nothing where the file gives none."""
    found = metadata.iterfind(f"{DIMENSIONS}/S/Scenes/Scene")
    names = (one.get("Name", "") for one in found if one.get("Index") == str(scene))
    return next(names, "")
