"""Every method against numbers worked out by hand, and what is done with raw maps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from service.cam.activation import _first_component
from service.cam.catalogue import probe_layers
from service.cam.eager import EagerNetwork
from service.cam.explain import explain, predict
from service.cam.fusion import fuse
from service.cam.methods import METHODS
from service.cam.perturbation import noise_like
from service.cam.targets import PLAIN, CamOptions, Targets, Top
from tests.cam.models import frozen, layers_of, nested, pictures, prepared, reference_gradcam

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.cam.layers import Layer

SIGNED = CamOptions(signed=True)

# Two channels, and their gradients in the class 0 of ``linear``:
#   A₁ = 1 2   A₂ = 2  0   g₁ =  1 0   g₂ = 4 -2     g₁A₁ =  1 0   g₂A₂ = 8  0
#        3 4        1 -1        -1 2        1  1            -3 8          1 -1
#   sums 10         2            2           4               6            8        → logit 6 + 8 + 1 = 15
A = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[2.0, 0.0], [1.0, -1.0]]])
G = torch.tensor([[[1.0, 0.0], [-1.0, 2.0]], [[4.0, -2.0], [1.0, 1.0]]])


class Head(nn.Module):
    """A layer that gives out the picture itself, and any function of it as logits."""

    def __init__(self, head: Callable[[Tensor], Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer or nn.Identity()
        self.head = head
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))


def linear(weights: Tensor, bias: float = 0.0) -> Callable[[Tensor], Tensor]:
    """Two classes: the picture times ``weights`` (C, h, w) plus ``bias``, and its negative."""

    def head(x: Tensor) -> Tensor:
        score = (x * weights).sum((1, 2, 3)) + bias
        return torch.stack([score, -score], dim=1)

    return head


def only_layer(model: nn.Module, picture: Tensor, name: str = "layer") -> Layer:
    found = probe_layers(EagerNetwork(model), torch.rand(2, *picture.shape))
    return next(layer for layer in found if layer.name == name)


def signed_map(model: nn.Module, picture: Tensor, method: str, target: int = 0, layer: str = "layer") -> Tensor:
    """The raw map (h, w) of one picture (C, H, W)."""
    rows = [only_layer(model, picture, layer)]
    (answer,) = explain(EagerNetwork(model), picture[None], [Targets((target,))], rows, [method], SIGNED)
    return nested(answer)[0][0][0]


@dataclass(frozen=True)
class Case:
    """A network and a picture, and the map that must come out for a class."""

    head: nn.Module
    picture: Tensor
    expected: list[list[float]]
    target: int = 0


CASES: dict[str, list[Callable[[], Case]]] = {}


def by_hand(method: str) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    """Enter a case for ``method``; its comment is the calculation."""

    def enter(case: Callable[[], Case]) -> Callable[[], Case]:
        CASES.setdefault(method, []).append(case)
        return case

    return enter


@by_hand("gradcam")
def gradcam() -> Case:
    # Mean gradients 0.5 and 1: A₁/2 + A₂.
    return Case(Head(linear(G, 1)), A, [[2.5, 1.0], [2.5, 1.0]])


@by_hand("gradcam")
def gradcam_of_the_opposite_class() -> Case:
    return Case(Head(linear(G, 1)), A, [[-2.5, -1.0], [-2.5, -1.0]], target=1)


@by_hand("gradcam++")
@by_hand("smoothgradcam++")  # a linear head has the same gradient for noisy pictures
def gradcam_plus_plus() -> Case:
    # α = 1 / (2 + ΣA g). Channel 1, ΣA = 10: 1/12 where g = 1, 1/22 where g = 2; w₁ = 1/12 + 2/22 = 23/132.
    # Channel 2, ΣA = 2: 1/10 where g = 4, 1/4 where g = 1; w₂ = 4/10 + 1/4 + 1/4 = 9/10. Negative g add nothing.
    # Were ΣA not taken over the channel but A g at each place, w₁ would be 1/3 + 2/10.
    w1, w2 = 23 / 132, 9 / 10
    return Case(Head(linear(G, 1)), A, [[w1 + 2 * w2, 2 * w1], [3 * w1 + w2, 4 * w1 - w2]])


@by_hand("xgradcam")
def xgradcam() -> Case:
    # w₁ = 6 / 10, w₂ = 8 / 2 = 4.
    return Case(Head(linear(G, 1)), A, [[0.6 + 8, 1.2], [1.8 + 4, 2.4 - 4]])


@by_hand("xgradcam")
def xgradcam_of_a_channel_that_sums_to_zero() -> Case:
    # ΣA₂ = 0: its weight is 0 / 0 in the paper, 0 here; 0.6 A₁ is left.
    picture = torch.stack([A[0], torch.tensor([[1.0, -1.0], [2.0, -2.0]])])
    return Case(Head(linear(G)), picture, [[0.6, 1.2], [1.8, 2.4]])


@by_hand("hirescam")
def hirescam() -> Case:
    # g₁A₁ + g₂A₂; the sum, 14, is the logit without its bias.
    return Case(Head(linear(G, 1)), A, [[9.0, 0.0], [-2.0, 7.0]])


@by_hand("gradcam_elementwise")
def gradcam_elementwise() -> Case:
    # relu(g₁A₁) + relu(g₂A₂): the -3 and the -1 count for nothing.
    return Case(Head(linear(G, 1)), A, [[9.0, 0.0], [1.0, 8.0]])


@by_hand("layercam")
def layercam() -> Case:
    # relu(g) A: the -3 falls away, for g is negative there; the -1 stays, for A is.
    return Case(Head(linear(G, 1)), A, [[9.0, 0.0], [1.0, 7.0]])


@by_hand("activation")
def mean_activation() -> Case:
    return Case(Head(linear(G, 1)), A, [[1.5, 1.0], [2.0, 1.5]])


# Rows of the (h·w, C) matrix: (1, 1), (1, 0), (0, 1), (0, 0), so that MᵀM = 2 1 with the first eigenvector
# (1, 1) / √2 and the projection (2, 1, 1, 0) / √2.                         1 2
EIGEN = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])


@by_hand("eigencam")
def eigencam() -> Case:
    # Centred, as PCA would be, the rows would be (½, ½), (½, -½), (-½, ½), (-½, -½), which have no first component.
    return Case(Head(linear(G)), EIGEN, [[math.sqrt(2), math.sqrt(0.5)], [math.sqrt(0.5), 0.0]])


@by_hand("eigencam")
def eigencam_of_negative_activations() -> Case:
    return Case(Head(linear(G)), -EIGEN, [[-math.sqrt(2), -math.sqrt(0.5)], [-math.sqrt(0.5), 0.0]])


@by_hand("eigencam")
def eigencam_of_more_channels_than_places() -> Case:
    # M = (2, 0, 0), (1, 0, 0) has rank one: the projection is (2, 1).
    picture = torch.tensor([[[2.0, 1.0]], [[0.0, 0.0]], [[0.0, 0.0]]])
    return Case(Head(linear(torch.ones(3, 1, 2))), picture, [[2.0, 1.0]])


@by_hand("eigengradcam")
def eigengradcam() -> Case:
    # g = -1 and 2 by channel, A = -EIGEN₁ and EIGEN₂ / 2, so that g A = EIGEN.
    weights = torch.tensor([-1.0, 2.0])[:, None, None].expand(2, 2, 2)
    picture = torch.stack([-EIGEN[0], EIGEN[1] / 2])
    return Case(Head(linear(weights)), picture, [[math.sqrt(2), math.sqrt(0.5)], [math.sqrt(0.5), 0.0]])


@by_hand("eigengradcam")
def eigengradcam_of_the_opposite_class() -> Case:
    # g A = -EIGEN: negative, as HiResCAM is.
    weights = torch.ones(2, 2, 2)
    expected = [[-math.sqrt(2), -math.sqrt(0.5)], [-math.sqrt(0.5), 0.0]]
    return Case(Head(linear(weights)), EIGEN, expected, target=1)


@by_hand("shapleycam")
def shapleycam() -> Case:
    # With the channels' sums S₁ = 10 and S₂ = 2, let the logit be S₁²/2 + S₁S₂ + 3 S₂.
    # g₁ = S₁ + S₂ = 12, g₂ = S₁ + 3 = 13 everywhere. H is 1 between places of channel 1 and between those of channels 1
    # and 2, and 0 within channel 2: (H A)₁ = S₁ + S₂ = 12, (H A)₂ = S₁ = 10.
    # w₁ = 12 - 6 = 6, w₂ = 13 - 5 = 8: 6 A₁ + 8 A₂. Grad-CAM would be 12 A₁ + 13 A₂.
    def head(x: Tensor) -> Tensor:
        s1, s2 = x.sum((2, 3)).unbind(1)
        return torch.stack([s1**2 / 2 + s1 * s2 + 3 * s2, s1], dim=1)

    return Case(Head(head), A, [[22.0, 12.0], [26.0, 16.0]])


@by_hand("shapleycam")
def shapleycam_without_curvature_is_gradcam() -> Case:
    return Case(Head(linear(G, 1)), A, [[2.5, 1.0], [2.5, 1.0]])


@by_hand("finercam")
def finercam() -> Case:
    # Six classes. Class 0 is as in ``linear``; the others have a gradient of their own, the same at every place:
    #   class  (g₁, g₂)  10 g₁ + 2 g₂ + bias  distance from 15
    #   1      (1, 0)    10 +  4 = 14         1    second
    #   2      (0, 2)     4 + 13 = 17         2    third
    #   3      (0, 100) 200 -190 = 10         5
    #   4      (0, 0)      - 50               65
    #   5      (2, 0)    20 - 4.5 = 15.5      0.5  first
    # The score is z₀ - 0.6 (z₁ + z₂ + z₅) / 3, so w₁ = 0.5 - 0.2 (1 + 2) = -0.1 and w₂ = 1 - 0.2 · 2 = 0.6.
    slopes = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 100.0], [0.0, 0.0], [2.0, 0.0]])
    biases = torch.tensor([4.0, 13.0, -190.0, -50.0, -4.5])

    def head(x: Tensor) -> Tensor:
        return torch.cat([linear(G, 1)(x)[:, :1], x.sum((2, 3)) @ slopes.T + biases], dim=1)

    return Case(Head(head), A, [[-0.1 + 1.2, -0.2], [-0.3 + 0.6, -0.4 - 0.6]])


@by_hand("finercam")
def finercam_of_two_classes() -> Case:
    # There is but one other class, -z: the score is 1.6 z.
    return Case(Head(linear(G, 1)), A, [[4.0, 1.6], [4.0, 1.6]])


@by_hand("scorecam")
def scorecam() -> Case:
    # The masks are A₁ = 0 2 → 0 ½ and A₂ = 1 1 → 0 0. The picture under mask 1 has channels that sum to 1 + 4 + 4 = 9
    #                     4 4   1 1          1 3   0 1
    # and ½ + 1 + 3 = 4.5, under mask 2 4 and 3. With the logit (S₁ + 2 S₂) / 10 the scores are 1.8 and 1, the weights
    # σ(0.8) and 1 - σ(0.8).
    picture = torch.tensor([[[0.0, 2.0], [4.0, 4.0]], [[1.0, 1.0], [1.0, 3.0]]])
    weights = torch.tensor([0.1, 0.2])[:, None, None].expand(2, 2, 2)
    w = 1 / (1 + math.exp(-0.8))
    return Case(Head(linear(weights)), picture, [[1 - w, 1 + w], [1 + 3 * w, 3 + w]])


@by_hand("scorecam")
def scorecam_with_a_layer_coarser_than_the_picture() -> Case:
    # 2×2 means of a 4×4 picture whose columns are 0, 0, 2, 2 in channel 1 and 1 throughout channel 2. Channel 1 is
    # 0 2 in both rows, its mask 0 1, across the picture 0 ¼ ¾ 1 (pixels are areas: corners are not aligned). Under it
    # channel 1 has columns 0, 0, 1.5, 2 and means 0 and 1.75, channel 2 means ⅛ and ⅞. Channel 2 is constant: its mask
    # is 0 and lets nothing through. With the sum of channel 1 alone as the logit: scores 3.5 and 0.
    picture = torch.stack([torch.tensor([0.0, 0.0, 2.0, 2.0]).expand(4, 4), torch.ones(4, 4)])
    w = 1 / (1 + math.exp(-3.5))
    weights = torch.tensor([1.0, 0.0])[:, None, None].expand(2, 2, 2)
    return Case(Head(linear(weights), nn.AvgPool2d(2)), picture, [[1 - w, 1 + w]] * 2)


@by_hand("ablationcam")
def ablationcam() -> Case:
    # Without channel 1 the logit, 15, falls by 6, without channel 2 by 8: 6/15 A₁ + 8/15 A₂.
    w1, w2 = 6 / 15, 8 / 15
    return Case(Head(linear(G, 1)), A, [[w1 + 2 * w2, 2 * w1], [3 * w1 + w2, 4 * w1 - w2]])


@by_hand("ablationcam")
def ablationcam_of_a_negative_logit() -> Case:
    # The logit is -15, and each channel pulls it down: both weights are negative.
    w1, w2 = -6 / 15, -8 / 15
    return Case(Head(linear(G, 1)), A, [[w1 + 2 * w2, 2 * w1], [3 * w1 + w2, 4 * w1 - w2]], target=1)


@by_hand("fullgrad")
def fullgrad() -> Case:
    # x = 1 2, a 1×1 convolution with weights (2, 1) and biases (1, -3), then BatchNorm, then the logit with gradients
    #     3 5  v₁ = 1 -1, v₂ = 1 2. BatchNorm 1 multiplies by 4 / √(3 + 1) = 2 and adds 3 - 1·4/2 = 1;
    #               2  0       1 2  BatchNorm 2 multiplies by 2 / √(3 + 1) = 1 and adds 1 - ½·2/2 = ½.
    # BatchNorm's evidence is |v₁| and |v₂|/2, from 0 to 2 over both channels, scaled: ½ ½ + ¼ ½ = 0.75 1
    #                                                                                  1 0   ¼ ½   1.25 0.5
    # The convolution's is |1 · 2 v₁| and |-3 · 1 v₂|, from 0 to 6, scaled: 2 2 + 3 6, all / 6 = 5/6 8/6
    #                                                                       4 0   3 6            7/6 6/6
    # The input's gradient is 2·2 v₁ + 1·1 v₂ = 5 -2, times x 5 -4; magnitudes from 4 to 27, scaled: 1/23 0
    #                                           9  2         27 10                                   1    6/23
    conv, norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=1.0)
    conv.load_state_dict({"weight": torch.tensor([2.0, 1.0])[:, None, None, None], "bias": torch.tensor([1.0, -3.0])})
    norm.load_state_dict(
        {
            "weight": torch.tensor([4.0, 2.0]),
            "bias": torch.tensor([3.0, 1.0]),
            "running_mean": torch.tensor([1.0, 0.5]),
            "running_var": torch.tensor([3.0, 3.0]),
        },
        strict=False,
    )
    weights = torch.tensor([[[1.0, -1.0], [2.0, 0.0]], [[1.0, 2.0], [1.0, 2.0]]])
    model = Head(linear(weights), nn.Sequential(conv, norm))
    expected = [[0.75 + 5 / 6 + 1 / 23, 1 + 8 / 6], [1.25 + 7 / 6 + 1, 0.5 + 1 + 6 / 23]]
    return Case(model, torch.tensor([[[1.0, 2.0], [3.0, 5.0]]]), expected)


class ByHandTransformer(nn.Module):
    """Tokens of two components: a class token of zeros and the picture's places. Two blocks of attention.

    With one head, a query looks at the first component k of every token, with weights proportional to
    2^(k · sharpness); values are tokens as they are, and none for a block that is told not to mix. With two heads, the
    first looks at k and mixes that component alone, the second looks evenly and mixes the other.
    """

    class _Block(nn.Module):
        def __init__(self, sharpness: float, heads: int, *, mixes: bool) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(2, heads, batch_first=True)
            one, zero = torch.eye(2), torch.zeros(2, 2)
            bias = torch.zeros(6)
            bias[0] = sharpness * math.log(2) * math.sqrt(2 / heads)  # the query; scores are divided by √(2 / heads)
            self.attention.load_state_dict(
                {
                    "in_proj_weight": torch.cat([zero, one, one if mixes else zero]),
                    "in_proj_bias": bias,
                    "out_proj.weight": one,
                    "out_proj.bias": torch.zeros(2),
                }
            )

        def forward(self, x: Tensor) -> Tensor:
            mixed: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return x + mixed

    class _Encoder(nn.Module):
        def __init__(self, *blocks: nn.Module) -> None:
            super().__init__()
            self.layers, self.ln = nn.Sequential(*blocks), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.ln(self.layers(x))
            return found

    def __init__(self, *, mixes: bool, heads: int = 1) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.encoder = self._Encoder(self._Block(1, heads, mixes=mixes), self._Block(0, heads, mixes=mixes))
        self.heads = nn.Linear(2, 2, bias=False)
        self.heads.weight = nn.Parameter(torch.tensor([[1.0, 1.0], [0.0, -1.0]]))
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x).flatten(2).transpose(1, 2)  # (N, h*w, 2)
        x = torch.cat([torch.zeros_like(x[:, :1]), x], dim=1)
        logits: Tensor = self.heads(self.encoder(x)[:, 0])
        return logits


# Patches (1, 3) and (2, -5): block 1 attends to class token and patches as 1 : 2 : 4, block 2 evenly.
PATCHES = torch.tensor([[[1.0, 2.0]], [[3.0, -5.0]]])


@by_hand("attention_rollout")
def attention_rollout() -> Case:
    # No mixing, so the tokens stay. Every query's attention is a = (1, 2, 4)/7 in block 1 and u = (1, 1, 1)/3 in block
    # 2; as matrices U A = A. (U + I)/2 · (A + I)/2 = (A + U + A + I)/4, the class token's row at the patches
    # a/2 + u/4 = (1/7 + 1/12, 2/7 + 1/12). In the wrong order it would be a/4 + u/2.
    return Case(ByHandTransformer(mixes=False), PATCHES, [[1 / 7 + 1 / 12, 2 / 7 + 1 / 12]])


@by_hand("legrad")
def legrad() -> Case:
    # The class token after block 1 is c = Σ aⱼ xⱼ = (1·0 + 2 (1, 3) + 4 (2, -5)) / 7 = (10/7, -2). Its score for class
    # 0, weights w = (1, 1), grows by w·xⱼ with the attention to patch j: 4 and -3. Block 2 sees tokens xⱼ + c; its
    # score grows by 4 + w·c = 4 - 4/7 = 24/7 and by less than 0. Rectified, averaged over three queries, of which only
    # the class token's is read, and over two blocks: (4 + 24/7) / 6 = 26/21.
    return Case(ByHandTransformer(mixes=True), PATCHES, [[26 / 21, 0.0]])


@by_hand("legrad")
def legrad_of_the_other_class() -> Case:
    # w = (0, -1): -3 and 5 in block 1; w·c = 2, so -1 and 7 in block 2: (5 + 7) / 6.
    return Case(ByHandTransformer(mixes=True), PATCHES, [[0.0, 2.0]], target=1)


@by_hand("legrad")
def legrad_of_two_heads() -> Case:
    # Head 1 attends as 1 : 2 : 4 to the first components, head 2 evenly to the second: c = (10/7, (0 + 3 - 5) / 3).
    # Growth in block 1 is 1, 2 in head 1 and 3, -5 in head 2; in block 2, where c is added, 17/7, 24/7 and 7/3, < 0.
    # Each is rectified before the mean over heads, so that the -5 does not cancel the 2:
    # patch 1 (1 + 3 + 17/7 + 7/3) / 12, patch 2 (2 + 24/7) / 12, of two heads, two blocks and three queries.
    expected = [[(4 + 17 / 7 + 7 / 3) / 12, (2 + 24 / 7) / 12]]
    return Case(ByHandTransformer(mixes=True, heads=2), PATCHES, expected)


def test_every_method_is_worked_out_by_hand() -> None:
    assert set(CASES) == set(METHODS)


@pytest.mark.parametrize(
    ("method", "case"), [pytest.param(m, case, id=f"{m}-{case.__name__}") for m in CASES for case in CASES[m]]
)
def test_by_hand(method: str, case: Callable[[], Case]) -> None:
    it = case()
    found = signed_map(it.head, it.picture, method, it.target)
    torch.testing.assert_close(found, torch.tensor(it.expected), rtol=1e-5, atol=1e-5)


# Eigen-CAM


@pytest.mark.parametrize("size", [(3, 4, 5), (20, 4, 5), (21, 4, 5), (64, 2, 3), (1, 4, 5), (5, 1, 2)])
def test_first_component_is_that_of_a_full_svd(size: tuple[int, int, int]) -> None:
    features = torch.randn(6, *size, generator=torch.Generator().manual_seed(2))
    found = _first_component(features)
    matrix = features.flatten(2).mT.double()  # (N, h*w, C), not centred, as the paper has it
    _, _, vh = torch.linalg.svd(matrix)
    expected = (matrix @ vh[:, :1].mT).view(6, *size[1:])
    agreement = (expected * features.mean(1)).sum((1, 2), keepdim=True)
    assert agreement.ne(0).all()
    torch.testing.assert_close(found, (expected * agreement.sign()).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [3, 40])
def test_the_sign_of_a_component_is_not_left_to_chance(channels: int) -> None:
    features = torch.randn(2, channels, 4, 5, generator=torch.Generator().manual_seed(3))
    found = _first_component(features)
    assert ((found * features.mean(1)).sum((1, 2)) > 0).all()
    torch.testing.assert_close(_first_component(-features), -found)
    # The order of the channels decides what eigh returns, and must not decide the sign.
    shuffled = features[:, torch.randperm(channels, generator=torch.Generator().manual_seed(4))]
    torch.testing.assert_close(_first_component(shuffled), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [4, 40])
def test_where_channels_cancel_the_sign_is_that_of_the_greatest_magnitude(channels: int) -> None:
    """What g A does at a layer that only a LayerNorm reads: its sum over channels is rounding errors."""
    half = torch.randn(2, channels // 2, 4, 5, generator=torch.Generator().manual_seed(5))
    features = torch.cat([half, -half], dim=1)
    found = _first_component(features)
    assert (found.amax((1, 2)) == found.abs().amax((1, 2))).all()
    noise = 1e-6 * torch.randn(features.shape, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(_first_component(features + noise), found, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(_first_component(features - noise), found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("channels", [3, 40])
def test_a_row_that_is_not_finite_spoils_no_other(channels: int) -> None:
    features = torch.randn(3, channels, 4, 5, generator=torch.Generator().manual_seed(7))
    expected = _first_component(features)
    features[1, 2, 3, 4] = torch.inf
    found = _first_component(features)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("channels", [3, 40])
def test_the_component_of_nothing_is_nothing(channels: int) -> None:
    nothing = torch.zeros(2, channels, 4, 5)
    assert not _first_component(nothing).any()


# FullGrad


def test_fullgrad_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are scaled, its terms sum up to the logit (proposition 1 of the paper)."""

    def summed(evidence: Tensor, size: torch.Size) -> Tensor:
        return evidence.sum((1, 2, 3))[:, None, None].expand(-1, *size[2:])

    monkeypatch.setattr("service.cam.fullgrad._scaled", summed)
    model, layers = prepared("plain")
    inputs = pictures()
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    for answer in explain(EagerNetwork(model), inputs, [Targets((0, 3))] * 4, layers[:1], ["fullgrad"], SIGNED):
        expected = answer.logits[[0, 3]] - head.bias[[0, 3]]  # the head has no places, its bias no part in the map
        torch.testing.assert_close(nested(answer)[0][0][:, 0, 0], expected, rtol=1e-4, atol=1e-5)


