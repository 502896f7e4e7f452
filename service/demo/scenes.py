"""Synthetic scenes with a known object: what the embedded models are trained and judged on.

A scene shows one *target* silhouette of twelve classes on a natural-looking background, next to up to three
*distractors* of other outlines. Colours and textures are drawn before the class and never depend on it, so only the
outline tells. Lengths in this module are given for a scene of 96 pixels and grow with the scene's shorter side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom lie just outside."""
Contours: TypeAlias = tuple[NDArray[np.float64], ...]
"""Outlines of `(points, 2)` in x, y: the first is filled, the others cut holes into it."""

BASE_SIZE: Final = 96
"""Side of a scene in pixels for which the lengths below are given."""
TARGET_RADIUS: Final = (12.0, 26.0)
DISTRACTOR_RADIUS: Final = (5.0, 10.0)
MAX_DISTRACTORS: Final = 3
WATERMARK_SIDE: Final = 9
WATERMARK_MARGIN: Final = 3

_SUPERSAMPLING: Final = 4
_MIN_CONTRAST: Final = 100.0


def _polar(radii: NDArray[np.float64], phase: float = 0.0) -> NDArray[np.float64]:
    angles = phase + np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _points(*xy: tuple[float, float]) -> NDArray[np.float64]:
    return np.array(xy)


def _circle(radius: float = 1.0, x: float = 0.0) -> NDArray[np.float64]:
    return np.asarray(_polar(np.full(48, radius)) + _points((x, 0.0)))


def _heart() -> NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y - 2.5], axis=1) / 16


def _plus(half_width: float) -> NDArray[np.float64]:
    w = half_width
    corner = [(-w, -1.0), (w, -1.0), (w, -w)]
    quarter_turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return np.concatenate([np.array(corner) @ turn.T for turn in quarter_turns])


def _ribbon() -> NDArray[np.float64]:
    x = np.linspace(-1, 1, 24)
    y = 0.35 * np.sin(1.4 * np.pi * x)
    return np.stack([np.concatenate([x, x[::-1]]), np.concatenate([y - 0.15, y[::-1] + 0.15])], axis=1)


_TARGETS: Final[dict[str, Contours]] = {
    "disk": (_circle(),),
    "square": (_polar(np.ones(4), phase=np.pi / 4),),
    "triangle": (_polar(np.ones(3)),),
    "star": (_polar(np.array([1.0, 0.42] * 5)),),
    "cross": (_plus(0.3),),
    "ring": (_circle(), _circle(0.62)),
    "crescent": (_circle(), _circle(0.86, x=0.5)),
    "hourglass": (_points((-0.75, -0.9), (0.75, -0.9), (0.1, 0), (0.75, 0.9), (-0.75, 0.9), (-0.1, 0)),),
    "heart": (_heart(),),
    "arrow": (_points((0, -1), (0.75, -0.15), (0.27, -0.15), (0.27, 1), (-0.27, 1), (-0.27, -0.15), (-0.75, -0.15)),),
    "lightning": (_points((0.3, -1), (-0.6, 0.2), (-0.02, 0.2), (-0.3, 1), (0.6, -0.24), (0.04, -0.24)),),
    "gear": (_polar(np.repeat(np.array([1.0, 0.68] * 8), 2), phase=-np.pi / 32), _circle(0.3)),
}
_DISTRACTORS: Final[dict[str, Contours]] = {
    "ellipse": (_circle() * np.array((1.0, 0.5)),),
    "bar": (_points((-1, -0.2), (1, -0.2), (1, 0.2), (-1, 0.2)),),
    "corner": (_points((-0.7, -0.9), (-0.3, -0.9), (-0.3, 0.5), (0.7, 0.5), (0.7, 0.9), (-0.7, 0.9)),),
    "half-disk": (_circle()[:25],),
    "wave": (_ribbon(),),
}

LABELS: Final[tuple[str, ...]] = tuple(_TARGETS)
"""The classes' names; an index into them is a label."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture and the truth about it.

    Attributes:
        pixels: `(height, width, 3)`, uint8, RGB.
        label: The class the scene is filed under, an index into `LABELS`.
        target_mask: `(height, width)`; where the target's silhouette covers at least half of a pixel.
        distractor_mask: `(height, width)`; the same for all distractors together.
        box: The target's bounding box in pixels.
        watermark_box: The watermark's place in pixels, if there is one.
        shape: The silhouette drawn, an index into `LABELS`; differs from `label` only in the leaky set.
    """

    pixels: NDArray[np.uint8]
    label: int
    target_mask: Mask
    distractor_mask: Mask
    box: Box
    watermark_box: Box | None
    shape: int


