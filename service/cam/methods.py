"""The table of class activation methods: one row each, naming its function. Needs no torch to import."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from service.cam.context import LayerContext
    from service.cam.network import Network

__all__ = ["FORWARD_KINDS", "METHODS", "ForwardKind", "Method", "Work"]

ForwardKind = Literal["plain", "twice", "attention"]
"""A forward pass that is the network's own; one that can be differentiated twice; one that records attention."""

FORWARD_KINDS: tuple[ForwardKind, ...] = get_args(ForwardKind)


@dataclass(frozen=True)
class Work:
    """What a method computes per picture, beside the forward pass that all methods of a request share.

    It is done per target where the method knows classes, unless ``together``, and per layer where it looks at one.
    ``service.cam.work`` adds it up, and a test holds it to the passes that are really made.

    Attributes:
        shared_backward: whether it reads the gradient that one backward pass per target gives to all layers.
        forward: whole forward passes.
        backward: backward passes. Many that go through a part of the network each, and together through all of it, are
            one.
        forward_per_channel: whole forward passes per channel of the layer.
        tail_per_channel: passes through what comes behind the layer, per channel; ``work`` counts more beside them.
        together: whether its forward and tail passes serve all targets, of which each is read off the same logits.
        kept: numbers that it keeps of each target, meanwhile, per number of the layer's output.
    """

    shared_backward: bool = False
    forward: int = 0
    backward: int = 0
    forward_per_channel: int = 0
    tail_per_channel: int = 0
    together: bool = False
    kept: int = 0


