"""Every method against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from service.cam.activation import _first_component
from service.cam.eager import EagerNetwork
from service.cam.explain import explain
from service.cam.methods import METHODS
from service.cam.targets import CamOptions, Targets
from tests.cam.models import Head, images, linear, nested, only_layer, prepared

if TYPE_CHECKING:
    from collections.abc import Callable


SIGNED = CamOptions(signed=True)

# Two channels, and their gradients in the class 0 of ``linear``:
#   A₁ = 1 2   A₂ = 2  0   g₁ =  1 0   g₂ = 4 -2     g₁A₁ =  1 0   g₂A₂ = 8  0
#        3 4        1 -1        -1 2        1  1            -3 8          1 -1
#   sums 10         2            2           4               6            8        → logit 6 + 8 + 1 = 15
A = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[2.0, 0.0], [1.0, -1.0]]])
G = torch.tensor([[[1.0, 0.0], [-1.0, 2.0]], [[4.0, -2.0], [1.0, 1.0]]])


def signed_map(model: nn.Module, image: Tensor, method: str, target: int = 0, layer: str = "layer") -> Tensor:
    """The raw map (h, w) of one image (C, H, W)."""
    rows = [only_layer(model, image, layer)]
    (answer,) = explain(EagerNetwork(model), image[None], [Targets((target,))], rows, [method], SIGNED)
    return nested(answer)[0][0][0]


@dataclass(frozen=True)
class Case:
    """A network and an image, and the map that must come out for a class."""

    head: nn.Module
    image: Tensor
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
@by_hand("smoothgradcam++")  # a linear head has the same gradient for noisy images
def gradcam_plus_plus() -> Case:
    # α = 1 / (2 + ΣA g), ΣA over what is positive. Channel 1, ΣA = 10: 1/12 where g = 1, 1/22 where g = 2;
    # w₁ = 1/12 + 2/22 = 23/132. Channel 2, ΣA = 3: 1/14 where g = 4, 1/5 where g = 1; w₂ = 4/14 + 1/5 + 1/5 = 24/35.
    # Negative g add nothing. Were ΣA not taken over the channel but A g at each place, w₁ would be 1/3 + 2/10.
    w1, w2 = 23 / 132, 24 / 35
    return Case(Head(linear(G, 1)), A, [[w1 + 2 * w2, 2 * w1], [3 * w1 + w2, 4 * w1 - w2]])


@by_hand("gradcam++")
@by_hand("smoothgradcam++")
def gradcam_plus_plus_of_a_sum_of_minus_two() -> Case:
    # ΣA g = -2 where g = 1: the paper's denominator is zero. Of what is positive ΣA is 1: α = 1/3, w = 2/3.
    image = torch.tensor([[[1.0, -3.0]]])
    return Case(Head(linear(torch.ones(1, 1, 2))), image, [[2 / 3, -2.0]])


@by_hand("xgradcam")
def xgradcam() -> Case:
    # w₁ = 6 / 10. Channel 2 is 2 0 less 0 0, of weights (8 + 1) / 3 = 3 and 1. The map sums up to g₁A₁ + g₂A₂ = 14.
    #                        1 0      0 1
    return Case(Head(linear(G, 1)), A, [[0.6 + 6, 1.2], [1.8 + 3, 2.4 - 1]])


@by_hand("xgradcam")
def xgradcam_of_a_channel_that_sums_to_zero() -> Case:
    # ΣA₂ = 0: its weight is 6 / 0 in the paper. What is positive, 1 and 2, has (4 + 2) / 3 = 2, what is negative
    # (-2 + 2) / 3 = 0.
    image = torch.stack([A[0], torch.tensor([[1.0, -1.0], [2.0, -2.0]])])
    return Case(Head(linear(G)), image, [[0.6 + 2, 1.2], [1.8 + 4, 2.4]])


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
    image = torch.tensor([[[2.0, 1.0]], [[0.0, 0.0]], [[0.0, 0.0]]])
    return Case(Head(linear(torch.ones(3, 1, 2))), image, [[2.0, 1.0]])


@by_hand("eigengradcam")
def eigengradcam() -> Case:
    # g = -1 and 2 by channel, A = -EIGEN₁ and EIGEN₂ / 2, so that g A = EIGEN.
    weights = torch.tensor([-1.0, 2.0])[:, None, None].expand(2, 2, 2)
    image = torch.stack([-EIGEN[0], EIGEN[1] / 2])
    return Case(Head(linear(weights)), image, [[math.sqrt(2), math.sqrt(0.5)], [math.sqrt(0.5), 0.0]])


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
    # The masks are A₁ = 0 2 → 0 ½ and A₂ = 1 1 → 0 0. The image under mask 1 has channels that sum to 1 + 4 + 4 = 9
    #                     4 4   1 1          1 3   0 1
    # and ½ + 1 + 3 = 4.5, under mask 2 4 and 3. With the logit (S₁ + 2 S₂) / 10 the scores are 1.8 and 1, the weights
    # σ(0.8) and 1 - σ(0.8).
    image = torch.tensor([[[0.0, 2.0], [4.0, 4.0]], [[1.0, 1.0], [1.0, 3.0]]])
    weights = torch.tensor([0.1, 0.2])[:, None, None].expand(2, 2, 2)
    w = 1 / (1 + math.exp(-0.8))
    return Case(Head(linear(weights)), image, [[1 - w, 1 + w], [1 + 3 * w, 3 + w]])


@by_hand("scorecam")
def scorecam_with_a_layer_coarser_than_the_image() -> Case:
    # 2×2 means of a 4×4 image whose columns are 0, 0, 2, 2 in channel 1 and 1 throughout channel 2. Channel 1 is
    # 0 2 in both rows, its mask 0 1, across the image 0 ¼ ¾ 1 (pixels are areas: corners are not aligned). Under it
    # channel 1 has columns 0, 0, 1.5, 2 and means 0 and 1.75, channel 2 means ⅛ and ⅞. Channel 2 is constant: its mask
    # is 0 and lets nothing through. With the sum of channel 1 alone as the logit: scores 3.5 and 0.
    image = torch.stack([torch.tensor([0.0, 0.0, 2.0, 2.0]).expand(4, 4), torch.ones(4, 4)])
    w = 1 / (1 + math.exp(-3.5))
    weights = torch.tensor([1.0, 0.0])[:, None, None].expand(2, 2, 2)
    return Case(Head(linear(weights), nn.AvgPool2d(2)), image, [[1 - w, 1 + w]] * 2)


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


@by_hand("ablationcam")
def ablationcam_of_a_score_of_zero() -> Case:
    # The logit is 14 - 14 = 0, which has no shares: losses of 6 and 8 are divided by a hundredth of 8.
    w1, w2 = 600 / 8, 100.0
    return Case(Head(linear(G, -14)), A, [[w1 + 2 * w2, 2 * w1], [3 * w1 + w2, 4 * w1 - w2]])


@by_hand("scorecam")
def scorecam_of_a_channel_that_is_constant_but_for_rounding() -> Case:
    # Its mask is 0 throughout, as that of channel 2 in the case above, and not what rounding makes of it.
    image = torch.tensor([[[0.0, 2.0], [4.0, 4.0]], [[1.0, 1.0], [1.0, 1.0 + 2**-23]]])
    # Under mask 1 channel 1 sums up to 1 + 4 + 4 = 9; the logit is a tenth of it, and 0 under mask 2.
    w = 1 / (1 + math.exp(-0.9))
    weights = torch.tensor([0.1, 0.0])[:, None, None].expand(2, 2, 2)
    return Case(Head(linear(weights)), image, [[1 - w, 1 + w], [1 + 3 * w, 1 + 3 * w]])


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
    """Tokens of two components: a class token of zeros and the image's places. Two blocks of attention.

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
    found = signed_map(it.head, it.image, method, it.target)
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


