"""What is sound and not read is called by its name, and never damaged."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidImage
from service.imaging.decode import decode
from service.imaging.unread import unread_jpeg, unread_kind
from tests.hostile.bombs import bmp, chunk, segment

if TYPE_CHECKING:
    from service.imaging.decode import DecodeLimits


def iso(brand: bytes, *compatible: bytes) -> bytes:
    body = brand + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body


def jpeg(marker: int, bits: int = 8) -> bytes:
    frame = struct.pack(">BHHB", bits, 8, 8, 1) + b"\x01\x11\0"
    return b"\xff\xd8" + segment(0xE0, b"JFIF\0") + segment(marker, frame) + segment(0xDA, b"\x01\x01\0\0\x3f\0")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"%PDF-1.7", "a PDF document"),
        (b"\xff\x0a" + bytes(9), "a JPEG XL picture"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
        (b"8BPS\0\1", "a Photoshop document"),
        (b'<?xml version="1.0"?>\n<!-- drawn by hand -->\n<svg width="8">', "an SVG drawing"),
        (b"\xef\xbb\xbf<svg/>", "an SVG drawing"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"P6\n8 8\n255\n", "a Netpbm picture"),
        (bytes(128) + b"DICM", "a DICOM file"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (iso(b"mp42", b"isom"), "a video"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", bytes(4)), "a picture out of an iOS app, no PNG that others read"),
        (jpeg(0xC3), "a lossless JPEG"),
        (jpeg(0xF7), "a JPEG-LS picture"),
        (jpeg(0xC1, 12), "a JPEG of 12 bits"),
    ],
)
def test_it_is_called_by_its_name(data: bytes, words: str, limits: DecodeLimits) -> None:
    with pytest.raises(InvalidImage, match=rf"^The file is {words}, which is not read\. Send it as a JPEG, PNG"):
        decode(data, limits)


@pytest.mark.parametrize("data", [iso(b"crx ", b"isom"), b"FOVb" + bytes(9), b"II\x1a\0\0\0HEAPCCDR", b"IIU\0\x08"])
def test_a_raw_file_that_is_no_tiff(data: bytes, limits: DecodeLimits) -> None:
    with pytest.raises(InvalidImage, match=r"raw file is not read\. Export it as JPEG, PNG or TIFF"):
        decode(data, limits)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bmp(8, 8, 24, 4, bytes(500)), "compression"),
        (bmp(8, 8, 2, 0, bytes(500)), "pixel depth"),
        (bmp(8, 8, 64, 0, bytes(999)), "pixel depth"),
        (b"BM" + bytes(12) + struct.pack("<I", 50) + bytes(99), "header type"),
    ],
)
def test_a_bmp_of_a_rare_kind(data: bytes, words: str, limits: DecodeLimits) -> None:
    with pytest.raises(InvalidImage, match=rf"This kind of BMP \({words} .*\) is not read"):
        decode(data, limits)


def test_what_is_read_has_no_such_name(photo: Any, save: Any) -> None:
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        assert unread_kind(save(photo(8, 8), name)) is None
    for options in ({}, {"progressive": True}, {"exif": bytes(60_000)}):
        assert unread_jpeg(save(photo(8, 8), "JPEG", **options)) is None


STARTS = [b"", b"\xff\xd8", b"\xff\xd8\xff\xc3", b"\0\0\0\x18ftyp", b"<"]


@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=200))
def test_any_bytes_can_be_asked(start: bytes, rest: bytes) -> None:
    assert unread_kind(start + rest) != ""
    assert unread_jpeg(start + rest) != ""
