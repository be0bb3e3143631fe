"""Whether compression has altered pixels, from the first bytes of what is stored."""

ENOUGH = 4096
"""Bytes in which the answer lies."""
_XR, _2000 = b"WMPHOTO\0", b"\xff\x4f\xff\x51"


def lossy_codec(head: bytes) -> str:
    """Name the codec by which compressed pixels have become others; "" if they have not.

    JPEG 2000 that is reversible, but cut off at some rate, passes for lossless.
    """
    if head.startswith(b"\xff\xd8"):
        return "JPEG" * _is_lossy_jpeg(head)
    if 0 <= (at := head.find(_XR)) < len(head) - 20:
        # Width and height in 2 or 4 bytes each, and where there are tiles or margins, more.
        plane = at + 12 + (4 if head[at + 10] & 0x80 else 8)
        simple = not (head[at + 9] & 0x80 or head[at + 10] & 0x20)
        return "JPEG XR" * (simple and bool(head[plane] & 0x10))  # scaled arithmetic
    if (at := head.find(_2000)) >= 0:
        style = head.find(b"\xff\x52", at)
        return "JPEG 2000" * (head[style + 13 : style + 14] == b"\0")  # the 9-7 wavelet
    return "WebP" * (head[8:16] == b"WEBPVP8 ")


def _is_lossy_jpeg(head: bytes) -> bool:
    """Go from marker to marker up to the start of the frame, which names the process."""
    at = 2
    while head[at : at + 1] == b"\xff" and at + 4 <= len(head):
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker % 4 != 3  # every fourth is lossless
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return False