# Fusion


def grid(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # Divided by their greatest magnitudes, 4 and 2, the maps are (½, -1, ¼, 0) and (1, ½, -½, ½).
        ("max", [1.0, -1.0, -0.5, 0.5]),
        ("mean", [0.75, -0.25, -0.125, 0.25]),
        ("product", [math.sqrt(0.5), 0.0, 0.0, 0.0]),
    ],
)
def test_fusion_by_hand(how: str, expected: list[float]) -> None:
    maps = [grid(2, -4, 1, 0), grid(2, 1, -1, 1)]
    torch.testing.assert_close(fuse(maps, how), grid(*expected))  # type: ignore[arg-type]


def test_a_product_of_negatives_is_negative() -> None:
    # Evidence against the class in all layers is evidence against it, for even and odd numbers of layers.
    assert fuse([grid(-1, 1), grid(-4, 4)], "product").tolist() == [[[[-1.0, 1.0]]]]
    found = fuse([grid(-1, 8), grid(-1, 1), grid(-8, 8)], "product")
    torch.testing.assert_close(found, grid(-((1 / 8 * 1 * 1) ** (1 / 3)), 1.0))


def test_refinecams_example() -> None:
    # torchcam's: (0, 1, 2, 3) / 3 and (3, 2, 1, 0) / 3; the product of the two, of which we take the root.
    found = fuse([grid(0, 1, 2, 3), grid(3, 2, 1, 0)], "product")
    torch.testing.assert_close(found, grid(0, math.sqrt(2) / 3, math.sqrt(2) / 3, 0))


