from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.imaging.headers import MAX_PARTS, count_frames, count_parts, has_short_header, sniff, webp_size


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats_are_told_by_their_first_bytes(name: str, photo: Any, save: Any) -> None:
    assert sniff(save(photo(8, 8), name)) == name


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp_states_its_size(lossless: bool, mode: str, photo: Any, save: Any) -> None:
    image = photo(301, 17).convert(mode)
    image.putpixel((0, 0), (0,) * len(mode))
    assert webp_size(save(image, "WEBP", lossless=lossless)) == (301, 17)


@pytest.mark.parametrize("big", [False, True])
def test_tiff_pages_are_counted(big: bool, save: Any) -> None:
    pages = [Image.new("L", (3, 3), index) for index in range(5)]
    data = save(pages[0], "TIFF", save_all=True, append_images=pages[1:], big_tiff=big)
    assert count_frames("TIFF", data, 100) == 5
    assert count_frames("TIFF", data, 3) == 4  # no further than one beyond the limit


def test_gif_frames_are_counted_up_to_the_limit(save: Any) -> None:
    frames = [Image.new("RGB", (3, 3), (index * 30, 9, 99)) for index in range(7)]
    data = save(frames[0], "GIF", save_all=True, append_images=frames[1:], comment=b"c" * 300)
    assert count_frames("GIF", data, 100) == 7
    assert count_frames("GIF", data, 3) == 4


def test_counting_stops_at_the_limit() -> None:
    data = b"GIF89a" + bytes(7) + b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0" * 1_000_000
    began = time.thread_time()  # not the clock's, which goes on while others have the processor
    assert count_frames("GIF", data, 10) == 11
    assert time.thread_time() - began < 0.1


@given(name=st.sampled_from(["GIF", "TIFF"]), data=st.binary(max_size=200))
def test_counting_survives_any_bytes(name: str, data: bytes) -> None:
    assert 0 <= count_frames(name, data, 10) <= 11


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF"])
def test_ordinary_pictures_have_few_parts(name: str, photo: Any, save: Any) -> None:
    options = {"progressive": True, "exif": bytes(60_000)} if name == "JPEG" else {}
    assert 2 <= count_parts(name, save(photo(900, 700), name, **options)) <= MAX_PARTS[name] // 5


def test_scans_weigh_more_than_segments(photo: Any, save: Any) -> None:
    plain, progressive = (save(photo(64, 64), "JPEG", progressive=each) for each in (False, True))
    scans = progressive.count(b"\xff\xda")  # nothing else in so smooth a picture looks like a scan
    assert scans == 10
    assert count_parts("JPEG", progressive) - 10 * scans <= count_parts("JPEG", plain)


def test_what_follows_a_jpeg_does_not_count(photo: Any, save: Any) -> None:
    data = save(photo(64, 64), "JPEG")
    assert count_parts("JPEG", data + data * 500) == count_parts("JPEG", data)


def test_formats_without_parts_have_none(photo: Any, save: Any) -> None:
    assert [count_parts(name, save(photo(8, 8), name)) for name in ("BMP", "TIFF", "WEBP")] == [0, 0, 0]


@given(name=st.sampled_from(["JPEG", "PNG", "GIF"]), data=st.binary(max_size=200))
def test_counting_parts_survives_any_bytes(name: str, data: bytes) -> None:
    assert 0 <= count_parts(name, data) <= 400


@pytest.mark.parametrize(
    ("kind", "options", "after", "is_short"),
    [
        ("JPEG", {}, b"", True),
        ("JPEG", {"progressive": True}, b"", True),
        ("JPEG", {"comment": b"c" * 10_000}, b"", True),
        ("JPEG", {"comment": b"c" * 20_000}, b"", False),
        ("JPEG", {}, b"\0" * 2**18, False),
        ("PNG", {}, b"", False),
        ("WEBP", {}, b"", False),
    ],
)
def test_only_small_jpegs_of_little_metadata_are_known_to_be_read_at_once(
    kind: str, options: dict[str, Any], after: bytes, is_short: bool, photo: Any, save: Any
) -> None:
    assert has_short_header(save(photo(64, 48), kind, **options) + after) is is_short


def test_what_ends_before_its_picture_is_not_known_to_be_read_at_once(photo: Any, save: Any) -> None:
    data = save(photo(64, 48), "JPEG")
    assert not has_short_header(data[: data.index(b"\xff\xda")])
    assert not has_short_header(b"")
