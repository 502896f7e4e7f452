from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.cam.catalogue import probe_layers
from service.cam.eager import EagerNetwork
from service.cam.explain import explain
from service.cam.layers import Layout, find_layout
from service.cam.targets import CamOptions, Targets
from tests.cam.models import ChannelsLast, Plain, Residual, Tokens, frozen, images, layers_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.vocabulary import ChannelLayout


class ToLast(nn.Module):
    """Brings channels to the end."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class Unpadded(nn.Module):
    """Halves 16×16 and takes two rows and columns off; both activations have their channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(5, 3, 2, 2), torch.randn(7, 5, 3, 3)])
        self.turn = nn.ModuleList([ToLast(), ToLast()])

    def forward(self, x: Tensor) -> Tensor:
        for weight, turn, stride in zip(self.weights, self.turn, (2, 1), strict=True):
            x = turn(functional.conv2d(x, weight, stride=stride)).permute(0, 3, 1, 2)
        return x.mean((2, 3))


class TestDeclaredChannels:
    """What the source says of all activations is not found out again, whatever their types and numbers are."""

    @pytest.mark.parametrize(("channels", "kind"), [(None, "nhwc"), ("NCHW", "nchw"), ("NHWC", "nhwc")])
    def test_go_before_what_a_type_says(self, channels: ChannelLayout | None, kind: str) -> None:
        net = frozen(nn.Sequential(nn.Conv2d(3, 8, 1), nn.LayerNorm(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        inputs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

        norm = {layer.name: layer for layer in probe_layers(EagerNetwork(net), inputs, channels)}["1"]

        assert norm.layout is not None
        assert norm.layout.kind == kind

    def test_grids_need_not_be_those_of_earlier_layers(self) -> None:
        """Unpadded convolutions lose rows: 6×6 is no pooled 8×8."""
        net = frozen(Unpadded())
        inputs = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

        guessed, declared = (
            {layer.name: layer.layout for layer in probe_layers(EagerNetwork(net), inputs, channels)}
            for channels in (None, "NHWC")
        )

        assert (guessed["turn.0"], guessed["turn.1"]) == (Layout("nhwc", 8, 8), None)
        assert (declared["turn.0"], declared["turn.1"]) == (Layout("nhwc", 8, 8), Layout("nhwc", 6, 6))


@pytest.mark.parametrize(
    ("shape", "input_size", "layout"),
    [
        ((2, 512, 7, 7), (224, 224), Layout("nchw", 7, 7)),
        ((2, 7, 7, 768), (224, 224), Layout("nhwc", 7, 7)),
        ((2, 14, 14, 14), (224, 224), Layout("nchw", 14, 14)),
        ((2, 197, 768), (224, 224), Layout("tokens", 14, 14, special=1)),
        ((2, 196, 768), (224, 224), Layout("tokens", 14, 14)),
        ((2, 201, 768), (224, 224), Layout("tokens", 14, 14, special=5)),
        ((2, 204, 768), (224, 224), Layout("tokens", 14, 14, special=8)),
        ((2, 205, 768), (224, 224), None),  # nine special tokens are more than any transformer has
        ((2, 64, 7, 10), (224, 320), Layout("nchw", 7, 10)),
        ((2, 7, 11, 64), (224, 336), Layout("nhwc", 7, 11)),
        ((2, 71, 64), (224, 320), Layout("tokens", 7, 10, special=1)),
        ((2, 64, 49, 96), (224, 224), None),  # windows of tokens
        ((2, 1000), (224, 224), None),
        ((2, 64, 300, 300), (224, 224), None),  # finer than the image: not a grid of it
    ],
)
def test_grids_are_recognised(shape: tuple[int, ...], input_size: tuple[int, int], layout: Layout | None) -> None:
    assert find_layout(shape, *input_size) == layout


@pytest.mark.parametrize("size", [(40, 24), (24, 24), (30, 64)])
def test_kernels_without_padding_take_more_from_the_shorter_side(size: tuple[int, int]) -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, (1, 5)), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))
    net = frozen(nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)))
    inputs = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    layers = {layer.name: layer for layer in probe_layers(EagerNetwork(net), inputs)}

    height, width = size
    assert layers["0.2"].layout == Layout("nchw", height - 2, width - 6)
    assert layers["0.4"].layout == Layout("nchw", (height - 2) // 2 - 2, (width - 6) // 2 - 2)
    assert all(layers[name].explainable for name in ("0.0", "0.1", "0.2", "0.3", "0.4"))


@pytest.mark.parametrize(
    ("shape", "channels", "seen", "layout"),
    [
        # The numbers of MaxViT's first stage at 224: 49 windows of 64 tokens with 64 channels.
        ((2, 49, 64, 64), None, {(112, 112), (56, 56)}, None),
        ((2, 49, 64, 64), "first", {(112, 112), (56, 56)}, Layout("nchw", 64, 64)),
        ((2, 12, 197, 197), None, {(14, 14)}, None),  # attention among tokens
        ((2, 28, 28, 192), None, {(56, 56)}, Layout("nhwc", 28, 28)),  # patches merged, as in Swin
        ((2, 7, 7, 768), None, {(56, 56)}, Layout("nhwc", 7, 7)),
        ((2, 8, 8, 192), None, {(15, 15)}, Layout("nhwc", 8, 8)),  # halved, rounded up
        ((2, 14, 14, 14), "last", {(14, 14)}, Layout("nhwc", 14, 14)),
        ((2, 14, 14, 14), None, {(14, 14)}, Layout("nchw", 14, 14)),
        ((2, 64, 16), None, {(28, 28)}, None),  # 64 channels that are no tokens: 8×8 is no grid here
        ((2, 9, 16), None, {(2, 2)}, Layout("tokens", 2, 2, special=5)),  # and not 3×3
        ((2, 9, 16), None, (), Layout("tokens", 3, 3)),
        ((2, 256, 588), "last", {(224, 224)}, Layout("tokens", 16, 16)),  # patches cut by hand
        ((2, 512, 1, 1), None, {(7, 7)}, Layout("nchw", 1, 1)),
    ],
)
def test_what_is_known_tells_grids_from_accidents(
    shape: tuple[int, ...],
    channels: Literal["first", "last"] | None,
    seen: set[tuple[int, int]],
    layout: Layout | None,
) -> None:
    assert find_layout(shape, 224, 224, channels, seen) == layout


def test_tokens_become_a_grid_in_row_major_order_without_the_special_ones() -> None:
    tokens = torch.tensor([[[100.0], [0.0], [1.0], [2.0], [3.0], [4.0], [5.0]]])  # (1, 1 + 2·3, 1)
    assert Layout("tokens", 2, 3, special=1).to_nchw(tokens).tolist() == [[[[0, 1, 2], [3, 4, 5]]]]


def test_channels_last_become_channels_first() -> None:
    output = torch.arange(12.0).view(1, 2, 2, 3)
    assert Layout("nhwc", 2, 2).to_nchw(output)[0, 0].tolist() == [[0, 3], [6, 9]]


def test_rows_come_in_forward_order_with_shapes_and_strides() -> None:
    layers = probe_layers(EagerNetwork(frozen(Plain())), images(2))
    assert [layer.name for layer in layers] == [
        "first.0", "first.1", "first.2", "first", "second.0", "second.1", "second.2", "second", "head",
    ]  # fmt: skip
    assert [layer.order for layer in layers] == list(range(9))
    first, second, head = layers[0], layers[7], layers[8]
    assert (first.kind, first.shape, first.stride) == ("conv", (4, 16, 16), 2)
    assert (second.kind, second.shape, second.stride) == ("block", (6, 8, 8), 4)
    assert (head.kind, head.shape, head.explainable) == ("linear", (5,), False)
    assert head.note == "its output has no rows and columns: [5]"
    assert all(layer.note is None for layer in layers[:-1])


def test_branches_are_told_from_layers_on_every_path() -> None:
    by_name = {layer.name: layer for layer in probe_layers(EagerNetwork(frozen(Residual())), images(2))}
    assert "parallel paths" in (by_name["branch"].note or "")
    assert by_name["stem"].note is None
    assert by_name["block"].note is None
    # The second call sits in the branch, the others on every path.
    assert by_name["relu:0"].note == "call 0 of 3 of this module"
    assert "parallel paths" in (by_name["relu:1"].note or "")
    assert by_name["relu:2"].note == "call 2 of 3 of this module"


def test_layers_behind_which_only_the_class_token_is_read_are_refused() -> None:
    by_name = {layer.name: layer for layer in probe_layers(EagerNetwork(frozen(Tokens())), images(2))}
    assert by_name["norm1"].explainable
    assert by_name["norm1"].shape == (8, 4, 4)
    assert not by_name["norm2"].explainable
    assert "only the class token is read" in (by_name["norm2"].note or "")
    assert "only the class token is read" in (by_name["attention"].note or "")


def test_channels_last_grids_have_their_channels_first_in_the_catalogue() -> None:
    by_name = {layer.name: layer for layer in probe_layers(EagerNetwork(frozen(ChannelsLast())), images(2))}
    assert by_name["mlp"].shape == (7, 8, 8)
    assert by_name["mlp"].explainable


class Refused(nn.Module):
    """One layer for every other reason why no map can be made."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, 4)
        self.aside = nn.Conv2d(4, 4, 1)
        self.windows = nn.Flatten(0, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.unused = nn.Conv2d(4, 4, 1)
        self.holder = nn.ModuleList([nn.Identity()])
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.aside(x)
        self.windows(x)
        logits: Tensor = self.head(self.holder[0](self.pool(x)).flatten(1))
        return logits


def test_every_refusal_says_why() -> None:
    layers = probe_layers(EagerNetwork(frozen(Refused())), images(2))
    notes = {layer.name: layer.note for layer in layers if not layer.explainable}
    assert notes == {
        "aside": "not on the way to the logits",
        "windows": "its output has not one row per picture",
        "pool": "1×1 output: no position is left to show",
        "holder.0": "1×1 output: no position is left to show",
        "head": "its output has no rows and columns: [5]",
        "unused": "never called in the forward pass",
        "holder": "holds layers and is not called itself",
    }
    assert [layer.name for layer in layers if layer.explainable] == ["conv"]


class Attends(nn.Module):
    """A stem as fine as the attention among the tokens is large; the attention's weights pass through a module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, 2)
        self.patches = nn.Conv2d(4, 4, 4, 4)
        self.norm = nn.LayerNorm(4)
        self.attention_dropout = nn.Dropout()
        self.projection = Holder()
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(self.stem(x)).flatten(2).transpose(1, 2))  # (N, 16, 4)
        attention = self.attention_dropout((x @ x.mT).softmax(-1)[:, None])  # (N, 1, 16, 16)
        logits: Tensor = self.head(self.projection(attention[:, 0] @ x).mean(1))
        return logits


