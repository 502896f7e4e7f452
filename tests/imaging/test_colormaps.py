from __future__ import annotations

import numpy as np
import pytest

from service.errors import UnknownColormap
from service.imaging.colormaps import COLORMAPS, colormap

# First, middle (entry 128) and last colour as published with the maps, to be met within 3/255.
PUBLISHED = {
    "turbo": ((48, 18, 59), (164, 252, 60), (122, 4, 3)),
    "viridis": ((68, 1, 84), (33, 145, 140), (253, 231, 37)),
    "inferno": ((0, 0, 4), (188, 55, 84), (252, 255, 164)),
    "magma": ((0, 0, 4), (183, 55, 121), (252, 253, 191)),
    "plasma": ((13, 8, 135), (204, 71, 120), (240, 249, 33)),
    "cividis": ((0, 34, 78), (125, 124, 120), (254, 232, 56)),
    "jet": ((0, 0, 128), (125, 255, 122), (128, 0, 0)),
    "hot": ((11, 0, 0), (255, 92, 0), (255, 255, 255)),
    "gray": ((0, 0, 0), (128, 128, 128), (255, 255, 255)),
    "coolwarm": ((59, 76, 192), (221, 220, 220), (180, 4, 38)),
    "seismic": ((0, 0, 76), (255, 253, 253), (128, 0, 0)),
}


@pytest.mark.parametrize("name", COLORMAPS)
def test_a_colormap_is_a_table_of_256_colours(name: str) -> None:
    table = colormap(name).table
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    assert not table.flags.writeable
    assert colormap(name).name == name
    assert colormap(name).kind in ("sequential", "diverging")


@pytest.mark.parametrize("name", COLORMAPS)
def test_neighbouring_colours_are_close(name: str) -> None:
    steps = np.abs(np.diff(colormap(name).table.astype(int), axis=0))
    assert steps.max() <= 16


@pytest.mark.parametrize("name", COLORMAPS)
def test_a_palette_is_not_seen_then_cold_to_warm(name: str) -> None:
    palette = np.frombuffer(colormap(name).palette, np.uint8).reshape(256, 3)
    table = colormap(name).table
    assert (palette[0] == 0).all()
    assert (palette[1] == table[0]).all()
    assert (palette[255] == table[255]).all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_colours_are_the_published_ones(name: str) -> None:
    found = colormap(name).table[[0, 128, 255]].astype(int)
    assert np.abs(found - PUBLISHED[name]).max() <= 3


def test_diverging_maps_are_pale_in_the_middle() -> None:
    diverging = [entry for entry in COLORMAPS.values() if entry.kind == "diverging"]
    assert diverging
    for entry in diverging:
        assert entry.table[127].min() > 200


def test_an_unknown_name_comes_with_the_closest_ones() -> None:
    with pytest.raises(UnknownColormap, match="Did you mean 'viridis'") as caught:
        colormap("virides")
    assert caught.value.details["suggestions"] == ["viridis"]
    assert "turbo" in caught.value.message


def test_repr_names_the_map() -> None:
    assert repr(colormap("turbo")) == "Colormap('turbo', 'sequential')"