@pytest.mark.parametrize(("how", "expected"), [("max", [0.5, -1.0]), ("mean", [0.25, -0.5]), ("product", [0.0, 0.0])])
def test_a_map_of_zeros_stays_zero_when_fused(how: str, expected: list[float]) -> None:
    assert fuse([grid(0, 0), grid(1, -2)], how).flatten().tolist() == expected  # type: ignore[arg-type]
    assert not fuse([grid(0, 0), grid(0, 0)], how).any()  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["max", "mean", "product"])
def test_every_row_and_target_is_fused_by_itself(how: str) -> None:
    generator = torch.Generator().manual_seed(5)
    maps = [torch.randn(3, 2, 4, 4, generator=generator), torch.randn(3, 2, 4, 4, generator=generator)]
    together = fuse(maps, how)  # type: ignore[arg-type]
    for n in range(3):
        for t in range(2):
            alone = fuse([each[n : n + 1, t : t + 1] for each in maps], how)  # type: ignore[arg-type]
            assert torch.equal(together[n, t], alone[0, 0])


def test_fusion_brings_maps_to_the_finest_grid() -> None:
    # 0 1 across four places: 0 ¼ ¾ 1; the finer map is 1 there once scaled.
    found = fuse([grid(0, 3), grid(1, 1, 1, 1)], "mean")
    torch.testing.assert_close(found, grid(0.5, 0.625, 0.875, 1))


