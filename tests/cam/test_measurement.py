from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.cam.catalogue import probe_layers
from service.cam.eager import EagerNetwork
from service.cam.measurement import apply, measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.cam.layers import Layer

SIZE = 64


class Net(nn.Module):
    """Gives an image to ``body``, whatever that is, and reads the mean over all places."""

    def __init__(self, body: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(_channels_of(body, size), 3)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images)
        logits: Tensor = self.head(features.mean((2, 3)) if features.ndim == 4 else features.mean(1))
        return logits


def _channels_of(body: nn.Module, size: tuple[int, int]) -> int:
    with torch.no_grad():
        features: Tensor = body.eval()(torch.zeros(1, 3, *size))
    return features.shape[1] if features.ndim == 4 else features.shape[2]


class Tokens(nn.Module):
    """8 × 8 patches of 8 × 8 pixels as tokens, brought to some order, with special tokens among them."""

    def __init__(self, arrange: Callable[[Tensor, Tensor], Tensor], special: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.special = nn.Parameter(torch.randn(1, special, 16))
        self.norm = nn.LayerNorm(16)
        self._arrange = arrange

    def forward(self, images: Tensor) -> Tensor:
        tokens = self._arrange(self.patches(images), self.special.expand(len(images), -1, -1))
        normed: Tensor = self.norm(tokens + 0.2 * tokens.mean(1, keepdim=True))  # every token hears of all others
        return normed


def rows(patches: Tensor) -> Tensor:
    return patches.flatten(2).transpose(1, 2)


def by_windows(patches: Tensor, _special: Tensor) -> Tensor:
    n, channels = patches.shape[:2]
    return patches.view(n, channels, 4, 2, 4, 2).permute(0, 2, 4, 3, 5, 1).reshape(n, 64, channels)


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, images: Tensor) -> Tensor:
        return self._function(images)


def measured(body: nn.Module, name: str, size: tuple[int, int] = (SIZE, SIZE)) -> Layer:
    network = EagerNetwork(Net(body, size).eval().requires_grad_(requires_grad=False))
    noise = torch.rand(5, 3, *size, generator=torch.Generator().manual_seed(0))
    layers = [layer for layer in probe_layers(network, noise[:2]) if layer.explainable]
    (layer,) = [layer for layer in layers if layer.name == name]
    findings = measure(network, noise, layers)
    return apply(layer, findings[layer.call])


def stack(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules)


@pytest.mark.parametrize(
    ("windows", "start", "step"),
    [
        # Patches: cell j covers pixels 8 j to 8 j + 8.
        (stack(nn.AvgPool2d(8)), 4, 8),
        # 5/4 without padding: cell j covers 4 j to 4 j + 5. Stretched over the input, cells would lie up to 1.9 px off.
        (stack(nn.AvgPool2d(5, 4)), 2.5, 4),
        # 3/2/1 three times: cell j is centred on the middle of pixel 8 j, half a cell from where stretching puts it.
        (stack(*(nn.AvgPool2d(3, 2, 1) for _ in range(3))), 0.5, 8),
        # 7/2/3, then 3/2/1: the beginning of a ResNet.
        (stack(nn.AvgPool2d(7, 2, 3), nn.AvgPool2d(3, 2, 1)), 0.5, 4),
    ],
)
def test_windows_by_hand(windows: nn.Module, start: float, step: float) -> None:
    placement = measured(windows, "body").placement

    assert placement is not None
    assert placement.by == "measured"
    for axis in (placement.x, placement.y):
        assert axis.step == pytest.approx(step, rel=0.04)
        middle = SIZE / 2 / step  # in cells: there the fit is surest
        assert axis.start + middle * axis.step == pytest.approx(start + middle * step, abs=1)


def test_rows_and_columns_may_differ() -> None:
    placement = measured(stack(nn.AvgPool2d((4, 4), (8, 8)), Apply(lambda cells: cells)), "body").placement

    assert placement is not None
    assert placement.x.start == pytest.approx(2, abs=1.5)
    assert placement.y.step == pytest.approx(8, rel=0.04)


def test_a_mirrored_view_is_turned_back() -> None:
    placement = measured(stack(Apply(lambda images: images.flip(3)), nn.AvgPool2d(8)), "body.1").placement

    assert placement is not None
    assert placement.x.start == pytest.approx(60, abs=1.5)
    assert placement.x.step == pytest.approx(-8, rel=0.04)
    assert placement.y.start == pytest.approx(4, abs=1.5)
    assert placement.y.step == pytest.approx(8, rel=0.04)


