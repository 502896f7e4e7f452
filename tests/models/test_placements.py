from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from service.cam import measurement
from service.cam.catalogue import probe_layers
from service.cam.eager import EagerNetwork
from service.errors import LayerNotExplainable
from service.imaging.preprocess import PreprocessSpec
from service.models import placements
from service.models.placements import images_to_measure, place_layers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.models.conftest import LoadToy

SPEC = PreprocessSpec(mode="squash", height=32, width=32, resize=None, mean=(0.5,) * 3, std=(0.5,) * 3)


class Patches(nn.Module):
    """4 × 4 patches as tokens; ``column_major`` changes their order, and neither the weights nor the logits."""

    def __init__(self, *, column_major: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)
        self._column_major = column_major

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images)
        patches = patches.transpose(2, 3) if self._column_major else patches
        tokens = self.norm(patches.flatten(2).transpose(1, 2))
        logits: Tensor = self.head(tokens.mean(1))
        return logits


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often networks are measured."""
    times: list[int] = []

    def count(*arguments: object) -> object:
        times.append(1)
        return measurement.measure(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(placements, "measure", count)
    return times


def test_what_was_measured_is_kept(load_toy: LoadToy, asked: list[int]) -> None:
    first, second = (load_toy(Patches(), SPEC).info for _ in range(2))

    assert len(asked) == 1
    assert first.layers == second.layers
    placement = first.layer("norm").placement
    assert placement is not None
    assert placement.by == "measured"


def test_other_weights_are_measured_anew(load_toy: LoadToy, asked: list[int]) -> None:
    other = Patches()
    with torch.no_grad():
        other.head.bias.add_(1)
    for module in (Patches(), other):
        load_toy(module, SPEC)

    assert len(asked) == 2


def test_other_code_for_the_same_weights_is_measured_anew(load_toy: LoadToy, asked: list[int]) -> None:
    rows = load_toy(Patches(), SPEC).info.layer("norm").layout
    columns = load_toy(Patches(column_major=True), SPEC).info.layer("norm").layout

    assert len(asked) == 2
    assert rows is not None
    assert columns is not None
    assert rows.order is None
    assert columns.order == tuple(column * 4 + row for row in range(4) for column in range(4))


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "[1]", '[{"module": "norm"}]', "null"])
def test_a_damaged_file_is_measured_again(load_toy: LoadToy, asked: list[int], tmp_path: Path, content: str) -> None:
    before = load_toy(Patches(), SPEC).info.layers
    (file,) = (tmp_path / "cache" / "placements").iterdir()
    file.write_text(content)

    assert load_toy(Patches(), SPEC).info.layers == before
    assert len(asked) == 2
    assert len(json.loads(file.read_text())) > 1


def test_a_folder_that_cannot_be_written_is_no_error(load_toy: LoadToy, tmp_path: Path, asked: list[int]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    for _ in range(2):
        assert load_toy(Patches(), SPEC).info.layer("norm").placement is not None

    assert len(asked) == 2


@pytest.mark.parametrize(
    ("channels", "images"),
    # 2 · 3 · 15² operations per channel and pixel, of which there are 65,536: 88 million per channel.
    [(2, 5), (50, 3), (130, 2)],
)
def test_small_networks_are_measured_with_more_images(channels: int, images: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, channels, 15, padding=7), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    assert images_to_measure(EagerNetwork(network.eval()), torch.zeros(2, 3, 256, 256)) == images


class SequenceFirst(nn.Module):
    """Tokens as nn.TransformerEncoder has them by default: (T, N, C)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.patches(images).flatten(2).permute(2, 0, 1))
        logits: Tensor = self.head(tokens.mean(0))
        return logits


def test_layers_of_sequences_are_kept_too(load_toy: LoadToy, asked: list[int]) -> None:
    first, second = (load_toy(SequenceFirst(), SPEC).info for _ in range(2))

    assert len(asked) == 1
    assert first.layers == second.layers
    placement = second.layer("norm").placement
    assert placement is not None
    assert placement.by == "measured"


def test_a_state_that_is_no_tensor_is_no_trouble(load_toy: LoadToy) -> None:
    class Counting(Patches):
        def get_extra_state(self) -> object:
            return {"seen": 3}

        def set_extra_state(self, state: object) -> None:
            """It has none to keep."""

    assert load_toy(Counting(), SPEC).info.layer("norm").placement is not None


def test_a_network_that_takes_batches_apart_is_stretched(load_toy: LoadToy) -> None:
    class Chunked(Patches):
        def forward(self, images: Tensor) -> Tensor:
            return torch.cat([super(Chunked, self).forward(part) for part in torch.split(images, 5)])

    placement = load_toy(Chunked(), SPEC).info.layer("norm").placement

    assert placement is not None
    assert placement.by == "stretch"


def test_findings_of_one_head_hold_for_the_others(load_toy: LoadToy, asked: list[int]) -> None:
    class TwoHeads(Patches):
        """The first reads the tokens, the second a convolution beside them."""

        def __init__(self) -> None:
            super().__init__()
            self.beside = nn.Conv2d(3, 5, 8, 8)

        def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"main": super().forward(images), "beside": self.beside(images).mean((2, 3))}

    info = load_toy(TwoHeads(), SPEC, head="main").info
    view = info.head_view("beside")

    assert len(asked) == 1
    assert info.layer("default").name == "norm"
    assert view.layer("default").name == "beside"
    for name, row in (("norm", info), ("beside", view)):
        placement = row.layer(name).placement
        assert placement is not None
        assert placement.by == "measured"
    with pytest.raises(LayerNotExplainable):
        view.layer("norm")


class Smoothed(nn.Module):
    """One channel: how yellow the picture is, smoothed by the windows that ResNets have before their third stage."""

    def __init__(self) -> None:
        super().__init__()
        windows = [nn.Conv2d(1, 1, 3, 2, 1, bias=False) for _ in range(3)]
        stem = nn.Conv2d(3, 1, 7, 2, 3, bias=False)
        self.body = nn.Sequential(stem, nn.ReLU(), *windows)
        self.head = nn.Linear(1, 3)
        with torch.no_grad():
            stem.weight.copy_(torch.tensor([1.0, 1.0, -2.0])[:, None, None].expand(3, 7, 7) / 49)
            for window in windows:
                window.weight.fill_(1 / 9)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean((2, 3)))
        return logits


@pytest.mark.parametrize("seed", [0, 1])
def test_cells_of_one_channel_are_placed_within_a_pixel(tmp_path: Path, seed: int) -> None:
    network = EagerNetwork(Smoothed().eval().requires_grad_(requires_grad=False))
    noise = torch.rand(3, 3, 160, 160, generator=torch.Generator().manual_seed(seed))
    layers = probe_layers(network, noise[:2])

    placed = place_layers(network, "its weights", noise, {None: layers}, tmp_path)[None]

    placement = next(layer.placement for layer in placed if layer.name == "body.4")
    assert placement is not None
    assert placement.by == "measured"
    for axis in (placement.x, placement.y):
        assert max(abs(axis.start + axis.step * cell - (16 * cell + 0.5)) for cell in range(10)) < 1