@pytest.mark.parametrize("signed", [True, False])
def test_fused_layers_are_their_raw_maps_fused(signed: bool) -> None:
    model, layers = prepared("plain")
    inputs = pictures()
    targets = [Targets((0, 3))] * 4
    methods, options = ["gradcam", "hirescam"], CamOptions(signed=signed)
    apart = explain(EagerNetwork(model), inputs, targets, layers, methods, options)
    fused = explain(EagerNetwork(model), inputs, targets, layers, methods, replace(options, fuse="max"))
    for one, other in zip(fused, apart, strict=True):
        assert {raw.layer for raw in one.maps} == {"+".join(layer.name for layer in layers)}
        for j in range(2):
            expected = fuse([by_method[j][None] for by_method in nested(other)], "max")[0]
            torch.testing.assert_close(nested(one)[0][j], expected)


# Variants


@pytest.mark.parametrize("method", METHODS)
def test_unsigned_maps_are_the_positive_part_of_signed_ones(method: str) -> None:
    family = "vit" if METHODS[method].refusal else "plain"
    model, layers = prepared(family)
    inputs = pictures()
    targets = [Targets((0, 1, 2))] * 4
    unsigned = explain(EagerNetwork(model), inputs, targets, layers, [method])
    signed = explain(EagerNetwork(model), inputs, targets, layers, [method], SIGNED)
    negatives = 0
    for one, other in zip(unsigned, signed, strict=True):
        for (found,), (expected,) in zip(nested(one), nested(other), strict=True):
            assert torch.equal(found, expected.relu())
            negatives += int((expected < 0).sum())
    assert (negatives > 0) == METHODS[method].signed