def test_a_cropped_view_is_drawn_where_it_was_cut_out() -> None:
    placement = measured(stack(Apply(lambda images: images[:, :, 16:48, 16:48]), nn.AvgPool2d(4)), "body.1").placement

    assert placement is not None
    assert placement.x.start == pytest.approx(18, abs=1.5)
    assert placement.x.step == pytest.approx(4, rel=0.06)


def test_a_transposed_grid_is_turned() -> None:
    layer = measured(stack(nn.AvgPool2d(8), Apply(lambda cells: cells.transpose(2, 3))), "body.1")

    assert layer.layout is not None
    grid = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(layer.to_nchw(grid), grid.transpose(2, 3))
    assert "another order" in str(layer.note)


@pytest.mark.parametrize(
    ("arrange", "special", "expected"),
    [
        (lambda patches, _: rows(patches), 0, list(range(64))),
        (lambda patches, special: torch.cat([special, rows(patches)], 1), 2, list(range(2, 66))),
        (lambda patches, special: torch.cat([rows(patches), special], 1), 1, list(range(64))),
        (
            lambda patches, special: torch.cat([rows(patches)[:, :30], special, rows(patches)[:, 30:]], 1),
            3,
            [*range(30), *range(33, 67)],
        ),
        (
            lambda patches, _: rows(patches.transpose(2, 3)),
            0,
            [column * 8 + row for row in range(8) for column in range(8)],
        ),
        (by_windows, 0, by_windows(torch.arange(64).view(1, 1, 8, 8), torch.empty(0)).flatten().argsort().tolist()),
    ],
    ids=["row by row", "special first", "special last", "special in the middle", "column by column", "by windows"],
)
def test_tokens_are_put_where_they_look(
    arrange: Callable[[Tensor, Tensor], Tensor], special: int, expected: list[int]
) -> None:
    layer = measured(Tokens(arrange, special), "body.norm")

    assert layer.layout is not None
    numbers = torch.arange(64.0 + special).view(1, -1, 1)
    assert layer.to_nchw(numbers).flatten().tolist() == expected
    assert layer.placement is not None
    assert layer.placement.x.step == pytest.approx(8, rel=0.04)


def test_what_was_brought_to_the_pictures_order_goes_back_to_the_networks() -> None:
    layout = measured(Tokens(by_windows), "body.norm").layout

    assert layout is not None
    tokens = torch.randn(1, 64, 16)
    assert torch.equal(layout.from_nchw(layout.to_nchw(tokens), tokens), tokens)