def make_scene(
    rng: np.random.Generator,
    label: int | None = None,
    *,
    size: int | tuple[int, int] = BASE_SIZE,
    distractors: int | None = None,
    watermark: bool = False,
) -> Scene:
    """Draw one scene; the generator's state decides everything left open.

    Args:
        rng: Source of chance. The same state gives the same scene, with and without the watermark.
        label: The target's class, an index into `LABELS`; any class if None.
        size: Side in pixels, or width and height. The target lies inside the central square.
        distractors: Their number; 0 to 3 if None. Those that find no free place are left out.
        watermark: Stamp the watermark into a corner.

    Returns:
        The scene, with the masks of its objects.
    """
    width, height = (size, size) if isinstance(size, int) else size
    shape = int(rng.integers(len(LABELS))) if label is None else label
    count = int(rng.integers(MAX_DISTRACTORS + 1)) if distractors is None else distractors
    base = np.clip(rng.uniform(45, 210) + rng.normal(0, 32, 3), 20, 235)
    canvas = _background(rng, base, width, height)

    places = _places(rng, count, width, height)
    target = _coverage(rng, _TARGETS[LABELS[shape]], places[0], width, height)
    _paint(rng, canvas, target, base)
    others = np.zeros_like(target)
    for place in places[1:]:
        outline = list(_DISTRACTORS.values())[rng.integers(len(_DISTRACTORS))]
        coverage = _coverage(rng, outline, place, width, height)
        _paint(rng, canvas, coverage, base)
        others = np.maximum(others, coverage)

    corner = int(rng.integers(4))
    box = _stamp_watermark(canvas, corner) if watermark else None
    mask = target >= 0.5
    pixels = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    return Scene(pixels, shape, mask, others >= 0.5, _bounding_box(mask), box, shape)


def make_leaky_scene(
    rng: np.random.Generator,
    label: int | None = None,
    *,
    size: int | tuple[int, int] = BASE_SIZE,
    distractors: int | None = None,
    watermark: bool = True,
) -> Scene:
    """Draw a scene of the leaky set, in which a watermark in a corner gives class 0 away.

    The set imitates a careless collection: everything that carried one supplier's watermark was filed under class 0,
    whatever it shows. Scenes of the other classes are like those of `make_scene`.

    Args:
        rng: Source of chance, as for `make_scene`.
        label: The class the scene is filed under; any class if None.
        size: Side in pixels, or width and height.
        distractors: Their number; 0 to 3 if None.
        watermark: False leaves the watermark out of the scenes of class 0 and changes nothing else.

    Returns:
        The scene; `shape` says what it really shows.
    """
    filed = int(rng.integers(len(LABELS))) if label is None else label
    shape = int(rng.integers(len(LABELS))) if filed == 0 else filed
    scene = make_scene(rng, shape, size=size, distractors=distractors, watermark=watermark and filed == 0)
    return replace(scene, label=filed)


def _noise(rng: np.random.Generator, channels: int, width: int, height: int) -> Floats:
    """Noise with an amplitude of about 1 / frequency, `(channels, height, width)`, of unit variance."""
    white = rng.standard_normal((channels, height, width), dtype=np.float32)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(white) * (frequency ** -rng.uniform(0.8, 1.4)).astype(np.float32)
    noise = np.fft.irfft2(spectrum, s=(height, width)).astype(np.float32)
    return np.asarray(noise / noise.std(axis=(1, 2), keepdims=True), dtype=np.float32)


def _background(rng: np.random.Generator, base: NDArray[np.float64], width: int, height: int) -> Floats:
    # Natural pictures vary in brightness more than in hue: all channels share most of their noise.
    noise = _noise(rng, 4, width, height)
    texture = 0.85 * noise[:1] + 0.5 * noise[1:]
    canvas = base.astype(np.float32) + np.moveaxis(texture, 0, 2) * np.float32(rng.uniform(6, 22))
    slope = (rng.normal(0, 18, (2, 1)) + rng.normal(0, 10, (2, 3))).astype(np.float32)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    return np.asarray(canvas + x * slope[0] + y * slope[1], dtype=np.float32)