class Pointwise(nn.Module):
    """Looks at every pixel by itself, so that the features of a mirror image are the mirror image of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(x).tanh().mean((2, 3)))
        return logits


FAST = [name for name, method in METHODS.items() if not method.refusal]


@pytest.mark.parametrize("method", [name for name in FAST if name != "smoothgradcam++"])  # its noise is not symmetric
def test_flipping_changes_nothing_for_a_symmetric_model(method: str) -> None:
    model, inputs = frozen(Pointwise()), pictures(2)[..., :8, :8]
    layers = [layer for layer in probe_layers(EagerNetwork(model), inputs) if layer.name == "layer"]
    plain = explain(EagerNetwork(model), inputs, [Targets((0, 1))] * 2, layers, [method], SIGNED)
    flipped = explain(
        EagerNetwork(model), inputs, [Targets((0, 1))] * 2, layers, [method], CamOptions(signed=True, flip=True)
    )
    for one, other in zip(flipped, plain, strict=True):
        torch.testing.assert_close(nested(one)[0][0], nested(other)[0][0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["gradcam", "eigencam", "scorecam", "fullgrad"])
def test_flipping_averages_with_the_mirror_image(method: str) -> None:
    model, layers = prepared("plain")
    inputs, targets = pictures(2), [Targets((0, 1))] * 2
    flipped = explain(EagerNetwork(model), inputs, targets, layers, [method], CamOptions(signed=True, flip=True))
    ones = explain(EagerNetwork(model), inputs, targets, layers, [method], SIGNED)
    others = explain(EagerNetwork(model), inputs.flip(3), targets, layers, [method], SIGNED)
    for found, one, other in zip(flipped, ones, others, strict=True):
        for i in range(len(layers)):
            expected = (nested(one)[i][0] + nested(other)[i][0].flip(2)) / 2
            torch.testing.assert_close(nested(found)[i][0], expected)
            assert not torch.allclose(expected, nested(one)[i][0])


def test_every_view_is_told_before_it_is_computed() -> None:
    model, layers = prepared("plain")
    told: list[tuple[int, int]] = []
    options = CamOptions(smooth=3, flip=True)
    explain(
        EagerNetwork(model),
        pictures(1),
        [Targets((0,))],
        layers[:1],
        ["gradcam"],
        options,
        lambda done, total: told.append((done, total)),
    )
    assert [each for each in told if each[1] > 1] == [(view, 6) for view in range(6)]


@pytest.mark.parametrize("method", ["gradcam", "layercam", "ablationcam", "activation"])
def test_smoothing_averages_over_noisy_pictures_and_is_repeatable(method: str) -> None:
    model, layers = prepared("residual")
    inputs, targets = pictures(2), [Targets((0, 1))] * 2
    smooth = explain(EagerNetwork(model), inputs, targets, layers, [method], CamOptions(signed=True, smooth=3))
    again = explain(EagerNetwork(model), inputs, targets, layers, [method], CamOptions(signed=True, smooth=3))
    views = [
        explain(EagerNetwork(model), inputs + noise_like(inputs, sample), targets, layers, [method], SIGNED)
        for sample in range(3)
    ]
    for n in range(2):
        for i in range(len(layers)):
            found = nested(smooth[n])[i][0]
            expected = torch.stack([nested(view[n])[i][0] for view in views]).mean(0)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            assert torch.equal(found, nested(again[n])[i][0])


def test_smoothing_and_flipping_average_over_the_four_views() -> None:
    """Two noisy copies and their mirror images, each explained by a textbook Grad-CAM."""
    model, layers = prepared("plain")
    inputs = pictures(2)
    spans = inputs.amax((1, 2, 3), keepdim=True) - inputs.amin((1, 2, 3), keepdim=True)
    noises = [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(sample)) for sample in (0, 1)]
    copies = [inputs + 0.15 * spans * noise for noise in noises]
    answers = explain(
        EagerNetwork(model), inputs, [Targets((0, 1))] * 2, layers, ["gradcam"], CamOptions(smooth=2, flip=True)
    )
    by_name = {layer.name: layer for layer in layers}
    for n, answer in enumerate(answers):
        for raw in answer.maps:
            layer = by_name[raw.layer]
            views = [reference_gradcam(model, copy[n], layer, raw.target, signed=True) for copy in copies]
            views += [
                reference_gradcam(model, copy[n].flip(2), layer, raw.target, signed=True).flip(1) for copy in copies
            ]
            torch.testing.assert_close(raw.values, torch.stack(views).mean(0).relu(), rtol=1e-4, atol=1e-5)


def test_noise_is_as_strong_as_the_picture_varies_and_the_same_for_all_rows() -> None:
    inputs = pictures(3) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1, 1)
    noise = noise_like(inputs, 0)
    spans = inputs.amax((1, 2, 3)) - inputs.amin((1, 2, 3))
    torch.testing.assert_close(noise.std((1, 2, 3)), 0.15 * spans, rtol=0.05, atol=0.0)
    assert torch.equal(noise_like(inputs[1:2], 0), noise[1:2])
    assert not torch.allclose(noise_like(inputs, 1), noise)


@pytest.mark.parametrize(
    "options", [CamOptions(smooth=4), CamOptions(flip=True), CamOptions(smooth=4, flip=True), CamOptions(smooth=1)]
)
def test_predicted_is_what_the_clean_picture_is_predicted_to_be(options: CamOptions) -> None:
    # Half of the mirror image is weighted otherwise, and the margin is small: views would be classified otherwise.
    weights = torch.linspace(-1, 1, 8).expand(3, 8, 8)
    model = Head(linear(weights))
    inputs = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(6))
    clean = predict(EagerNetwork(model), inputs)
    noisy = predict(EagerNetwork(model), inputs + noise_like(inputs, 0)).argmax(1)
    assert (noisy != clean.argmax(1)).any()
    assert (predict(EagerNetwork(model), inputs.flip(3)).argmax(1) != clean.argmax(1)).any()
    layer = only_layer(model, inputs[0])
    answers = explain(EagerNetwork(model), inputs, [Targets((Top(1),))] * 32, [layer], ["gradcam"], options)
    assert [[raw.target for raw in answer.maps] for answer in answers] == [
        [index] for index in clean.argmax(1).tolist()
    ]
    torch.testing.assert_close(torch.stack([answer.logits for answer in answers]), clean)


def test_finercam_compares_with_the_classes_that_are_near_for_the_clean_picture() -> None:
    model, layers = prepared("plain")
    inputs = pictures(2)
    targets = [Targets((0,))] * 2
    smooth = explain(EagerNetwork(model), inputs, targets, layers, ["finercam"], CamOptions(signed=True, smooth=2))
    clean = predict(EagerNetwork(model), inputs)
    for n, answer in enumerate(smooth):
        others = sorted(range(1, 5), key=lambda c: abs(float(clean[n, c] - clean[n, 0])))[:3]
        total = torch.zeros_like(nested(answer)[0][0])
        for sample in range(2):
            view = (inputs + noise_like(inputs, sample))[[n]]
            (each,) = explain(EagerNetwork(model), view, [Targets((0, *others))], layers[:1], ["gradcam"], SIGNED)
            maps = nested(each)[0][0]
            total += (maps[:1] - 0.2 * maps[1:].sum(0)) / 2  # Grad-CAM is linear in the score
        torch.testing.assert_close(nested(answer)[0][0], total, rtol=1e-4, atol=1e-6)


def test_against_takes_the_place_of_the_nearest_classes() -> None:
    model, layers = prepared("plain")
    targets = [Targets((0,), against=2)] * 2
    finer, plain = (
        explain(EagerNetwork(model), pictures(2), targets, layers, [method], SIGNED)
        for method in ("finercam", "gradcam")
    )
    for one, other in zip(finer, plain, strict=True):
        torch.testing.assert_close(nested(one)[0][0], nested(other)[0][0])


# A score that a layer has no part in


class HalfDeaf(nn.Module):
    """Class 0 depends on the layer, class 1 on the picture alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(x).sum((1, 2, 3)), x.sum((1, 2, 3))], dim=1)


