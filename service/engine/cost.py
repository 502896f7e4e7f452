"""What a request costs, estimated before anything is decoded: passes of the model, pixels, bytes.

Runs in the front process.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from service.cam.layers import finest_of
from service.cam.methods import METHODS
from service.engine.amount import amount, amount_of_proofs
from service.engine.answer_size import bytes_around, bytes_of, explanation_bytes
from service.errors import RequestTooCostly, TooMuchOf
from service.imaging.canvas import KEPT_PIXELS
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
    from service.vocabulary import Output

__all__ = ["Cost", "Spending", "Work", "check_cost", "check_costs", "drawn_pixels"]

# What costs most of an explanation, most first.
_COSTLIEST: tuple[Output, ...] = ("hidden", "overlay", "mask", "heatmap", "regions", "map", "scores")
# To what a factor may be lowered, where that is not one.
_LEAST = {"smooth": 0, "max_side": 64}
# Finding regions takes as long as drawing so many pixels.
_REGION_PIXELS = 100_000
_NOT_DRAWN = frozenset({"map", "scores"})


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
        top_k: classes that are listed per picture.
        sentences: to encode, once for all pictures.
        told_bytes: of each class that came with the request, longest first: the answer repeats them.
        mirrored: whether the mirror image of each is explained, too.
        verify: whether each map is put to the proof.
    """

    info: ModelInfo
    images: tuple[Header, ...]
    layers: tuple[Layer, ...]
    methods: tuple[str, ...]
    targets: int
    options: CamOptions
    outputs: tuple[Output, ...]
    render: RenderSpec | None
    top_k: int
    sentences: int = 0
    told_bytes: tuple[int, ...] = ()
    mirrored: bool = False
    verify: bool = False

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
            top_k=todo.top_k,
            sentences=todo.encoded,
            told_bytes=tuple(sorted((len(each.encode()) for each in lane.sentences.all), reverse=True)),
            mirrored=todo.mirrored,
            verify=lane.verify,
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

    @cached_property
    def cost(self) -> Cost:
        """Estimate what it costs."""
        decoded = sum(header.pixels for header in self.images)
        told = self.bytes_around
        encoded = self.sentences * self.info.sentence_passes
        if self.render is None:
            return Cost(len(self.images) + encoded, decoded, told)
        forward = amount(self.methods, self.layers, self.targets, self.options, self.info.flops)
        forward *= 2 if self.mirrored else 1
        if self.verify:
            forward += amount_of_proofs(self.methods, self.layers, self.targets, self.options)
        cells = self._cells
        drawn = [self._maps(header, cells) for header in self.images]
        pixels, sent = sum(each[0] for each in drawn), sum(each[1] for each in drawn)
        return Cost(len(self.images) * forward + encoded, decoded + pixels, told + sent)

    @cached_property
    def bytes_around(self) -> int:
        """Estimate what is sent beside drawn maps."""
        repeated = sum(self.told_bytes[: self.top_k]) * len(self.images)
        named = 2 * self.told_bytes[0] * self.explanations if self.told_bytes else 0
        return bytes_around(len(self.images), self.top_k) + repeated + named

    @property
    def explanations(self) -> int:
        """How many maps there are, of all pictures."""
        layers = 1 if self.options.fuse else len(self.layers)
        return len(self.images) * layers * len(self.methods) * self.targets

    @property
    def _cells(self) -> Counter[tuple[int, int]]:
        """The maps of a picture, all its targets together: how many have a grid (h, w)."""
        grids = [layer.grid for layer in self.layers]
        if self.options.fuse:
            grids = [grids[finest_of(grids)]]
        fine = sum(METHODS[name].on_input for name in self.methods)
        found = Counter({(self.info.preprocess.height, self.info.preprocess.width): fine * len(grids) * self.targets})
        for grid in grids:
            found[grid] += (len(self.methods) - fine) * self.targets
        return found

    def _maps(self, header: Header, cells: Counter[tuple[int, int]]) -> tuple[int, int]:
        """Pixels drawn, and bytes sent, of one picture's explanations."""
        assert self.render is not None
        spec = self.render
        drawn = pixels_for(spec, geometry_for(self.info.preprocess, header.width, header.height))
        kept = header.width * header.height if spec.size == "layer" else drawn
        pixels, sent = header.pixels if spec.needs_canvas and kept > KEPT_PIXELS else 0, 0.0
        for (height, width), number in cells.items():
            each = min(drawn, height * width) if spec.size == "layer" else drawn
            pixels += number * drawn_pixels(self.outputs, each)
            sent += number * explanation_bytes(
                self.outputs, spec.image_format, each, height * width, verify=self.verify
            )
        return pixels, int(sent)

    @property
    def factors(self) -> dict[str, int]:
        """By the name of the option: how many there are of each factor, or how much of it."""
        counts = {
            "image": len(self.images),
            "layer": len(self.layers),
            "method": len(self.methods),
            "target": self.targets,
            "labels": self.sentences,
            "output": len(self.outputs),
            "smooth": self.options.smooth,
            "top_k": self.top_k,
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
            case "top_k":
                return replace(self, top_k=to)
            case "labels":
                return replace(self, sentences=to)
            case "smooth":
                return replace(self, options=replace(self.options, smooth=to))
            case _:
                assert self.render is not None
                return replace(self, render=replace(self.render, max_side=to))


def drawn_pixels(outputs: Iterable[Output], pixels: int) -> int:
    """Return how many pixels are drawn for one explanation, each picture having ``pixels``."""
    return sum(_REGION_PIXELS if name == "regions" else pixels for name in outputs if name not in _NOT_DRAWN)


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


def check_costs(works: Sequence[Work], most: Cost) -> Cost:
    """Return what a request costs whose images have different options.

    Raises:
        RequestTooCostly: all together are more than ``most``, or one alone is.
    """
    total = sum((check_cost(work, most) for work in works), Cost())
    if total.within(most):
        return total
    images = sum(len(work.images) for work in works)
    part = next(part for part in vars(most) if getattr(total, part) > getattr(most, part))
    much = TooMuchOf("image", images, _images_within(works, most), suffices=True)
    raise RequestTooCostly.because(part, getattr(total, part), getattr(most, part), much)


def _images_within(works: Sequence[Work], most: Cost) -> int:
    """Return how many images would do, whichever they are: the costliest first."""
    total, fitting = Cost(), 0
    for work in sorted(works, key=lambda work: -work.cost.units / max(1, len(work.images))):
        for _ in work.images:
            total += work.cost * (1 / len(work.images))
            if not total.within(most):
                return fitting
            fitting += 1
    return fitting


def _way_out(work: Work, most: Cost) -> TooMuchOf:
    """Return the option to lower: one that suffices alone, where there is one."""
    cost = work.cost
    exceeded = [part for part in vars(cost) if getattr(cost, part) > getattr(most, part)]
    ways = []
    for name, count in work.factors.items():
        least = work.lowered(name, _LEAST.get(name, 1)).cost
        if any(getattr(least, part) < getattr(cost, part) for part in exceeded):
            ways.append((name, count, _most_of(work, name, count, most)))
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
    """What a request sends so far, so that no estimate is trusted blindly.

    Attributes:
        most: what it may take.
        works: what it asks for, once that is known: one for all images with the same options.
        bytes: those that it would send now.
        drawn: how many maps are among them.
    """

    most: Cost
    works: tuple[Work, ...] = ()
    bytes: int = 0
    drawn: int = 0

    def begin(self, *works: Work) -> None:
        """Note what is asked for, and count what is sent beside maps."""
        self.works, self.bytes = works, sum(work.bytes_around for work in works)

    def add(self, drawn: Sequence[MapAnswer]) -> None:
        """Count drawn maps.

        Raises:
            RequestTooCostly: they are more than may be sent; the message says which option to lower, and to what.
        """
        assert self.works, "it has not begun"
        with_map = any("map" in work.outputs for work in self.works)
        self.bytes += int(sum(bytes_of(each, with_map=with_map) for each in drawn))
        self.drawn += len(drawn)
        if self.bytes > self.most.bytes:
            raise self._too_much(max(self.works, key=lambda work: work.cost.bytes))

    def _too_much(self, work: Work) -> RequestTooCostly:
        """Take all maps for as large as those that are drawn, and what was estimated for that much smaller."""
        whole = self.bytes * max(1.0, sum(work.explanations for work in self.works) / self.drawn)
        allowed = replace(self.most, bytes=int(self.most.bytes * work.cost.bytes / whole))
        return RequestTooCostly.because("bytes", whole, self.most.bytes, _way_out(work.costliest_first, allowed))