class Patches(nn.Module):
    """8 × 8 patches of what ``prepare`` makes of the image as tokens, and attention among them."""

    def __init__(self, prepare: Callable[[Tensor], Tensor], attention: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.prepare, self.attention = prepare, attention
        self.patches, self.norm = nn.Conv2d(3, 16, 8, 8), nn.LayerNorm(16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.norm(rows(self.patches(self.prepare(images))))
        return self.block(tokens) if self.attention else tokens


class TestAnotherAspectInside:
    """A network that resizes or pads its input: cells are put where they look in the picture that it was given."""

    @pytest.mark.parametrize("inside", [(128, 64), (64, 128), (32, 128), (96, 32)])
    def test_tokens_of_a_resized_picture_have_the_grid_of_their_patches(self, inside: tuple[int, int]) -> None:
        layer = measured(Patches(lambda images: functional.interpolate(images, inside), attention=False), "body.norm")

        assert layer.grid == (inside[0] // 8, inside[1] // 8)
        assert layer.placement is not None
        assert layer.placement.by == "measured"
        for axis, pixels in ((layer.placement.y, inside[0]), (layer.placement.x, inside[1])):
            assert axis.step == pytest.approx(8 * SIZE / pixels, rel=0.06)
            assert axis.start == pytest.approx(4 * SIZE / pixels, abs=1.5)

    @pytest.mark.parametrize("attention", [False, True])
    @pytest.mark.parametrize(
        ("size", "padding", "start"),
        [
            ((64, 32), (0, 32, 0, 0), (4, 4)),
            ((64, 32), (16, 16, 0, 0), (-12, 4)),
            ((32, 64), (0, 0, 32, 0), (4, -28)),
            ((64, 64), (32, 32, 32, 32), (-28, -28)),
            ((64, 64), (0, 64, 0, 0), (4, 4)),
            ((64, 64), (64, 0, 0, 64), (-60, 4)),
        ],
    )
    def test_cells_that_look_at_padding_lie_beside_the_picture(
        self, size: tuple[int, int], padding: tuple[int, ...], start: tuple[int, int], attention: bool
    ) -> None:
        body = Patches(lambda images: functional.pad(images, padding), attention)
        layer = measured(body, "body.block.norm2" if attention else "body.patches", size)

        assert layer.placement is not None
        assert layer.placement.by == "measured"
        for axis, first in zip((layer.placement.x, layer.placement.y), start, strict=True):
            assert axis.step == pytest.approx(8, rel=0.06)
            middle = -first / 8 + 4  # where the picture is, in cells
            assert axis.start + middle * axis.step == pytest.approx(first + middle * 8, abs=1.5)

    def test_attention_that_looks_nearly_everywhere_is_where_its_patches_are_and_says_so(self) -> None:
        body = Patches(lambda images: functional.interpolate(images, (64, 128)), attention=True)
        layer = measured(body, "body.block.self_attn")

        assert layer.placement is not None
        assert layer.placement.x.step == pytest.approx(4, rel=0.06)
        assert "put where those of an earlier layer of the same grid look" in str(layer.note)

    @pytest.mark.parametrize("turn", [lambda images: images.rot90(1, (2, 3)), lambda images: images.transpose(2, 3)])
    def test_a_picture_on_its_side_is_refused_by_that_name(self, turn: Callable[[Tensor], Tensor]) -> None:
        layer = measured(stack(Apply(turn), nn.AvgPool2d(8)), "body.1", (64, 32))

        assert not layer.explainable
        assert "it sees the picture on its side" in str(layer.note)

    def test_tokens_whose_grid_nothing_tells_are_refused(self) -> None:
        """128 tokens are 11 × 11 and 7 special ones, too."""
        unfolded = Apply(lambda images: functional.unfold(functional.interpolate(images, (128, 64)), 8, stride=8).mT)
        layer = measured(stack(unfolded, nn.LayerNorm(192)), "body.1")

        assert not layer.explainable
        assert "no grid in the order of the cells" in str(layer.note)


@pytest.mark.parametrize(
    "move",
    [
        lambda cells: cells.roll(4, 3),
        lambda cells: cells.roll((3, 3), (2, 3)),
        lambda cells: cells[:, :, [3, 0, 6, 1, 7, 4, 2, 5]],
    ],
    ids=["rolled across", "rolled", "rows in another order"],
)
def test_a_grid_that_is_cut_and_put_together_otherwise_is_refused(move: Callable[[Tensor], Tensor]) -> None:
    layer = measured(stack(nn.AvgPool2d(8), Apply(move)), "body.1")

    assert not layer.explainable
    assert "no grid in the order of the cells" in str(layer.note)


def test_copies_of_one_cell_are_no_places() -> None:
    layer = measured(stack(nn.AvgPool2d(8), nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=4)), "body.2")

    assert not layer.explainable
    assert "all its cells look at the same part" in str(layer.note)


def test_mixtures_of_all_cells_are_no_places() -> None:
    torch.manual_seed(0)
    mix = torch.randn(64, 64)
    layer = measured(Tokens(lambda patches, _: mix @ rows(patches)), "body.norm")

    assert not layer.explainable
    assert "no places" in str(layer.note)


def test_a_layer_that_answers_to_nothing_is_stretched() -> None:
    layer = measured(stack(nn.AvgPool2d(8), Apply(lambda cells: 0 * cells)), "body.1")

    assert layer.explainable
    assert layer.placement is not None
    assert layer.placement.by == "stretch"
    assert "stretched over the model's input" in str(layer.note)


def test_what_is_changed_in_place_behind_a_layer_was_measured_before() -> None:
    torch.manual_seed(0)
    layer = measured(stack(nn.Conv2d(3, 8, 8, 8), nn.ReLU(inplace=True)), "body.0")

    assert layer.placement is not None
    assert layer.placement.residual is not None
    assert layer.placement.residual < 0.5
    assert layer.placement.x.step == pytest.approx(8, rel=0.02)
