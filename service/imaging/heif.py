"""How many pixels are decoded of an HEIF, which may be other than its header says.

A picture may be a grid of tiles, and a tile a grid again, each of them the same item many times over: a file of a
kilobyte may unfold to any number of pixels for a header of a few. Follows ISO/IEC 23008-12, 6.6.2 (derived images).
"""

from __future__ import annotations

import struct
from collections import defaultdict

from service.imaging.iso_media import Boxes, Numbers

__all__ = ["coding", "decoded_pixels", "picture_coding"]

# A tile takes some time however small it is; encoders write tiles of four times as many pixels.
_LEAST_TILE = 2**15
# Grids within grids: encoders write one level, and overlays of grids two.
_MOST_LEVELS = 8


def decoded_pixels(data: bytes) -> int:
    """Return how many pixels are decoded for the primary item: those of all that it is made of, and of its alpha.

    Raises:
        ValueError: it is made of itself, or there are more parts than encoders write.
        struct.error, IndexError: the tables end early.
    """
    boxes = Boxes(data)
    found = _meta(boxes)
    if not {b"pitm", b"iprp"} <= found.keys():
        return 0
    sizes = _stated_sizes(boxes, *found[b"iprp"])
    parts, beside = _relations(boxes, *found[b"iref"]) if b"iref" in found else ({}, {})
    primary = _primary(data, found[b"pitm"][0])
    known: dict[int, int] = {}

    def pixels(item: int, level: int) -> int:
        if level > _MOST_LEVELS:
            raise ValueError("the HEIF is made of itself")
        if item not in known:
            made_of = parts.get(item)
            known[item] = (
                sum(max(_LEAST_TILE, pixels(part, level + 1)) for part in made_of) if made_of else sizes.get(item, 0)
            )
        return known[item]

    return sum(pixels(item, 0) for item in (primary, *beside.get(primary, ())))


def coding(data: bytes) -> str | None:
    """Return in what the primary item is coded, such as ``hvc1``, or what it is made of; None where that is not said.

    Raises:
        ValueError, struct.error, IndexError: see ``decoded_pixels``.
    """
    boxes = Boxes(data)
    found = _meta(boxes)
    if not {b"pitm", b"iinf"} <= found.keys():
        return None
    kinds = _kinds(boxes, *found[b"iinf"])
    parts = _relations(boxes, *found[b"iref"])[0] if b"iref" in found else {}
    item = _primary(data, found[b"pitm"][0])
    for _ in range(_MOST_LEVELS):
        item = parts.get(item, [item])[0]
    return kinds.get(item)


def picture_coding(data: bytes) -> str | None:
    """Return the ``coding`` of a file that says that it holds a picture; None for others and where tables end early."""
    boxes = Boxes(data)
    try:
        handler = _meta(boxes).get(b"hdlr")
        is_picture = handler is not None and data[handler[0] + 8 : handler[0] + 12] == b"pict"
        return coding(data) if is_picture else None
    except (ValueError, struct.error, IndexError):
        return None


def _meta(boxes: Boxes) -> dict[bytes, tuple[int, int]]:
    """Return where the parts of the box ``meta`` begin and end, by their types."""
    top = boxes.within(0, len(boxes.data))
    meta = next(((begin + 4, end) for kind, begin, end in top if kind == b"meta"), None)
    return {} if meta is None else {kind: (begin, end) for kind, begin, end in boxes.within(*meta)}


def _primary(data: bytes, begin: int) -> int:
    table = Numbers(data, begin)
    return table.next(_id_size(table))


def _kinds(boxes: Boxes, begin: int, end: int) -> dict[int, str]:
    """Return the type of each item (``infe`` of the versions 2 and 3, which HEIF has)."""
    head = Numbers(boxes.data, begin)
    head.next(_id_size(head))  # how many follow
    kinds: dict[int, str] = {}
    for _, start, _ in boxes.within(head.position, end):
        table = Numbers(boxes.data, start)
        version = table.next(1)
        table.next(3)
        item = table.next(4 if version == 3 else 2)
        table.next(2)  # how it is protected
        kinds[item] = boxes.data[table.position : table.position + 4].decode("latin-1")
    return kinds


def _id_size(table: Numbers) -> int:
    """Read a box's version and flags; return how many bytes its item numbers have."""
    version = table.next(1)
    table.next(3)
    return 4 if version else 2


def _relations(boxes: Boxes, begin: int, end: int) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Return what each item is made of (``dimg``), and which items are the alpha of each (``auxl``)."""
    parts: dict[int, list[int]] = defaultdict(list)
    beside: dict[int, list[int]] = defaultdict(list)
    head = Numbers(boxes.data, begin)
    size = _id_size(head)
    for kind, start, _ in boxes.within(head.position, end):
        table = Numbers(boxes.data, start)
        item, count = table.next(size), table.next(2)
        for _ in range(count):
            boxes.step()  # boxes may overlap, and each name the same 65,535 items
            other = table.next(size)
            if kind == b"dimg":
                parts[item].append(other)
            elif kind == b"auxl":
                beside[other].append(item)
    return parts, beside


def _stated_sizes(boxes: Boxes, begin: int, end: int) -> dict[int, int]:
    """Return the pixels that the property ``ispe`` of each item states."""
    found = {kind: (start, stop) for kind, start, stop in boxes.within(begin, end)}
    if not {b"ipco", b"ipma"} <= found.keys():
        return {}
    properties = [0]  # they are counted from 1
    for kind, start, _ in boxes.within(*found[b"ipco"]):
        table = Numbers(boxes.data, start + 4)
        properties.append(table.next(4) * table.next(4) if kind == b"ispe" else 0)
    table = Numbers(boxes.data, found[b"ipma"][0])
    version, flags = table.next(1), table.next(3)
    index_size = 2 if flags & 1 else 1
    sizes: dict[int, int] = {}
    for _ in range(table.next(4)):
        boxes.step()
        item = table.next(4 if version else 2)
        sizes[item] = 0
        for _ in range(table.next(1)):
            boxes.step()
            index = table.next(index_size) & (0x7FFF if flags & 1 else 0x7F)
            sizes[item] = max(sizes[item], properties[index] if index < len(properties) else 0)
    return sizes
