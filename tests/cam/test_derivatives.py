"""Second derivatives, and passes that are computed by other means: they are those of the network as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.cam.derivatives import cause_of, differentiate
from service.cam.eager import EagerNetwork
from service.cam.explain import explain, predict
from service.cam.layers import LayerCall
from service.cam.targets import CamOptions, Targets
from service.errors import MethodNotApplicable
from tests.cam.models import frozen, images, layers_of

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNED = CamOptions(signed=True)


class Attends(nn.Module):
    """Sixteen patches of eight channels, attention in some form, and the mean over tokens."""

    def __init__(self, attend: Callable[[Attends, Tensor], Tensor], **options: object) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.attention = nn.MultiheadAttention(8, 2, **{"batch_first": True} | options)
        self.narrow = nn.Linear(8, 6)
        self.head = nn.Linear(8, 5)
        self.attend = attend

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)  # (N, 16, 8)
        logits: Tensor = self.head(torch.tanh(tokens + self.attend(self, tokens)).mean(1))
        return logits


MASK = torch.triu(torch.ones(16, 16, dtype=torch.bool), 1)


def plain(net: Attends, x: Tensor) -> Tensor:
    return net.attention(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]


def across(net: Attends, x: Tensor) -> Tensor:
    return net.attention(x[:, :4].tanh(), x, x.flip(1))[0].repeat(1, 4, 1)  # type: ignore[no-any-return]


def masked(net: Attends, x: Tensor) -> Tensor:
    return net.attention(x, x, x, attn_mask=MASK, need_weights=False)[0]  # type: ignore[no-any-return]


def causal(net: Attends, x: Tensor) -> Tensor:
    return net.attention(x, x, x, None, False, MASK, is_causal=True)[0]  # type: ignore[no-any-return]


def padded(net: Attends, x: Tensor) -> Tensor:
    padding = torch.arange(16).expand(len(x), -1) > 11
    return net.attention(x, x, x, key_padding_mask=padding)[0]  # type: ignore[no-any-return]


def by_keyword(net: Attends, x: Tensor) -> Tensor:
    return net.attention(value=x * 2, key=x.tanh(), query=x, need_weights=False)[0]  # type: ignore[no-any-return]


def of_other_widths(net: Attends, x: Tensor) -> Tensor:
    return net.attention(x, net.narrow(x), net.narrow(x).sin())[0]  # type: ignore[no-any-return]


def weights_too(net: Attends, x: Tensor) -> Tensor:
    mixed, weights = net.attention(x, x, x)
    return mixed * weights.mean(1)[:, :, None]  # type: ignore[no-any-return]


def weights_of_every_head(net: Attends, x: Tensor) -> Tensor:
    mixed, weights = net.attention(x, x, x, average_attn_weights=False)
    return mixed * weights[:, 1, :, :8]  # type: ignore[no-any-return]


def sequence_first(net: Attends, x: Tensor) -> Tensor:
    y = x.transpose(0, 1)
    return net.attention(y, y, y, need_weights=False)[0].transpose(0, 1)  # type: ignore[no-any-return]


def functional_attention(_net: Attends, x: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=True)[:, 0]


def hard(_net: Attends, x: Tensor) -> Tensor:
    return functional.hardsigmoid(x, inplace=False) * functional.hardsigmoid(3 * x + 1, inplace=True)


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "self-attention": lambda: Attends(plain),
    "cross-attention": lambda: Attends(across),
    "attn_mask": lambda: Attends(masked),
    "is_causal": lambda: Attends(causal),
    "key_padding_mask": lambda: Attends(padded),
    "keywords": lambda: Attends(by_keyword),
    "kdim and vdim": lambda: Attends(of_other_widths, kdim=6, vdim=6),
    "add_bias_kv": lambda: Attends(plain, add_bias_kv=True),
    "add_zero_attn": lambda: Attends(plain, add_zero_attn=True),
    "without bias": lambda: Attends(plain, bias=False),
    "averaged weights": lambda: Attends(weights_too),
    "weights of every head": lambda: Attends(weights_of_every_head),
    "sequence first": lambda: Attends(sequence_first, batch_first=False),
    "scaled_dot_product_attention": lambda: Attends(functional_attention),
    "hard sigmoid": lambda: Attends(hard),
}

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def build(variant: str) -> nn.Module:
    """A variant in float64, with biases that are not zero."""
    torch.manual_seed(0)
    model = VARIANTS[variant]()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return frozen(model).double()


@every_variant
def test_a_pass_that_can_be_differentiated_twice_has_the_networks_own_logits(variant: str) -> None:
    network = EagerNetwork(build(variant))
    inputs = images(3).double()
    captured = network.capture(inputs, [LayerCall("patches")], 2)
    torch.testing.assert_close(captured.logits, network.predict(inputs), rtol=1e-10, atol=1e-10)


@every_variant
def test_shapleycams_curvature_is_that_of_finite_differences(variant: str) -> None:
    """w = mean of g - H A / 2; H A is how the gradient changes as the activations grow in proportion."""
    model, inputs, step = build(variant), images(1).double(), 1e-5
    (layer,) = layers_of(build(variant).float(), "patches")
    kept = EagerNetwork(model).capture(inputs, [layer.call], 0).activations[layer.call]

    def gradient(factor: float) -> Tensor:
        network, leaf = EagerNetwork(model), (kept * factor).requires_grad_()
        with torch.inference_mode(mode=False):
            handle = model.get_submodule("patches").register_forward_hook(lambda *_: leaf * 1)
            (found,) = torch.autograd.grad(network._module(inputs)[0, 2], leaf)
            handle.remove()
        return found

    curvature = (gradient(1 + step) - gradient(1 - step)) / (2 * step)
    weights = (gradient(1) - curvature / 2).mean((2, 3))
    expected = (weights[:, :, None, None] * kept).sum(1)[0].float()

    (answer,) = explain(EagerNetwork(model), inputs, [Targets((2,))], [layer], ["shapleycam"], SIGNED)
    torch.testing.assert_close(answer.maps[0].values, expected, rtol=1e-4, atol=1e-5)
    assert curvature.abs().max() > 1e-3 * gradient(1).abs().max(), "there is nothing to see"


def test_other_methods_of_a_request_see_the_network_as_it_is() -> None:
    model = frozen(Attends(plain))
    layers, targets = layers_of(model, "patches"), [Targets((0, 3))] * 2
    together = explain(EagerNetwork(model), images(2), targets, layers, ["shapleycam", "gradcam", "eigencam"], SIGNED)
    alone = explain(EagerNetwork(model), images(2), targets, layers, ["gradcam", "eigencam"], SIGNED)
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.logits, other.logits)
        found = [raw.values for raw in one.maps if raw.method != "shapleycam"]
        assert all(torch.equal(a, b.values) for a, b in zip(found, other.maps, strict=True))
    torch.testing.assert_close(together[0].logits, predict(EagerNetwork(model), images(2))[0])


# Causes


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x * 2


def in_place(x: Tensor) -> Tensor:
    y = x.relu()
    y += 1
    return y


@pytest.mark.parametrize(
    ("compute", "cause"),
    [
        (NoBackward.apply, r"a torch\.autograd\.Function of the model has no backward"),
        (in_place, "changes in place what the backward pass needs.*x = x \\+ y"),
        (lambda x: torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=True), "use_reentrant=True; say"),
        (lambda x: x.detach(), r"cuts its logits from the graph, as torch\.no_grad\(\) and \.detach\(\) do"),
    ],
    ids=["a function without backward", "in place", "reentrant checkpoint", "detached"],
)
def test_the_reason_why_there_is_no_gradient_is_the_cause(compute: Callable[[Tensor], Tensor], cause: str) -> None:
    x = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(MethodNotApplicable, match=rf"^No gradient can be computed here: .*{cause}"):
        differentiate(compute(x), [x], torch.ones(2, 3))


def test_an_operation_without_a_derivative_is_named() -> None:
    error = NotImplementedError("derivative for aten::_made_up is not implemented")
    assert cause_of(error) == "an operation of the model has no derivative in PyTorch (aten::_made_up)"


def test_what_is_not_the_networks_fault_is_left_alone() -> None:
    assert cause_of(RuntimeError("CUDA out of memory")) is None
    with pytest.raises(RuntimeError, match="size of tensor"):
        differentiate(torch.randn(2, 3, requires_grad=True), [torch.randn(1, requires_grad=True)], torch.ones(3, 3))