@pytest.mark.parametrize("options", [PLAIN, CamOptions(smooth=2, flip=True)])
@pytest.mark.parametrize("method", [name for name in FAST if METHODS[name].uses_layer])
def test_a_score_that_does_not_depend_on_the_layer_is_reported(method: str, options: CamOptions) -> None:
    model, inputs = frozen(HalfDeaf()), pictures(2)[..., :8, :8]
    layers = layers_of(frozen(HalfDeaf()), "layer")
    answers = explain(EagerNetwork(model), inputs, [Targets((0, 1)), Targets((1,))], layers, [method], options)
    told = METHODS[method].needs_gradients
    told = told and METHODS[method].score != "finer"  # its difference depends on class 0, whichever the target is
    assert [[raw.zero_gradient for raw in answer.maps] for answer in answers] == [[False, told], [told]]
    for raw in (raw for answer in answers for raw in answer.maps):
        assert not (raw.zero_gradient and raw.values.any())


def test_a_map_that_is_only_negative_has_a_gradient() -> None:
    model = Head(linear(torch.ones(3, 4, 4)))
    picture = torch.rand(3, 4, 4) + 1
    (answer,) = explain(
        EagerNetwork(model), picture[None], [Targets((0, 1))], [only_layer(model, picture)], ["gradcam"]
    )
    assert not nested(answer)[0][0][1].any()
    assert [raw.zero_gradient for raw in answer.maps] == [False, False]