_GRADIENT = Work(shared_backward=True)


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        title: the name used in the literature.
        summary: one line: what it shows.
        paper: where it is defined.
        function: ``module:name`` of ``(LayerContext) -> maps (N, h, w)`` before the final ReLU; a name, so that the
            front process can list methods without torch.
        forwards: rough cost per image, in forward passes, at the last stage of a network; None where it grows with
            the number of channels.
        work: the passes that it makes, to be counted.
        derivatives: how often it differentiates the score: 0, 1 or 2 times.
        class_specific: whether different classes get different maps.
        signed: whether its values below zero mean evidence against the class.
        uses_layer: whether the target layer matters; otherwise the map is of the whole network.
        on_input: whether its map has a cell for every pixel of the model's input.
        slow: whether it runs the model many times; such requests have a lane of their own.
        score: ``finer`` compares the class with those nearest to it instead of taking its logit alone.
        reads_attention: whether it looks at the attention among tokens, which has to be recorded in a pass of its own.
        refusal: ``module:name`` of ``(network, images) -> reason or None``, for methods that not every network allows;
            tried on some images.
    """

    title: str
    summary: str
    paper: str
    function: str
    forwards: float | None = 1.0
    work: Work = _GRADIENT
    derivatives: Literal[0, 1, 2] = 1
    class_specific: bool = True
    signed: bool = True
    uses_layer: bool = True
    on_input: bool = False
    slow: bool = False
    score: Literal["logit", "finer"] = "logit"
    reads_attention: bool = False
    refusal: str | None = None

    @property
    def needs_gradients(self) -> bool:
        """Whether it differentiates the score."""
        return self.derivatives > 0

    @property
    def forward_pass(self) -> ForwardKind:
        """Which forward pass it looks at, of those that are made for a batch."""
        if self.reads_attention:
            return "attention"
        return "twice" if self.derivatives > 1 else "plain"

    @property
    def compute(self) -> Callable[[LayerContext], Tensor]:
        """The function itself; imports torch."""
        return cast("Callable[[LayerContext], Tensor]", pkgutil.resolve_name(self.function))

    def refuses(self, network: Network, images: Tensor) -> str | None:
        """Say why this method does not apply to ``network``, tried on ``images``; None where it does."""
        return pkgutil.resolve_name(self.refusal)(network, images) if self.refusal else None


METHODS: dict[str, Method] = {
    "gradcam": Method(
        title="Grad-CAM",
        summary="Where the channels that speak for the class are active.",
        paper="https://arxiv.org/abs/1610.02391",
        function="service.cam.gradient:gradcam",
    ),
    "gradcam++": Method(
        title="Grad-CAM++",
        summary="Grad-CAM that favours positions of positive gradient; covers several objects of a class better.",
        paper="https://arxiv.org/abs/1710.11063",
        function="service.cam.gradient:gradcam_plus_plus",
    ),
    "xgradcam": Method(
        title="XGrad-CAM",
        summary="Grad-CAM with weights that make the map sum up to the score as well as possible.",
        paper="https://arxiv.org/abs/2008.02312",
        function="service.cam.gradient:xgradcam",
    ),
    "hirescam": Method(
        title="HiResCAM",
        summary="Gradient times activation, position by position; exact for a linear head.",
        paper="https://arxiv.org/abs/2011.08891",
        function="service.cam.gradient:hirescam",
    ),
    "gradcam_elementwise": Method(
        title="Grad-CAM, element-wise",
        summary="Positive part of gradient times activation; nothing cancels.",
        paper="https://arxiv.org/abs/2011.08891",
        function="service.cam.gradient:gradcam_elementwise",
        signed=False,
    ),
    "layercam": Method(
        title="LayerCAM",
        summary="Activations weighted by positive gradients; usable at shallow layers.",
        paper="https://doi.org/10.1109/TIP.2021.3089943",
        function="service.cam.gradient:layercam",
    ),
    "eigencam": Method(
        title="Eigen-CAM",
        summary="First principal component of the activations; the same for every class.",
        paper="https://arxiv.org/abs/2008.00299",
        function="service.cam.activation:eigencam",
        work=Work(),
        derivatives=0,
        class_specific=False,
    ),
    "eigengradcam": Method(
        title="Eigen-Grad-CAM",
        summary="First principal component of gradient times activation.",
        paper="https://arxiv.org/abs/2008.00299",
        function="service.cam.activation:eigengradcam",
    ),
    "shapleycam": Method(
        title="ShapleyCAM",
        summary="Grad-CAM with second-order Shapley values as weights.",
        paper="https://arxiv.org/abs/2501.06261",
        function="service.cam.gradient:shapleycam",
        work=Work(shared_backward=True, backward=2),
        forwards=1.1,
        derivatives=2,
    ),
    "finercam": Method(
        title="Finer-CAM",
        summary="What tells the class from the three that the model takes for most alike.",
        paper="https://arxiv.org/abs/2501.11309",
        function="service.cam.gradient:gradcam",
        score="finer",
    ),
    "smoothgradcam++": Method(
        title="Smooth Grad-CAM++",
        summary="Grad-CAM++ over eight noisy copies of the picture.",
        paper="https://arxiv.org/abs/1908.01224",
        function="service.cam.perturbation:smoothgradcam_plus_plus",
        work=Work(forward=8, backward=8, together=True, kept=6),
        forwards=9.0,
        slow=True,
    ),
    "scorecam": Method(
        title="Score-CAM",
        summary="Weights from the score of the picture masked by each channel; no gradients.",
        paper="https://arxiv.org/abs/1910.01279",
        function="service.cam.perturbation:scorecam",
        work=Work(forward=1, forward_per_channel=1, together=True),
        forwards=None,
        derivatives=0,
        slow=True,
    ),
    "ablationcam": Method(
        title="Ablation-CAM",
        summary="Weights from what the score loses without each channel; no gradients.",
        paper="https://doi.org/10.1109/WACV45572.2020.9093360",
        function="service.cam.perturbation:ablationcam",
        work=Work(forward=1, tail_per_channel=1, together=True),
        forwards=None,
        derivatives=0,
        slow=True,
    ),
    "fullgrad": Method(
        title="FullGrad",
        summary="Input and all biases times their gradients, over the whole network; as fine as the input.",
        paper="https://arxiv.org/abs/1905.00780",
        function="service.cam.fullgrad:fullgrad",
        work=Work(forward=1, backward=1),
        forwards=3.5,
        signed=False,
        uses_layer=False,
        on_input=True,
        refusal="service.cam.fullgrad:refuse_unknown_biases",
    ),
    "activation": Method(
        title="Mean activation",
        summary="Raw filter responses; no class.",
        paper="https://arxiv.org/abs/1512.04150",
        function="service.cam.activation:mean_activation",
        work=Work(),
        derivatives=0,
        class_specific=False,
    ),
    "attention_rollout": Method(
        title="Attention rollout",
        summary="Which patches the tokens that are read for the answer attend to, through all layers; no class.",
        paper="https://arxiv.org/abs/2005.00928",
        function="service.cam.attention:attention_rollout",
        work=Work(),
        forwards=1.2,
        derivatives=0,
        class_specific=False,
        signed=False,
        uses_layer=False,
        reads_attention=True,
        refusal="service.cam.attention:refuse_without_attention",
    ),
    "legrad": Method(
        title="LeGrad",
        summary="Gradient of the score with respect to the attention, over all layers.",
        paper="https://arxiv.org/abs/2404.03214",
        function="service.cam.attention:legrad",
        work=Work(backward=1),
        forwards=1.9,
        signed=False,
        uses_layer=False,
        reads_attention=True,
        refusal="service.cam.attention:refuse_without_blocks",
    ),
}