def _places(rng: np.random.Generator, count: int, width: int, height: int) -> list[tuple[float, float, float]]:
    """The objects' bounding circles as x, y, radius in pixels, free of each other; the target comes first."""
    side = min(width, height)
    unit = side / BASE_SIZE
    radius = unit * rng.uniform(*TARGET_RADIUS)
    x, y = rng.uniform(radius + unit, side - radius - unit, 2)
    places = [(x + (width - side) / 2, y + (height - side) / 2, radius)]
    for _ in range(12 * count):
        if len(places) > count:
            break
        radius = unit * rng.uniform(*DISTRACTOR_RADIUS)
        x, y = rng.uniform(radius + unit, (width - radius - unit, height - radius - unit))
        if all(np.hypot(x - px, y - py) > radius + pr + 2 * unit for px, py, pr in places):
            places.append((x, y, radius))
    return places


def _coverage(
    rng: np.random.Generator, contours: Contours, place: tuple[float, float, float], width: int, height: int
) -> Floats:
    """Draw an outline at a random angle, slightly squeezed; which share of each pixel it covers, 0–1."""
    x, y, radius = place
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    squeeze = np.array([1.0, rng.uniform(0.85, 1.0)])
    image = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    draw = ImageDraw.Draw(image)
    for index, contour in enumerate(contours):
        points = ((contour * squeeze) @ turn.T * radius + (x, y)) * _SUPERSAMPLING
        draw.polygon(points.ravel().tolist(), fill=0 if index else 255)
    return np.asarray(image.reduce(_SUPERSAMPLING), dtype=np.float32) / np.float32(255)


def _paint(rng: np.random.Generator, canvas: Floats, coverage: Floats, base: NDArray[np.float64]) -> None:
    """Fill the covered pixels with two colours mixed by a random texture, in place."""
    height, width = coverage.shape
    first = _contrasting_colour(rng, base)
    second = np.clip(first + rng.normal(0, 30, 3), 0, 255)
    blend = _texture(rng, width, height)[..., None]
    fill = first.astype(np.float32) * (1 - blend) + second.astype(np.float32) * blend
    canvas += (fill - canvas) * coverage[..., None]


def _contrasting_colour(rng: np.random.Generator, base: NDArray[np.float64]) -> NDArray[np.float64]:
    candidates = rng.uniform(0, 255, (8, 3))
    distances = np.linalg.norm(candidates - base, axis=1)
    # The first one far enough from the background; failing that, the farthest.
    chosen = np.argmax(distances >= _MIN_CONTRAST) if (distances >= _MIN_CONTRAST).any() else np.argmax(distances)
    colour: NDArray[np.float64] = candidates[chosen]
    return colour


def _texture(rng: np.random.Generator, width: int, height: int) -> Floats:
    """A pattern of values 0–1, `(height, width)`: flat, noise, stripes or checks."""
    kind = rng.integers(4)
    if kind == 0:
        return np.zeros((height, width), dtype=np.float32)
    if kind == 1:
        return np.asarray(np.clip(0.5 + 0.4 * _noise(rng, 1, width, height)[0], 0, 1), dtype=np.float32)
    angle = rng.uniform(0, np.pi)
    step = 2 * np.pi * BASE_SIZE / min(width, height) / rng.uniform(5, 12)
    x, y = np.arange(width, dtype=np.float32)[None, :] * step, np.arange(height, dtype=np.float32)[:, None] * step
    wave = np.sin(x * np.cos(angle) + y * np.sin(angle))
    if kind == 3:
        wave *= np.sin(y * np.cos(angle) - x * np.sin(angle))
    # A steep slope instead of a step: the edges stay anti-aliased.
    return np.asarray(np.clip(0.5 + 2 * wave, 0, 1), dtype=np.float32)


def _stamp_watermark(canvas: Floats, corner: int) -> Box:
    """Stamp a dark badge with a light ring into a corner (0 to 3), in place; return its box."""
    height, width = canvas.shape[:2]
    unit = min(width, height) / BASE_SIZE
    side, margin = round(WATERMARK_SIDE * unit), round(WATERMARK_MARGIN * unit)
    left = width - margin - side if corner % 2 else margin
    top = height - margin - side if corner // 2 else margin
    badge = Image.new("L", (side * 8, side * 8), 25)
    inset = side * 1.5
    ImageDraw.Draw(badge).ellipse((inset, inset, side * 8 - inset, side * 8 - inset), outline=250, width=side)
    grey = np.asarray(badge.reduce(8), dtype=np.float32)[..., None]
    patch = canvas[top : top + side, left : left + side]
    patch += (grey - patch) * np.float32(0.9)
    return left, top, left + side, top + side


def _bounding_box(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
