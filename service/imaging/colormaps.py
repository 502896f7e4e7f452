# ruff: noqa: E501 - one line per colormap is what keeps them easy to add
"""The colormaps, one line each.

A colormap is written as anchors, eight hex digits each: position (00 to ff), red, green, blue; between anchors colours
are interpolated linearly. The anchors were chosen so that no entry is further than 2/255 from the map of the same name in
Matplotlib.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from service.errors import UnknownColormap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.vocabulary import ColormapKind

__all__ = ["COLORMAPS", "Colormap", "colormap"]


class Colormap:
    """A named table of 256 colours, cold to warm.

    Attributes:
        name: what a request calls it.
        kind: "sequential", from nothing to much; or "diverging", from against through nothing to for.
    """

    def __init__(self, name: str, kind: ColormapKind, anchors: str) -> None:
        self.name = name
        self.kind = kind
        self._anchors = anchors

    def __repr__(self) -> str:
        return f"Colormap({self.name!r}, {self.kind!r})"

    @cached_property
    def table(self) -> NDArray[np.uint8]:
        """The colours, (256, 3) RGB, read-only; the last one is the hottest."""
        anchors = np.array([list(bytes.fromhex(anchor)) for anchor in self._anchors.split()], float)  # (n, 4)
        levels = np.arange(256)
        channels = [np.interp(levels, anchors[:, 0], anchors[:, channel]) for channel in (1, 2, 3)]
        table = np.floor(np.stack(channels, axis=1) + 0.5).astype(np.uint8)
        table.flags.writeable = False
        return table

    @cached_property
    def palette(self) -> bytes:
        """The 768 bytes of an 8-bit palette: entry 0 black, for "not seen"; entries 1 to 255 cold to warm."""
        entries = np.zeros((256, 3), np.uint8)
        entries[1:] = self.table[np.rint(np.linspace(0, 255, 255)).astype(int)]
        return entries.tobytes()


COLORMAPS: dict[str, Colormap] = {
    entry.name: entry
    for entry in (
        Colormap(
            "turbo",
            "sequential",
            "0030123b 0b3c3286 164451bf 224771e9 2d458cfd 353ba0fd 4028bceb 4d18d7ca 561ce6b4 5f2ff19b 6f69fd66 7c99fe42 87b7f735 99e1dd37 a9f9bc39 b9fe932a cdef5811 e1ce2d04 f49e1001 ff7a0403",
        ),
        Colormap(
            "viridis",
            "sequential",
            "00440154 1d482979 3a3e4c8a 7723888e 931fa287 a62fb47c bb54c568 d795d840 eed2e21b f6e7e419 fffde725",
        ),
        Colormap(
            "inferno",
            "sequential",
            "00000004 110c0826 23260c51 313e0966 455f136e 638f2469 83c03a51 9ee25734 bbf8850f c6fb9906 cffcaa0f e1f8cd37 eff2e865 faf5f992 fffcffa4",
        ),
        Colormap(
            "magma",
            "sequential",
            "00000004 0f090720 26251255 343d0f71 4559157e 69912b81 8bc83e73 9fe55064 b1f66c5c c2fc8c63 dcfebd82 fffcfdbf",
        ),
        Colormap(
            "plasma",
            "sequential",
            "000d0887 0d2c0594 2d6100a7 448405a7 63ad2793 90da5a6a bff89441 dffdc328 f2f7e225 fdf1f525 fff0f921",
        ),
        Colormap(
            "cividis",
            "sequential",
            "0000224e 15003170 18053371 201a386f 373a486c 6e6d6f72 8a868379 bcb8aa6e e1dfca57 f7f8df3c fcfee434 fffee838",
        ),
        Colormap(
            "jet",
            "sequential",
            "00000080 1c0000ff 200000ff 5700dcfe 5a02e8f4 6016ffe1 a3eeff09 a6f8f500 aaffe600 e3ff1300 e8e80000 ff800000",
        ),
        Colormap("hot", "sequential", "000b0000 5dff0000 befffe00 ffffffff"),
        Colormap("gray", "sequential", "00000000 ffffffff"),
        Colormap("bone", "sequential", "00000000 62565776 c1aac9c9 ffffffff"),
        Colormap("ylorrd", "sequential", "00ffffcc 43fed572 62feaf4b 82fd883b a2fa4a29 c1e1191d e1b90026 ff800026"),
        Colormap(
            "coolwarm",
            "diverging",
            "003b4cc0 1d5e7de7 3984a7fc 53a7c5fe 6ecad8ef 82dfdbd9 9af2cab5 b4f7aa8c d0eb7d62 eccf453c f8be242e ffb40426",
        ),
        Colormap("seismic", "diverging", "0000004c 400101ff 7ffdfdff 81fff9f9 bfff0101 ff800000"),
    )
}


def colormap(name: str) -> Colormap:
    """Return the colormap of that name.

    Raises:
        UnknownColormap: there is none; the error carries the closest names.
    """
    try:
        return COLORMAPS[name]
    except KeyError:
        raise UnknownColormap.among(name, COLORMAPS, f"Choose one of: {', '.join(COLORMAPS)}.") from None
