"""Names what is sound and not read, so that nobody is told that a good file is damaged."""

from __future__ import annotations

import re
import struct

from service.imaging.heif import coding

__all__ = ["RAW", "unread_heif", "unread_jpeg", "unread_kind"]

RAW = "a camera's raw file"

# What a file begins with → what it is.
_STARTS: dict[bytes, str] = {
    b"\xff\x0a": "a JPEG XL picture",
    b"\0\0\0\x0cJXL \r\n\x87\n": "a JPEG XL picture",
    b"\0\0\0\x0cjP  \r\n\x87\n": "a JPEG 2000 picture",
    b"\xff\x4f\xff\x51": "a JPEG 2000 picture",
    b"8BPS": "a Photoshop document",
    b"gimp xcf": "a GIMP document",
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript document",
    b"\xc5\xd0\xd3\xc6": "a PostScript document",
    b"\0\0\1\0": "a Windows icon",
    b"\0\0\2\0": "a Windows cursor",
    b"icns": "a macOS icon",
    b"DDS ": "a DDS texture",
    b"\x76\x2f\x31\x01": "an OpenEXR picture",
    b"#?RADIANCE": "a Radiance HDR picture",
    b"#?RGBE": "a Radiance HDR picture",
    b"SIMPLE  =": "a FITS picture",
    b"qoif": "a QOI picture",
    b"BPG\xfb": "a BPG picture",
    b"FLIF": "a FLIF picture",
    b"\x8aMNG": "an MNG animation",
    b"\x8bJNG": "a JNG picture",
    b"AT&TFORM": "a DjVu document",
    b"\x01\xda": "an SGI picture",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile",
    b"FUJIFILMCCD-RAW": RAW,
    b"FOVb": RAW,
    b"\0MRM": RAW,
    b"IIRO": RAW,
    b"IIRS": RAW,
    b"MMOR": RAW,
    b"IIU\0": RAW,
    b"\x1aE\xdf\xa3": "a video",
    b"\0\0\1\xba": "a video",
    b"FLV\1": "a video",
    b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
}
# The first brand of an ISO media file that holds no picture which is read → what it is.
_BRANDS = {b"crx ": RAW, b"mif3": "an HEIF picture of the low-overhead form"}
_BRANDED = 12  # bytes with the first brand
_TEXTS = (
    (re.compile(rb"<svg[\s/>]", re.IGNORECASE), "an SVG drawing"),
    (re.compile(rb"<!doctype html|<html[\s>]", re.IGNORECASE), "a web page"),
)
_NETPBM = re.compile(rb"P[1-7fF][\s#]")
_HEAD = 1000

# Frames of a JPEG that libjpeg does not decode: lossless, hierarchical, JPEG-LS.
_UNREAD_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
# Of HEIF: HEVC, and what is made of other items.
_READ_CODINGS = {"hvc1", "grid", "iden", "iovl"}
_SEGMENT = re.compile(rb"\xff+([\x01-\xfe])")


def unread_kind(data: bytes) -> str | None:
    """Return what the bytes are, as "a PDF document", None where they are nothing that is known here."""
    for start, kind in _STARTS.items():
        if data.startswith(start):
            return kind
    if data[4:8] == b"ftyp" and len(data) >= _BRANDED:
        return _BRANDS.get(data[8:12], "a video")
    if data[6:14] == b"HEAPCCDR":
        return RAW
    if data[128:132] == b"DICM":
        return "a DICOM file"
    if data.startswith(b"RIFF") and data[8:12] == b"AVI ":
        return "a video"
    if _NETPBM.match(data):
        return "a Netpbm picture"
    head = data[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head.startswith(b"<"):
        return None
    return next((kind for pattern, kind in _TEXTS if pattern.search(head)), None)


def unread_heif(data: bytes) -> str | None:
    """Return what an HEIF is whose primary picture is not coded by HEVC; None for all others and for broken ones."""
    try:
        found = coding(data)
    except (ValueError, struct.error, IndexError):
        return None
    return None if found is None or found in _READ_CODINGS else f"an HEIF picture coded as {found!a}"


def unread_jpeg(data: bytes) -> str | None:
    """Return what a JPEG is that libjpeg does not decode to 8 bits, None for all others and for broken ones."""
    position = 2
    while match := _SEGMENT.match(data, position):
        marker = match[1][0]
        length = int.from_bytes(data[match.end() : match.end() + 2], "big")
        if marker in _FRAMES and length >= 8:
            bits = int.from_bytes(data[match.end() + 2 : match.end() + 3], "big")
            if marker in _UNREAD_FRAMES:
                return "a JPEG-LS picture" if marker == 0xF7 else "a lossless JPEG"
            return f"a JPEG of {bits} bits" if bits in (12, 16) else None
        if marker == 0xDA:
            return None
        position = match.end() + max(2, length)
    return None