class Holder(nn.Module):
    """Uses a layer's weights without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.skipped = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.inner.weight)


def test_attention_is_no_grid_though_its_numbers_fit() -> None:
    by_name = {layer.name: layer for layer in probe_layers(EagerNetwork(frozen(Attends())), images(2))}
    assert by_name["stem"].shape == (4, 16, 16)
    assert by_name["norm"].shape == (4, 4, 4)
    assert by_name["attention_dropout"].note == "its axes are not the rows and columns of the picture: [1, 16, 16]"
    assert by_name["projection"].explainable


def test_a_layer_that_is_not_called_may_still_be_used() -> None:
    by_name = {layer.name: layer for layer in probe_layers(EagerNetwork(frozen(Attends())), images(2))}
    assert by_name["projection.inner"].note == (
        "never called in the forward pass (the layer that holds it may use its weights)"
    )
    assert by_name["projection.skipped"].note == "never called in the forward pass"
    assert by_name["projection.skipped"].kind == "block"


@pytest.mark.parametrize("build", [Plain, Residual, Tokens, ChannelsLast])
def test_probing_leaves_no_trace(build: type[nn.Module]) -> None:
    model, inputs = frozen(build()), images(2)
    before = model(inputs)
    probe_layers(EagerNetwork(model), inputs)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not inputs.requires_grad
    assert torch.equal(model(inputs), before)


def test_an_identity_on_a_skip_connection_is_not_taken_for_the_layer_before_it() -> None:
    class Skip(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.skip = nn.Identity()
            self.body = nn.Conv2d(4, 4, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            logits: Tensor = self.head(self.second(self.body(x) + self.skip(x)).mean((2, 3)))
            return logits

    by_name = {layer.name: layer for layer in probe_layers(EagerNetwork(frozen(Skip())), images(2))}
    assert by_name["first"].on_every_path
    assert not by_name["skip"].on_every_path
    assert "parallel paths" in (by_name["skip"].note or "")


# Blocks that return tuples, sequences first


class Block(nn.Module):
    """Attention and a linear layer with skip connections; returns what ``wrap`` makes of its tokens."""

    def __init__(self, wrap: Callable[[Tensor], object], *, batch_first: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.mlp = nn.Linear(8, 8)
        self.wrap = wrap

    def forward(self, x: Tensor) -> object:
        y = self.norm(x)
        x = x + self.attention(y, y, y)[0]
        return self.wrap(x + torch.tanh(self.mlp(x)))


class Blocks(nn.Module):
    """Sixteen patches, three blocks, the mean over tokens read, or the class token before them if there is one."""

    def __init__(self, wrap: Callable[[Tensor], object], *, batch_first: bool = True, token: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.blocks = nn.ModuleList(Block(wrap, batch_first=batch_first) for _ in range(3))
        self.token = nn.Parameter(torch.ones(8)) if token else None
        self.head = nn.Linear(8, 5)
        self.tokens_axis = 1 if batch_first else 0

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).movedim(2, self.tokens_axis)
        if self.token is not None:
            first = self.token.expand_as(tokens.select(self.tokens_axis, 0)).unsqueeze(self.tokens_axis)
            tokens = torch.cat([first, tokens], self.tokens_axis)
        for block in self.blocks:
            found = block(tokens)
            tokens = found if isinstance(found, Tensor) else found[0]
        read = tokens.mean(self.tokens_axis) if self.token is None else tokens.select(self.tokens_axis, 0)
        logits: Tensor = self.head(read)
        return logits


class Output(NamedTuple):
    """What some libraries' blocks return."""

    hidden: Tensor
    extra: str = "kept"