@pytest.mark.parametrize("deaf_first", [True, False])
def test_a_fused_maps_gradient_is_zero_only_if_it_is_in_every_layer(deaf_first: bool) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heard, self.unheard = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            heard, unheard = self.heard(x).sum((1, 2, 3)), self.unheard(x).sum((1, 2, 3))
            return torch.stack([heard, unheard, x.sum((1, 2, 3))], dim=1)

    model, inputs = frozen(Two()), pictures(1)[..., :8, :8]
    by_name = {layer.name: layer for layer in probe_layers(EagerNetwork(model), inputs.repeat(2, 1, 1, 1))}
    layers = [by_name["unheard"], by_name["heard"]]
    layers = layers if deaf_first else layers[::-1]
    (answer,) = explain(
        EagerNetwork(model), inputs, [Targets((0, 2))], layers, ["gradcam"], CamOptions(signed=True, fuse="max")
    )
    assert [raw.zero_gradient for raw in answer.maps] == [False, True]
    assert nested(answer)[0][0][0].any()
    assert not nested(answer)[0][0][1].any()


@pytest.mark.parametrize(
    ("picture", "expected", "zero_gradient"),
    [
        # The logit is relu(left - 1). Left 0: no gradient. In the mirror image left is 2 and has gradient 1: weight ½,
        # map 1 0, brought back 0 1; the mean of both views is 0 ½.
        ([0.0, 2.0], [0.0, 0.5], False),
        ([2.0, 0.0], [0.5, 0.0], False),  # the other way round
        ([0.0, 0.5], [0.0, 0.0], True),  # no gradient in either view
    ],
)
def test_a_gradient_is_zero_only_if_it_is_in_every_view(
    picture: list[float], expected: list[float], zero_gradient: bool
) -> None:
    def head(x: Tensor) -> Tensor:
        score = (x[:, 0, 0, 0] - 1).relu()
        return torch.stack([score, -score], dim=1)

    model, inputs = Head(head), torch.tensor(picture).view(1, 1, 1, 2)
    layers = [only_layer(model, inputs[0])]
    (answer,) = explain(EagerNetwork(model), inputs, [Targets((0,))], layers, ["gradcam"], CamOptions(flip=True))
    (raw,) = answer.maps
    assert raw.values.tolist() == [expected]
    assert raw.zero_gradient is zero_gradient


