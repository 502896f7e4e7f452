"""What a request costs, estimated before anything is decoded: passes of the model, pixels, bytes.

Runs in the front process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from service.engine.amount import amount
from service.errors import RequestTooCostly, TooMuchOf
from service.imaging.preprocess import geometry_for
from service.imaging.render import pixels_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from service.cam.layers import Layer
    from service.cam.targets import CamOptions
    from service.engine.answers import MapAnswer
    from service.engine.plan import Plan
    from service.imaging.decode import Header
    from service.imaging.render import RenderSpec
    from service.models.info import ModelInfo
    from service.vocabulary import ImageFormat, Output

__all__ = ["Cost", "Spending", "Work", "check_cost", "drawn_pixels"]

# Bytes per pixel of drawn pictures, as measured on photos: coarse maps take a half of it, fine ones twice as much.
_BYTES_PER_PIXEL: dict[tuple[Output, ImageFormat], float] = {
    ("heatmap", "png"): 0.25,
    ("heatmap", "jpeg"): 0.1,
    ("heatmap", "webp"): 0.25,
    ("overlay", "png"): 1.2,
    ("overlay", "jpeg"): 0.15,
    ("overlay", "webp"): 0.12,
    ("mask", "png"): 0.15,
    ("mask", "jpeg"): 0.06,
    ("mask", "webp"): 0.25,
}
_AUTO: dict[Output, ImageFormat] = {"heatmap": "png", "overlay": "jpeg", "mask": "png"}
_BASE64 = 4 / 3
# What costs most of an explanation, most first.
_COSTLIEST: tuple[Output, ...] = ("overlay", "mask", "heatmap", "regions", "map")
# To what a factor may be lowered, where that is not one.
_LEAST = {"smooth": 0, "max_side": 64}
# Of an explanation: numbers, names, the beginnings of files, a few regions.
_BYTES_BESIDE = 1500
# Finding regions takes as long as drawing so many pixels.
_REGION_PIXELS = 100_000


@dataclass(frozen=True)
class Cost:
    """An amount of work.

    Attributes:
        forward: passes of the model over one picture each; what comes after a layer counts as its share of one.
        pixels: decoded and drawn.
        bytes: sent.
    """

    forward: float = 0.0
    pixels: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Return both together."""
        return Cost(self.forward + other.forward, self.pixels + other.pixels, self.bytes + other.bytes)

    def __sub__(self, other: Cost) -> Cost:
        """Return what is left of it."""
        return Cost(self.forward - other.forward, self.pixels - other.pixels, self.bytes - other.bytes)

    def __mul__(self, share: float) -> Cost:
        """Return a share of it."""
        return Cost(self.forward * share, int(self.pixels * share), int(self.bytes * share))

    def within(self, other: Cost) -> bool:
        """Whether no part of it is more than that of ``other``."""
        return self.forward <= other.forward and self.pixels <= other.pixels and self.bytes <= other.bytes

    @property
    def units(self) -> float:
        """One number for all of it: passes, a million pixels counting as one."""
        return self.forward + self.pixels / 1_000_000


@dataclass(frozen=True)
class Work:
    """What a request asks for, as factors that can be lowered one by one.

    Attributes:
        info: the model.
        images: the headers of those pictures that can be read.
        layers: where it looks.
        methods: how.
        targets: classes per picture.
        options: how maps are made.
        outputs: what is drawn or told of each map.
        render: how; None for predictions alone.
    """

    info: ModelInfo
    images: tuple[Header, ...]
    layers: tuple[Layer, ...]
    methods: tuple[str, ...]
    targets: int
    options: CamOptions
    outputs: tuple[Output, ...]
    render: RenderSpec | None

    @classmethod
    def of(cls, todo: Plan, headers: Sequence[Header]) -> Work:
        """Count what a plan asks for."""
        info, lane, spec = todo.info, todo.lane, todo.render
        return cls(
            info,
            images=tuple(headers),
            layers=tuple(info.layer(name) for name in lane.layers),
            methods=lane.methods,
            targets=todo.targets.count,
            options=lane.cam_options,
            outputs=tuple(spec.outputs if spec else ()),
            render=spec,
        )

    @property
    def costliest_first(self) -> Work:
        """The same, so that what is left when a factor is lowered is what costs most of it."""

        def alone(method: str) -> float:
            return amount([method], self.layers, 1, self.options, self.info.flops)

        return replace(
            self,
            images=tuple(sorted(self.images, key=lambda header: -header.pixels)),
            layers=tuple(sorted(self.layers, key=lambda layer: -layer.tail)),
            methods=tuple(sorted(self.methods, key=alone, reverse=True)),
            outputs=tuple(sorted(self.outputs, key=_COSTLIEST.index)),
        )

    @property
    def cost(self) -> Cost:
        """Estimate what it costs."""
        decoded = sum(header.pixels for header in self.images)
        told = _BYTES_BESIDE * len(self.images)
        if self.render is None:
            return Cost(float(len(self.images)), decoded, told)
        forward = amount(self.methods, self.layers, self.targets, self.options, self.info.flops)
        drawn = [self._maps(header) for header in self.images]
        pixels, sent = sum(each[0] for each in drawn), sum(each[1] for each in drawn)
        return Cost(len(self.images) * forward, decoded + pixels, told + sent)

    def _maps(self, header: Header) -> tuple[int, int]:
        """Pixels drawn and bytes sent of one picture's explanations."""
        assert self.render is not None
        drawn = pixels_for(self.render, geometry_for(self.info.preprocess, header.width, header.height))
        number = (1 if self.options.fuse else len(self.layers)) * len(self.methods) * self.targets
        pixels = drawn_pixels(self.outputs, drawn)
        raw = 4 * max(math.prod(layer.grid) for layer in self.layers) if "map" in self.outputs else 0
        encoded = sum(_bytes_per_pixel(name, self.render.image_format) * drawn for name in self.outputs)
        return number * pixels, number * int(_BYTES_BESIDE + _BASE64 * (raw + encoded))

    @property
    def factors(self) -> dict[str, int]:
        """By the name of the option: how many there are of each factor, or how much of it."""
        counts = {
            "image": len(self.images),
            "layer": len(self.layers),
            "method": len(self.methods),
            "target": self.targets,
            "output": len(self.outputs),
            "smooth": self.options.smooth,
            "max_side": self.render.max_side if self.render else 0,
        }
        return {name: count for name, count in counts.items() if count > _LEAST.get(name, 1)}

    def lowered(self, factor: str, to: int) -> Work:
        """Return what is left with fewer, or less, of a factor."""
        match factor:
            case "image" | "layer" | "method" | "output":
                return replace(self, **{f"{factor}s": getattr(self, f"{factor}s")[:to]})
            case "target":
                return replace(self, targets=to)
            case "smooth":
                return replace(self, options=replace(self.options, smooth=to))
            case _:
                assert self.render is not None
                return replace(self, render=replace(self.render, max_side=to))


