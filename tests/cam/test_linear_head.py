"""Heads that end with a linear layer: gradients by the weights of some classes are those by the weights of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from service.cam.capture import gradients
from service.cam.derivatives import differentiate
from service.cam.eager import EagerNetwork
from service.cam.layers import LayerCall
from service.cam.linear_head import LinearHead
from service.errors import MethodNotApplicable
from tests.cam.models import frozen

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.cam.capture import Capture

CLASSES = 5


class Headed(nn.Module):
    """Two convolutions whose pooled channels go through ``head``."""

    def __init__(self, head: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(inplace=True))
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).mean((2, 3)))


class Conditional(nn.Linear):
    """A linear layer of which a parameter follows what the whole batch has in it."""

    def __init__(self, what: str) -> None:
        super().__init__(8, CLASSES)
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        factors = [x.mean() if each == self.what else 1 for each in ("weight", "bias")]
        return nn.functional.linear(x, self.weight * factors[0], self.bias * factors[1])


LINEAR: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "a bias": lambda: nn.Linear(8, CLASSES),
    "no bias": lambda: nn.Linear(8, CLASSES, bias=False),
    "another one before it": lambda: nn.Sequential(nn.Linear(8, 7), nn.GELU(), nn.Dropout(), nn.Linear(7, CLASSES)),
}
OTHERS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "a normalisation behind it": lambda: nn.Sequential(nn.Linear(8, CLASSES), nn.LayerNorm(CLASSES)),
    "a product of another strength": lambda: (
        lambda x: torch.addmm(torch.ones(CLASSES), x, torch.arange(8.0 * CLASSES).view(8, CLASSES), alpha=2)
    ),
    "weights made of the picture": lambda: Conditional("weight"),
    "a bias made of the picture": lambda: Conditional("bias"),
    "some of its outputs": lambda: lambda x: (x @ torch.arange(48.0).view(8, 6))[:, :CLASSES],
    "two tokens": lambda: lambda x: nn.functional.linear(x.view(-1, 2, 4), torch.arange(20.0).view(5, 4)).sum(1),
}
LAYERS = (LayerCall("first"), LayerCall("second"))


def captured_of(head: Callable[[Tensor], Tensor], layers: tuple[LayerCall, ...] = LAYERS) -> Capture:
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return EagerNetwork(frozen(Headed(head))).capture(images, layers)


def some_weights() -> list[Tensor]:
    """Of the logits of three rows: one class each, one rather than another, a row without a target, and no target."""
    one = torch.eye(CLASSES)[[0, 1, 1]]
    against = one - torch.eye(CLASSES)[[2, 2, 3]]
    fewer = torch.cat([one[:2], torch.zeros(1, CLASSES)])
    return [one, against, fewer, torch.zeros(3, CLASSES)]


def assert_gradients_are_those_of_all_weights(captured: Capture) -> None:
    for weights in some_weights():
        found = gradients(captured, weights)
        wanted = differentiate(captured.logits, list(captured.activations.values()), weights)
        for gradient, expected in zip(found.values(), wanted, strict=True):
            torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("kind", LINEAR)
def test_gradients_are_those_of_the_weights_of_all_classes(kind: str) -> None:
    captured = captured_of(LINEAR[kind]())
    assert isinstance(captured.head, LinearHead)
    assert_gradients_are_those_of_all_weights(captured)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_heads_are_differentiated_as_they_are(kind: str) -> None:
    captured = captured_of(OTHERS[kind]())
    assert captured.head is None
    assert_gradients_are_those_of_all_weights(captured)


def test_numbers_worked_out_by_hand() -> None:
    head = nn.Linear(8, CLASSES)
    captured = captured_of(head, (LayerCall("second"),))
    (found,) = gradients(captured, torch.eye(CLASSES)[[3, 3, 0]]).values()
    cells = 12 * 12  # whose mean the layer gets
    torch.testing.assert_close(found[0], (head.weight[3] / cells)[:, None, None].expand(8, 12, 12))
    torch.testing.assert_close(found[2], (head.weight[0] / cells)[:, None, None].expand(8, 12, 12))


def test_the_layer_itself_is_differentiated_as_well() -> None:
    layers = (LayerCall("second"), LayerCall("head"))
    captured = captured_of(nn.Linear(8, CLASSES), layers)
    assert captured.head is None
    assert gradients(captured, torch.eye(CLASSES)[[0, 1, 2]])[layers[1]].tolist() == torch.eye(CLASSES)[:3].tolist()


def test_in_bfloat16_gradients_are_those_of_bfloat16() -> None:
    model = frozen(Headed(nn.Linear(8, CLASSES)).bfloat16())
    captured = EagerNetwork(model).capture(torch.ones(3, 3, 16, 16, dtype=torch.bfloat16), LAYERS)
    assert isinstance(captured.head, LinearHead)
    assert {each.dtype for each in gradients(captured, torch.eye(CLASSES)[:3]).values()} == {torch.bfloat16}
    assert_gradients_are_those_of_all_weights(captured)


def test_what_cannot_be_differentiated_is_refused_in_words() -> None:
    def changed(x: Tensor) -> Tensor:
        kept = x.exp()
        kept += x  # which exp() needs as it was
        return last(kept)  # type: ignore[no-any-return]

    last = nn.Linear(8, CLASSES)
    captured = captured_of(changed)
    with pytest.raises(MethodNotApplicable, match="changes in place"):
        gradients(captured, torch.eye(CLASSES)[[0, 1, 2]])


def test_hooks_of_the_networks_own_on_its_logits_count() -> None:
    def hooked(x: Tensor) -> Tensor:
        logits: Tensor = last(x)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: -2 * gradient)  # type: ignore[no-untyped-call]
        return logits

    last = frozen(nn.Linear(8, CLASSES))
    captured = captured_of(hooked)
    assert isinstance(captured.head, LinearHead)
    assert_gradients_are_those_of_all_weights(captured)
    found = gradients(captured, torch.eye(CLASSES)[[0, 1, 2]])[LAYERS[1]]
    torch.testing.assert_close(
        found[0], (-2 * last.get_parameter("weight")[0] / (12 * 12))[:, None, None].expand(8, 12, 12)
    )


def test_weights_written_into_behind_the_head_are_refused_in_words() -> None:
    def normalised(x: Tensor) -> Tensor:
        logits: Tensor = last(x)
        with torch.no_grad():
            last.get_parameter("weight").mul_(1)
        return logits

    last = frozen(nn.Linear(8, CLASSES))
    captured = captured_of(normalised)
    with pytest.raises(MethodNotApplicable, match="changes in place"):
        gradients(captured, torch.eye(CLASSES)[[0, 1, 2]])