def test_a_map_that_a_view_speaks_against_has_a_gradient() -> None:
    """The first view has no gradient, the other one a negative one: the map is empty, but the gradient is not zero."""

    def head(x: Tensor) -> Tensor:
        score = -(x[:, 0, 0, 0] - 1).relu()
        return torch.stack([score, -score], dim=1)

    model, inputs = Head(head), torch.tensor([[[[0.0, 2.0]]]])
    layers = [only_layer(model, inputs[0])]
    (answer,) = explain(EagerNetwork(model), inputs, [Targets((0,))], layers, ["gradcam"], CamOptions(flip=True))
    (raw,) = answer.maps
    assert not raw.values.any()
    assert not raw.zero_gradient


# The sequence of maps


def test_maps_come_by_layer_then_method_then_target() -> None:
    model, layers = prepared("plain")
    targets = [Targets((3, Top(1))), Targets((2,))]
    first, second = explain(EagerNetwork(model), pictures(2), targets, layers[:2], ["gradcam", "activation"])
    winner = int(first.logits.argmax())
    order = [(layer.name, method) for layer in layers[:2] for method in ("gradcam", "activation")]
    assert [(raw.layer, raw.method, raw.target) for raw in first.maps] == [
        (*each, target) for each in order for target in (3, winner)
    ]
    assert [(raw.layer, raw.method, raw.target) for raw in second.maps] == [(*each, 2) for each in order]