def maps_of(model: nn.Module, *names: str) -> list[Tensor]:
    methods = ["gradcam", "shapleycam", "ablationcam"]
    layers, options = layers_of(model, *names), CamOptions(signed=True)
    (answer,) = explain(EagerNetwork(model), images(1), [Targets((2,))], layers, methods, options)
    return [raw.values for raw in answer.maps]


@pytest.mark.parametrize(
    "wrap", [lambda x: (x,), lambda x: (x, None), lambda x: [x, x.mean()], Output], ids=["one", "two", "list", "named"]
)
def test_a_tuple_is_explained_by_the_tensor_that_it_begins_with(wrap: Callable[[Tensor], object]) -> None:
    plain, wrapped = frozen(Blocks(lambda x: x)), frozen(Blocks(wrap))
    names = "blocks.1", "blocks.1.attention"
    for one, other in zip(maps_of(wrapped, *names), maps_of(plain, *names), strict=True):
        torch.testing.assert_close(one, other)
    (layer,) = layers_of(wrapped, "blocks.2")
    assert (layer.on_every_path, layer.shape) == (True, (8, 4, 4))


@pytest.mark.parametrize("token", [False, True])
def test_sequences_first_are_what_batches_first_are(*, token: bool) -> None:
    """Layers (T, N, C) have the grids and the maps of their transposes."""
    usual, turned = (frozen(Blocks(lambda x: x, batch_first=first, token=token)) for first in (True, False))
    expected, found = (probe_layers(EagerNetwork(model), images(2)) for model in (usual, turned))
    assert [replace(layer, call=replace(layer.call, batch_axis=0)) for layer in found] == expected
    assert {layer.call.batch_axis for layer in found if layer.name.startswith("blocks") and layer.shape} == {1}
    names = "blocks.0", "blocks.1.norm", "blocks.1.attention"
    for one, other in zip(maps_of(turned, *names), maps_of(usual, *names), strict=True):
        torch.testing.assert_close(one, other)
        assert one.any()