def drawn_pixels(outputs: Iterable[Output], pixels: int) -> int:
    """Return how many pixels are drawn for one explanation, each picture having ``pixels``."""
    return sum(_REGION_PIXELS if name == "regions" else pixels for name in outputs if name != "map")


def _bytes_per_pixel(output: Output, image_format: ImageFormat) -> float:
    return _BYTES_PER_PIXEL.get(
        (output, _AUTO[output] if image_format == "auto" and output in _AUTO else image_format), 0
    )


def check_cost(work: Work, most: Cost) -> Cost:
    """Return what a request costs.

    Raises:
        RequestTooCostly: it is more than ``most``; the message says which option to lower, and to what.
    """
    cost = work.cost
    exceeded = next(
        (part for part in ("forward", "pixels", "bytes") if getattr(cost, part) > getattr(most, part)), None
    )
    if exceeded is None:
        return cost
    raise RequestTooCostly.because(
        exceeded, getattr(cost, exceeded), getattr(most, exceeded), _way_out(work.costliest_first, most)
    )


def _way_out(work: Work, most: Cost) -> TooMuchOf:
    """Return the option to lower: one that suffices alone, where there is one."""
    ways = [
        (name, count, _most_of(work, name, count, most))
        for name, count in work.factors.items()
        if work.lowered(name, _LEAST.get(name, 1)).cost != work.cost
    ]
    enough = [way for way in ways if way[2] is not None]
    # What is asked for most often is missed least; smaller pictures are a way out where nothing else is.
    name, asked, allowed = max(enough or ways or [("image", 1, 0)], key=lambda way: (way[0] != "max_side", way[1]))
    return TooMuchOf(name, asked, _LEAST.get(name, 1) if allowed is None else allowed, suffices=bool(enough))


def _most_of(work: Work, factor: str, count: int, most: Cost) -> int | None:
    """Return how much of a factor would do, by bisection; None where even the least is too much."""
    low, high = _LEAST.get(factor, 1), count
    if not work.lowered(factor, low).cost.within(most):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if work.lowered(factor, middle).cost.within(most) else (low, middle)
    return low


@dataclass
class Spending:
    """What a request has drawn so far, so that no estimate is trusted blindly.

    Attributes:
        most: bytes that it may send.
        with_maps: whether raw maps are among them.
        bytes: those that it would send now.
    """

    most: int
    with_maps: bool = False
    bytes: int = 0

    def add(self, drawn: Sequence[MapAnswer]) -> None:
        """Count drawn maps.

        Raises:
            RequestTooCostly: they are more than may be sent.
        """
        sent = (each.rendered.bytes + (each.raw.nbytes if self.with_maps else 0) for each in drawn)
        self.bytes += int(sum(_BYTES_BESIDE + _BASE64 * each for each in sent))
        if self.bytes > self.most:
            raise RequestTooCostly(
                f"The answer has more than {self.most:,} bytes. Ask for fewer pictures or explanations, for a smaller "
                "max_side, or for image_format=jpeg.",
                factor="bytes",
                asked=self.bytes,
                allowed=self.most,
            )
