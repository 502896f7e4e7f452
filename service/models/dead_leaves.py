"""Random pictures that are like photographs in what networks look for: edges of things of all sizes, texture, grain.

Discs that hide each other, of radii r as often as r⁻³, have the statistics of natural images (Lee, Mumford and Huang:
Occlusion models for natural images, 2001, https://doi.org/10.1023/A:1011109015675). Plain noise, or what is smooth,
hardly moves a trained network, and what rounding does to such answers says little of those that matter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["dead_leaves"]

_DISCS = 200
_SMALLEST, _LARGEST = 0.02, 0.5  # radii, as shares of the sides
_GREY = 0.6  # of a colour, what all channels have in common
_TEXTURE, _GRAIN = 0.1, 0.02
_COLOURINGS = 8  # of every arrangement


def dead_leaves(count: int, channels: int, height: int, width: int) -> Tensor:
    """Return ``count`` pictures (count, channels, height, width) from 0 to 1; the same at every call."""
    generator = torch.Generator().manual_seed(2)
    arrangements = [_arrangement(height, width, generator) for _ in range(math.ceil(count / _COLOURINGS))]
    on_top = torch.stack(arrangements).repeat_interleave(_COLOURINGS, dim=0)[:count]
    grey, own = (torch.rand(count, _DISCS + 1, each, generator=generator) for each in (1, channels))
    colours = _GREY * grey + (1 - _GREY) * own
    painted = torch.stack([palette[discs] for palette, discs in zip(colours, on_top, strict=True)]).permute(0, 3, 1, 2)
    grain = torch.randn(count, channels, height, width, generator=generator)
    return (painted + _TEXTURE * _texture(count, height, width, generator) + _GRAIN * grain).clamp(0, 1)


def _arrangement(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return which disc is seen at every pixel (height, width), 0 where none is."""
    across, down, drawn = torch.rand(3, _DISCS, generator=generator)
    most, least = _SMALLEST**-2, _LARGEST**-2
    radii = (most - drawn * (most - least)) ** -0.5
    seen = torch.zeros(height, width, dtype=torch.long)
    for number, (x, y, radius) in enumerate(zip(across.tolist(), down.tolist(), radii.tolist(), strict=True), start=1):
        rows = slice(max(0, int((y - radius) * height)), int((y + radius) * height) + 1)
        columns = slice(max(0, int((x - radius) * width)), int((x + radius) * width) + 1)
        part = seen[rows, columns]
        from_above = (torch.arange(part.shape[0]) + rows.start + 0.5) / height - y
        from_left = (torch.arange(part.shape[1]) + columns.start + 0.5) / width - x
        part[from_above[:, None] ** 2 + from_left**2 < radius**2] = number
    return seen


def _texture(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return noise (count, 1, height, width) of mean 0 and deviation 1, of which every octave has half of the last."""
    whole = torch.zeros(count, 1, height, width)
    for octave in range(1, int(math.log2(min(height, width))) + 1):
        cells = torch.randn(count, 1, 2**octave, 2**octave, generator=generator)
        whole += 2.0**-octave * functional.interpolate(cells, (height, width), mode="bilinear")
    dims = (1, 2, 3)
    return (whole - whole.mean(dims, keepdim=True)) / whole.std(dims, keepdim=True).clamp(min=1e-6)