class TwoOfSomething(nn.Module):
    """Sixteen of something in two groups, which are not the two images."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.groups, self.head = nn.Conv2d(3, 8, 8, 8), nn.Identity(), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)  # (N, 16, 8)
        groups = self.groups(tokens.sum(0).view(16, 2, 4) * 0 + tokens.mean(0).view(16, 2, 4))
        logits: Tensor = self.head(tokens[..., :4].mean(1)) + groups.mean() * 0
        return logits


def test_an_axis_of_two_is_not_taken_for_the_two_images() -> None:
    by_name = {layer.name: layer for layer in probe_layers(EagerNetwork(frozen(TwoOfSomething())), images(2))}
    assert by_name["groups"].note == "its output has not one row per picture"
    assert by_name["groups"].call.batch_axis == 0


# Branches that are joined late


class Branches(nn.Module):
    """Three convolutions, side by side or one behind the other, all read by the head."""

    def __init__(self, *, chained: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Conv2d(4 if chained and k else 3, 4, 3, 2, 1) for k in range(3))
        self.head = nn.Linear(12, 5)
        self.chained = chained

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a.relu() if self.chained else x)
        c = self.c(b.relu() if self.chained else x)
        logits: Tensor = self.head(torch.cat([each.relu().mean((2, 3)) for each in (a, b, c)], 1))
        return logits


@pytest.mark.parametrize("chained", [False, True], ids=["an ensemble", "several scales"])
def test_a_layer_says_which_branches_it_does_not_show(*, chained: bool) -> None:
    by_name = {layer.name: layer for layer in probe_layers(EagerNetwork(frozen(Branches(chained=chained))), images(2))}
    assert by_name["c"].beside == ("a", "b")
    assert by_name["c"].covers == "covers one of 3 branches that lead to the logits; the others end with 'a', 'b'"
    assert by_name["c"].note == by_name["c"].covers
    # In a chain, "a" feeds the others.
    assert by_name["a"].on_every_path == chained
    assert by_name["a"].beside == (() if chained else ("b", "c"))


def test_a_residual_branch_and_a_class_token_leave_nothing_beside() -> None:
    for model in (Residual(), Tokens(), Blocks(lambda x: x, token=True)):
        layers = probe_layers(EagerNetwork(frozen(model)), images(2))
        assert [layer.name for layer in layers if layer.beside] == []


class Recurrent(nn.Module):
    """An LSTM over the rows of a picture, or over the cells of a convolution; ``step`` is read of its outputs."""

    def __init__(self, step: int, *, cells: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, 4, 1)
        self.rnn = nn.LSTM(4 if cells else 3 * 32, 6, batch_first=True)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)
        self.step, self.cells = step, cells

    def forward(self, x: Tensor) -> Tensor:
        steps = self.conv(x).flatten(2).transpose(1, 2) if self.cells else x.permute(0, 2, 1, 3).flatten(2)
        logits: Tensor = self.head(self.norm(self.rnn(steps)[0])[:, self.step])
        return logits


@pytest.mark.parametrize(
    ("step", "cells", "words"),
    [
        (-1, False, "only the last of its 32 positions is read"),
        (0, False, "only the first of its 32 positions is read"),
        (-1, True, "only the last of its 64 positions is read"),
        (5, True, "only number 6 of its 64 positions is read"),
    ],
)
def test_a_recurrent_network_of_which_one_step_is_read_has_no_class_token(step: int, cells: bool, words: str) -> None:
    torch.manual_seed(1)
    layers = {
        layer.name: layer
        for layer in probe_layers(EagerNetwork(Recurrent(step, cells=cells)), torch.rand(2, 3, 32, 32))
    }

    for name in ("rnn", "norm"):
        assert not layers[name].explainable
        assert (layers[name].note or "").startswith(words), layers[name].note