@pytest.mark.parametrize("channels", [5, 40])
@pytest.mark.parametrize("apart", [0.0, 1e-8, 1e-6, 1e-5])
def test_singular_values_that_are_nearly_equal_leave_nothing_to_chance(channels: int, apart: float) -> None:
    """Any mix of their vectors is as good as the first: it is the one that agrees with the mean activation."""
    generator = torch.Generator().manual_seed(8)
    left, _ = torch.linalg.qr(torch.randn(4, 20, 4, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(4, channels, 4, generator=generator, dtype=torch.float64))
    values = torch.tensor([3.0, 3.0 * (1 - apart), 1.0, 0.3], dtype=torch.float64)
    features = ((left * values) @ right.mT).mT.reshape(4, channels, 4, 5)
    noise = torch.randn(features.shape, generator=generator, dtype=torch.float64)
    found = _first_component(features.float())
    moved = _first_component((features + 1e-6 * features.abs().max() * noise).float())
    greatest = found.abs().amax((1, 2))
    assert ((moved - found).abs().amax((1, 2)) < 1e-3 * greatest).all()
    assert ((found * features.sum(1)).sum((1, 2)) > 0).all()
    torch.testing.assert_close(found.norm(dim=(1, 2)), torch.full((4,), 3.0), rtol=1e-4, atol=0.0)


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
    inputs = images()
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    for answer in explain(EagerNetwork(model), inputs, [Targets((0, 3))] * 4, layers[:1], ["fullgrad"], SIGNED):
        expected = answer.logits[[0, 3]] - head.bias[[0, 3]]  # the head has no places, its bias no part in the map
        torch.testing.assert_close(nested(answer)[0][0][:, 0, 0], expected, rtol=1e-4, atol=1e-5)
