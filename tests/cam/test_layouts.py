"""Inputs laid out while a graph is recorded: attention projects all tokens in one product, normalisations are right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from service.cam.capture import gradients
from service.cam.eager import EagerNetwork
from service.cam.layers import LayerCall
from service.cam.layouts import lay_out_picture, lay_out_tokens
from tests.cam.models import frozen

TOKENS, WIDTH = 9, 4


class Attending(nn.Module):
    """Nine tokens of a 3×3 picture attend to themselves; the mean of what they take is classified."""

    def __init__(self, *, batch_first: bool, named: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, WIDTH, 1)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=batch_first)
        self.batch_first, self.named = batch_first, named

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(self.embed(x))

    def attend(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).mT  # (N, T, C)
        given = tokens if self.batch_first else tokens.transpose(0, 1)
        if self.named:
            mixed, _ = self.attention(query=given, key=given, value=given)
        else:
            mixed, _ = self.attention(given, given, given, need_weights=False)
        mean: Tensor = mixed.mean(1 if self.batch_first else 0)
        return mean


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps how many matrices the weights of a projection were multiplied as, for each product."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.copies: list[int] = []

    def __torch_dispatch__(self, function: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.bmm.default and args[1].shape[1:] == (WIDTH, 3 * WIDTH):
            self.copies.append(len(args[1]))
        if function is torch.ops.aten.addmm.default and args[2].shape == (WIDTH, 3 * WIDTH):
            self.copies.append(1)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_tokens_are_projected_in_one_product(batch_first: bool, named: bool) -> None:
    model = Attending(batch_first=batch_first, named=named)
    frozen(model)
    with Products() as products:
        EagerNetwork(model).capture(torch.rand(2, 3, 3, 3), [LayerCall("embed")])
    assert products.copies == [1]
    assert not model.attention._forward_pre_hooks


@pytest.mark.parametrize("batch_first", [True, False])
def test_logits_and_gradients_are_those_of_the_module(batch_first: bool) -> None:
    model = Attending(batch_first=batch_first)
    frozen(model)
    images, weights = torch.rand(2, 3, 3, 3), torch.eye(WIDTH)[:2]
    captured = EagerNetwork(model).capture(images, [LayerCall("embed")])
    leaf = model.embed(images).requires_grad_()
    logits = model.attend(leaf)
    torch.testing.assert_close(captured.logits, logits)
    (expected,) = torch.autograd.grad((logits * weights).sum(), leaf)
    assert expected.any()
    torch.testing.assert_close(gradients(captured, weights)[LayerCall("embed")], expected)


def test_what_is_one_tensor_stays_one() -> None:
    attention, tokens, memory = (
        nn.MultiheadAttention(WIDTH, 2, batch_first=True),
        torch.rand(2, 3, 4),
        torch.rand(2, 5, 4),
    )
    (query, key, value), _ = lay_out_tokens(attention, (tokens, tokens, tokens), {})
    assert query is key is value
    assert torch.equal(query, tokens)
    assert query.transpose(0, 1).is_contiguous()
    (query,), named = lay_out_tokens(attention, (tokens,), {"key": memory, "value": memory, "need_weights": False})
    assert query is not named["key"] is named["value"]
    assert not named["need_weights"]


def test_tokens_without_a_batch_are_left_alone() -> None:
    tokens = torch.rand(3, 4)
    (query, *_), _ = lay_out_tokens(nn.MultiheadAttention(WIDTH, 2), (tokens, tokens, tokens), {})
    assert query is tokens


def test_nested_tokens_are_left_alone() -> None:
    tokens = torch.nested.nested_tensor([torch.rand(3, 4), torch.rand(2, 4)], layout=torch.jagged)
    (query, *_), _ = lay_out_tokens(nn.MultiheadAttention(WIDTH, 2, batch_first=True), (tokens, tokens, tokens), {})
    assert query is tokens


class Turned(nn.Module):
    """A normalisation of what windows of tokens were put together to; what comes next asks for channels first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, WIDTH, 1)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.head = nn.Conv2d(WIDTH, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        turned = (
            self.embed(x).permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
        )  # (N, C, h, w), N before C in memory
        logits: Tensor = self.head(self.norm(turned).contiguous()).mean((2, 3))
        return logits


@pytest.mark.parametrize("pictures", [1, 2])
def test_the_gradient_of_a_normalisation_is_right_however_a_picture_lies(pictures: int) -> None:
    model = Turned()
    frozen(model)
    captured = EagerNetwork(model).capture(torch.rand(pictures, 3, 7, 7), [LayerCall("embed")])
    found = gradients(captured, torch.eye(5)[:pictures])[LayerCall("embed")]
    # Of what is linear: the head's, times what a normalisation multiplies by.
    cells = torch.ones(pictures, 5, 5, 5) * torch.eye(5)[:pictures, :, None, None] / 25
    assert model.norm.running_var is not None
    factors = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    expected = nn.functional.conv_transpose2d(cells, model.head.weight) * factors[:, None, None]
    torch.testing.assert_close(found, expected)
    assert not model.norm._forward_pre_hooks


def test_only_what_pytorch_reads_wrongly_is_laid_out_anew() -> None:
    norm, picture = nn.BatchNorm2d(WIDTH), torch.rand(1, WIDTH, 7, 7)
    odd = picture.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    (laid_out,) = lay_out_picture(norm, (odd,))
    assert laid_out.stride() == (49 * WIDTH, 1, 7 * WIDTH, WIDTH)
    assert torch.equal(laid_out, picture)
    for other in (
        picture,
        picture.contiguous(memory_format=torch.channels_last),
        torch.rand(2, WIDTH, 7, 7),
        "no tensor",
    ):
        assert lay_out_picture(norm, (other,)) == (other,)
