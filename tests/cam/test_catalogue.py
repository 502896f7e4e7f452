from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from service.cam.catalogue import probe_layers
from service.cam.layers import Layout, find_layout
from tests.cam.models import ChannelsLast, Plain, Residual, Tokens, frozen, pictures


@pytest.mark.parametrize(
    ("shape", "input_size", "layout"),
    [
        ((2, 512, 7, 7), (224, 224), Layout("nchw", 7, 7)),
        ((2, 7, 7, 768), (224, 224), Layout("nhwc", 7, 7)),
        ((2, 14, 14, 14), (224, 224), Layout("nchw", 14, 14)),
        ((2, 197, 768), (224, 224), Layout("tokens", 14, 14, prefix=1)),
        ((2, 196, 768), (224, 224), Layout("tokens", 14, 14)),
        ((2, 201, 768), (224, 224), Layout("tokens", 14, 14, prefix=5)),
        ((2, 64, 7, 10), (224, 320), Layout("nchw", 7, 10)),
        ((2, 7, 11, 64), (224, 336), Layout("nhwc", 7, 11)),
        ((2, 71, 64), (224, 320), Layout("tokens", 7, 10, prefix=1)),
        ((2, 64, 49, 96), (224, 224), None),  # windows of tokens
        ((2, 1000), (224, 224), None),
        ((2, 64, 300, 300), (224, 224), None),  # finer than the picture: not a grid of it
    ],
)
def test_grids_are_recognised(shape: tuple[int, ...], input_size: tuple[int, int], layout: Layout | None) -> None:
    assert find_layout(shape, *input_size) == layout


def test_tokens_become_a_grid_in_row_major_order_without_the_special_ones() -> None:
    tokens = torch.tensor([[[100.0], [0.0], [1.0], [2.0], [3.0], [4.0], [5.0]]])  # (1, 1 + 2·3, 1)
    assert Layout("tokens", 2, 3, prefix=1).to_nchw(tokens).tolist() == [[[[0, 1, 2], [3, 4, 5]]]]


def test_channels_last_become_channels_first() -> None:
    output = torch.arange(12.0).view(1, 2, 2, 3)
    assert Layout("nhwc", 2, 2).to_nchw(output)[0, 0].tolist() == [[0, 3], [6, 9]]


def test_rows_come_in_forward_order_with_shapes_and_strides() -> None:
    layers = probe_layers(frozen(Plain()), pictures(2))
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


def test_branches_are_told_from_the_trunk() -> None:
    by_name = {layer.name: layer for layer in probe_layers(frozen(Residual()), pictures(2))}
    assert "parallel paths" in (by_name["branch"].note or "")
    assert by_name["stem"].note is None
    assert by_name["block"].note is None
    # The second call sits in the branch, the others in the trunk.
    assert by_name["relu:0"].note == "call 0 of 3 of this module"
    assert "parallel paths" in (by_name["relu:1"].note or "")
    assert by_name["relu:2"].note == "call 2 of 3 of this module"


def test_layers_behind_which_only_the_class_token_is_read_are_refused() -> None:
    by_name = {layer.name: layer for layer in probe_layers(frozen(Tokens()), pictures(2))}
    assert by_name["norm1"].explainable
    assert by_name["norm1"].shape == (8, 4, 4)
    assert not by_name["norm2"].explainable
    assert "only the class token is read" in (by_name["norm2"].note or "")
    assert by_name["attention"].note == "its output is not a single tensor"


def test_channels_last_grids_have_their_channels_first_in_the_catalogue() -> None:
    by_name = {layer.name: layer for layer in probe_layers(frozen(ChannelsLast()), pictures(2))}
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
    layers = probe_layers(frozen(Refused()), pictures(2))
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


@pytest.mark.parametrize("build", [Plain, Residual, Tokens, ChannelsLast])
def test_probing_leaves_no_trace(build: type[nn.Module]) -> None:
    model, inputs = frozen(build()), pictures(2)
    before = model(inputs)
    probe_layers(model, inputs)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not inputs.requires_grad
    assert torch.equal(model(inputs), before)
