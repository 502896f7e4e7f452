"""A request, checked against a model and resolved to what the engine computes and draws.

Runs in the front process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from service.cam.methods import METHODS
from service.cam.placing import Placing
from service.cam.targets import CamOptions, Targets, Top
from service.engine.amount import LARGE, amount, amount_of_proofs
from service.engine.encoded import EncodedSentences
from service.engine.messages import Lane
from service.engine.wording import Wording
from service.errors import InvalidOption, MethodNotApplicable, UnknownMethod
from service.imaging.colormaps import COLORMAPS, colormap
from service.imaging.comparison import marked_area
from service.imaging.render import RenderSpec
from service.options import DEFAULT_COLORMAP, DEFAULT_TOP_K, SIGNED_COLORMAP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.engine.request import Request
    from service.imaging.comparison import MarkedArea
    from service.models.info import ModelInfo
    from service.vocabulary import Registration

__all__ = ["Plan", "plan"]

_TOP = re.compile(r"top-(\d{1,6})", re.IGNORECASE)
_NO_TARGETS = Targets(())


@dataclass(frozen=True, eq=False)
class Plan:
    """What is done to each image of a request.

    Attributes:
        info: the model, as it is with the head that was asked for.
        lane: what the images share with their batch-mates.
        targets: what each is asked for.
        top_k: how many predictions are listed.
        render: what is drawn; None for predictions alone.
        registration: where layers' cells are drawn.
        certainty: whether the scores of each picture's prediction are told.
        area: what ``mass_inside`` refers to.
        amount: estimated work of each image, in forward passes of the model; its mirror image takes as much again, and
            its share of ``encoded`` is included.
        encoded: sentences to encode, once for all images.
    """

    info: ModelInfo
    lane: Lane
    targets: Targets
    top_k: int
    render: RenderSpec | None
    registration: Registration = "measured"
    certainty: bool = False
    area: MarkedArea | None = None
    amount: float = 1.0
    encoded: int = 0

    @cached_property
    def placing(self) -> Placing:
        """Where the cells of its maps look."""
        spec, layers = self.info.preprocess, {name: self.info.layer(name) for name in self.lane.layers}
        return Placing(layers, self.lane.cam_options, self.registration, spec.height, spec.width)

    @property
    def of_mirror_image(self) -> Plan:
        """What is done to the mirror image: it is explained, and that is all."""
        lane = replace(self.lane, verify=False)
        work = _amount_of(replace(self, lane=lane))
        return replace(self, lane=replace(lane, large=work > LARGE), amount=work)

    @property
    def mirrored(self) -> bool:
        """Whether the mirror image is explained, too, to see whether maps are stable."""
        return self.render is not None and "scores" in self.render.outputs


def plan(request: Request, info: ModelInfo, max_explanations: int, encoded: EncodedSentences | None = None) -> Plan:
    """Resolve ``request`` for the model ``info``.

    Args:
        request: what is asked.
        info: the model.
        max_explanations: of one picture.
        encoded: which sentences need not be encoded any more; none are if left out.

    Raises:
        InvalidOption: top_k beyond the classes, more explanations than allowed, or labels that cannot be used.
        UnknownLayer, LayerNotExplainable, UnknownLabel, UnknownMethod, MethodNotApplicable, UnknownColormap:
            see there.
    """
    made = _plan(request, info, max_explanations)
    fresh = (encoded or EncodedSentences()).fresh(info.key, made.lane.sentences.all)
    work = _amount_of(made) + fresh * info.sentence_passes / max(1, len(request.images))
    lane = replace(made.lane, large=work > LARGE)
    return replace(made, lane=lane, amount=work, encoded=fresh)


def _plan(request: Request, info: ModelInfo, max_explanations: int) -> Plan:
    wording = Wording.of(request, info.head_view(None if request.head is None else str(request.head).strip()))
    info = wording.info
    top_k = _top_k(request, info)
    if request.op == "predict":
        lane = Lane(info.key, "predict", head=info.default_head, sentences=wording.sentences)
        return Plan(info, lane, _NO_TARGETS, top_k, None, certainty=request.scores)
    methods = tuple(_method(name, request, info) for name in request.methods)
    layers = tuple(_layer(name, methods, info) for name in request.layers)
    if request.fuse is not None and len(set(layers)) < 2:
        raise InvalidOption("fuse makes one map of several layers: give 'layer' at least twice.")
    cam_options = CamOptions(
        request.signed,
        request.smooth,
        request.augment == "flip",
        request.fuse,
        # Elsewhere it says how maps are drawn, and need not part batches.
        request.registration if request.fuse or request.verify else "measured",
    )
    lane = Lane(
        info.key,
        "explain",
        layers,
        methods,
        cam_options,
        info.default_head,
        sentences=wording.sentences,
        verify=request.verify,
    )
    targets = Targets(
        classes=tuple(_target(target, wording) for target in request.targets),
        against=None if request.against is None else wording.index(request.against),
    )
    explanations = (1 if request.fuse else len(layers)) * len(methods) * targets.count
    if explanations > max_explanations:
        raise InvalidOption(
            f"{explanations} explanations per picture are asked for (layers × methods × targets); "
            f"at most {max_explanations} are made in one request."
        )
    return Plan(
        info,
        lane,
        targets,
        top_k,
        _render_spec(request),
        request.registration,
        certainty=request.scores or "scores" in request.outputs,
        area=None if request.region is None else marked_area(request.region),
    )


def _amount_of(made: Plan) -> float:
    """Estimate the work of an image, in forward passes of the model."""
    lane = made.lane
    if lane.op == "predict":
        return 1.0
    layers = [made.info.layer(name) for name in lane.layers]
    count = made.targets.count
    proofs = amount_of_proofs(lane.methods, layers, count, lane.cam_options) if lane.verify else 0.0
    return amount(lane.methods, layers, count, lane.cam_options, made.info.flops) + proofs


def _top_k(request: Request, info: ModelInfo) -> int:
    classes = len(info.labels)
    if request.top_k is None:
        return min(DEFAULT_TOP_K, classes)
    if request.top_k > classes:
        raise InvalidOption(f"top_k is {request.top_k}, but model {info.name!r} has only {classes} classes.")
    return request.top_k


def _target(target: int | str, wording: Wording) -> int | Top:
    text, info = str(target).strip(), wording.info
    if text.casefold() == "predicted":
        return Top(1)
    if top := _TOP.fullmatch(text):
        k = int(top[1])
        if not 1 <= k <= len(info.labels):
            raise InvalidOption(f"{text!r} is out of range: model {info.name!r} has {len(info.labels)} classes.")
        return Top(k)
    return wording.index(target)


def _method(name: str, request: Request, info: ModelInfo) -> str:
    if name not in METHODS:
        raise UnknownMethod.among(name, METHODS)
    if reason := _why_not(name, request, info):
        raise MethodNotApplicable(f"Method {name!r} cannot be used here: {reason}.")
    return name


def _layer(name: str, methods: Sequence[str], info: ModelInfo) -> str:
    """Find a layer; a method that needs a gradient where none comes is refused."""
    layer = info.layer(name)
    needing = next(
        (method for method in methods if METHODS[method].needs_gradients and METHODS[method].uses_layer), None
    )
    if needing is not None and layer.no_gradient is not None:
        reason = f"no gradient reaches it, since {layer.no_gradient}"
        raise MethodNotApplicable(f"Method {needing!r} cannot be used at layer {layer.name!r}: {reason}.")
    return layer.name


def _why_not(name: str, request: Request, info: ModelInfo) -> str | None:
    """Say why a method does not go with the model or with the other options, or None where it does."""
    method = METHODS[name]
    if name in info.refused_methods:
        return info.refused_methods[name]
    if request.signed and not method.signed:
        return "its maps have no sign by definition; leave out 'signed'"
    if request.fuse and not method.uses_layer:
        return "it looks at the whole network, so there are no layers to fuse; leave out 'fuse'"
    if request.against is not None and method.score == "finer":
        return "it chooses by itself what to compare the class with; leave out 'against'"
    if request.against is not None and not method.class_specific:
        return "it knows no classes; leave out 'against'"
    return None


def _colormap(request: Request) -> str:
    """Choose a diverging colormap for signed maps: zero must be told from both sides."""
    if request.colormap is None:
        return SIGNED_COLORMAP if request.signed else DEFAULT_COLORMAP
    if request.signed and colormap(request.colormap).kind != "diverging":
        diverging = " or ".join(name for name, row in COLORMAPS.items() if row.kind == "diverging")
        raise InvalidOption(f"'signed' needs a diverging colormap: {diverging}.")
    return request.colormap


def _render_spec(request: Request) -> RenderSpec:
    return RenderSpec(
        signed=request.signed,
        outputs=frozenset(request.outputs),
        size=request.size,
        colormap=_colormap(request),
        alpha=request.alpha,
        threshold=request.threshold,
        image_format=request.image_format,
        max_side=request.max_side,
    )
