"""How a picture becomes a model's input: channels, their order, size, and the scale of mean and std."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.cam.targets import Targets
from service.errors import ModelLoadError
from service.imaging.preprocess import PreprocessSpec
from service.models.host import HowTo
from service.models.inputs import Probe
from tests.models.test_host import MeanColour, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.models.info import ModelInfo
    from tests.models.conftest import LoadToy

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Grey(nn.Module):
    """Three classes of one channel: its mean, twice that, and nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 1, bias=False)
        self.first.weight = nn.Parameter(torch.tensor([1.0, 2.0, 0.0]).view(3, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        means: Tensor = self.first(x).mean((2, 3))
        return means


def grey(*values: int) -> NDArray[np.uint8]:
    """One grey image per value, (N, 8, 8, 1)."""
    return np.stack([np.full((8, 8, 1), value, dtype=np.uint8) for value in values])


def codes(info: ModelInfo) -> list[str]:
    return [warning.code for warning in info.warnings]


class TestChannels:
    def test_one_is_normalised_by_one_number(self, load_toy: LoadToy) -> None:
        host = load_toy(Grey(), channels=1, mean=0.2, std=0.4)

        spec = host.info.preprocess
        assert (spec.channels, spec.mean, spec.std, codes(host.info)) == (1, (0.2,), (0.4,), [])
        # White: (1 - 0.2) / 0.4 = 2. Black: -0.2 / 0.4 = -0.5.
        np.testing.assert_allclose(host.predict(grey(255, 0)), [[2.0, 4.0, 0.0], [-0.5, -1.0, 0.0]], atol=1e-6)

    def test_one_has_maps_by_all_methods_that_look_at_the_input(self, load_toy: LoadToy) -> None:
        host = load_toy(Grey(), channels=1, mean=0, std=1)

        how = HowTo(("first",), ("gradcam", "scorecam", "smoothgradcam++", "fullgrad"))
        (answer,) = host.explain(grey(200), [Targets((1,))], how)
        assert [tuple(raw.values.shape) for raw in answer.maps] == [(8, 8)] * 4

    def test_without_numbers_of_its_own_one_takes_the_average_and_says_so(self, load_toy: LoadToy) -> None:
        info = load_toy(Grey(), PreprocessSpec(height=8, width=8), channels=1).info

        assert info.preprocess.mean == pytest.approx([0.449])
        assert info.preprocess.std == pytest.approx([0.226])
        (warning,) = info.warnings
        assert warning.code == "assumed_normalisation"
        assert "mean=0.449, std=0.226" in warning.text

    def test_a_mean_alone_leaves_std_assumed(self, load_toy: LoadToy) -> None:
        (warning,) = load_toy(Grey(), PreprocessSpec(height=8, width=8), channels=1, mean=0).info.warnings

        assert "std=0.226" in warning.text
        assert "mean=0.4" not in warning.text

    def test_three_different_numbers_are_not_for_one_channel(self, load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match=r"mean and std must have one number per channel, 1, not \(0\.1, 0\.2"):
            load_toy(Grey(), channels=1, mean="0.1/0.2/0.3", std=1)

    @pytest.mark.parametrize("channels", [2, 4, 12])
    def test_others_have_a_number_each(self, channels: int, load_toy: LoadToy) -> None:
        mean = "/".join(str(index / 20) for index in range(channels))
        host = load_toy(MeanColour(), channels=channels, mean=mean, std=0.5)

        pixels = np.full((1, 8, 8, channels), 255, np.uint8)
        expected = [[(1 - index / 20) / 0.5 for index in range(channels)]]
        assert codes(host.info) == []
        np.testing.assert_allclose(host.predict(pixels), expected, atol=1e-6)

    def test_others_have_maps_by_all_methods_that_look_at_the_input(self, load_toy: LoadToy) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(6, 3, 1), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten())
        host = load_toy(net, channels=6, mean=0.5, std=0.5)

        how = HowTo(("0",), ("gradcam", "scorecam", "smoothgradcam++", "fullgrad", "ablationcam"))
        pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 6), dtype=np.uint8)
        (answer,) = host.explain(pixels, [Targets((1,))], how)
        assert [tuple(raw.values.shape) for raw in answer.maps] == [(8, 8)] * 5

    def test_others_without_numbers_take_the_average_and_say_so(self, load_toy: LoadToy) -> None:
        info = load_toy(MeanColour(), PreprocessSpec(height=8, width=8), channels=4).info

        assert info.preprocess.mean == pytest.approx([0.449] * 4)
        assert "It takes 4 channels, and no normalisation is configured" in info.warnings[0].text

    @pytest.mark.parametrize(
        ("takes", "given", "hint"),
        [
            (1, 3, r"Its first convolution takes 1 channels: set channels=1\."),
            (3, 1, r"Its first convolution takes 3 channels: set channels=3\."),
            (4, 3, r"Its first convolution takes 4 channels: set channels=4\."),
        ],
    )
    def test_a_model_that_takes_others_says_so(self, takes: int, given: int, hint: str, load_toy: LoadToy) -> None:
        module = nn.Sequential(nn.Conv2d(takes, 3, 1), nn.AvgPool2d(8), nn.Flatten())

        with pytest.raises(ModelLoadError, match=hint):
            load_toy(module, channels=given, mean=0, std=1)


class TestOrder:
    def test_bgr_is_swapped_before_mean_and_std(self, load_toy: LoadToy) -> None:
        host = load_toy(MeanColour(), order="BGR", mean="0/0.2/0.5", std="1/0.4/0.25")

        # Red, and blue: as the model takes them, (0, 0, 1) and (1, 0, 0); then less the mean, divided by std.
        expected = [[0, -0.5, 2], [1, -0.5, -2]]
        np.testing.assert_allclose(host.predict(plain((255, 0, 0), (0, 0, 255))), expected, atol=1e-6)

    def test_what_the_source_knows_of_colours_goes_with_them(self, load_toy: LoadToy) -> None:
        host = load_toy(MeanColour(), PreprocessSpec(height=8, width=8), order="BGR")

        assert (host.info.preprocess.mean, host.info.preprocess.std) == tuple(values[::-1] for values in IMAGENET)
        rgb = load_toy(MeanColour(), PreprocessSpec(height=8, width=8))
        colours = plain((10, 200, 90))
        np.testing.assert_allclose(host.predict(colours), rgb.predict(colours).flip(1), atol=1e-6)

    def test_caffes_numbers(self, load_toy: LoadToy) -> None:
        """Pixels in 0–255, blue first, less 104, 117 and 123, not divided: a std of 1/255."""
        mean, std = "/".join(f"{value / 255:.7f}" for value in (104, 117, 123)), f"{1 / 255:.7f}"
        host = load_toy(MeanColour(), order="BGR", mean=mean, std=std)

        np.testing.assert_allclose(host.predict(plain((124, 120, 100))), [[-4, 3, 1]], atol=1e-3)

    @pytest.mark.parametrize(
        ("order", "mean", "warned"),
        [
            ("RGB", "0.407843/0.458824/0.482353", ["order_suspected"]),  # Caffe's 104, 117, 123: blue first
            ("RGB", "0.406/0.456/0.485", ["order_suspected"]),
            ("BGR", "0.485/0.456/0.406", ["order_suspected"]),
            ("BGR", "0.4076/0.4580/0.4850", []),
            ("RGB", "0.485/0.456/0.406", []),
            ("RGB", "0.5", []),
            ("RGB", "0.41/0.47/0.49", []),  # a data set's own
        ],
    )
    def test_a_mean_of_imagenet_the_other_way_round_is_warned_of(
        self, order: str, mean: str, warned: list[str], load_toy: LoadToy
    ) -> None:
        info = load_toy(MeanColour(), order=order, mean=mean, std="1").info

        assert codes(info) == warned
        assert all("Set order=" in warning.text for warning in info.warnings)

    def test_grey_has_none(self, load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match="impossible preprocessing: an order is of three channels, not of 1"):
            load_toy(Grey(), channels=1, order="BGR", mean=0, std=1)


def test_what_the_source_knows_of_channels_holds_where_nothing_is_configured(load_toy: LoadToy) -> None:
    bgr = PreprocessSpec(height=8, width=8, order="BGR")
    grey_source = PreprocessSpec(height=8, width=8, mean=(0.5,), std=(0.5,), channels=1)

    assert load_toy(MeanColour(), bgr).info.preprocess == bgr
    assert load_toy(Grey(), grey_source).info.preprocess == grey_source
    assert load_toy(MeanColour(), bgr, order="RGB").info.preprocess.mean == bgr.mean[::-1]


def test_jpegs_are_reduced_only_where_that_is_configured(load_toy: LoadToy) -> None:
    assert load_toy(Grey(), channels=1).info.preprocess.decoding == "full"
    assert load_toy(Grey(), channels=1, decoding="reduced").info.preprocess.decoding == "reduced"


class TestScale:
    @pytest.mark.parametrize(
        ("mean", "std", "right"),
        [
            ("123.675/116.28/103.53", "58.395/57.12/57.375", "mean=0.485/0.456/0.406,std=0.229/0.224/0.225"),
            ("127.5", "127.5", "mean=0.5/0.5/0.5,std=0.5/0.5/0.5"),
            ("104/117/123", "1", "mean=0.407843/0.458824/0.482353,std=0.00392157/0.00392157/0.00392157"),
            ("123.675/116.28/103.53", "0.229/0.224/0.225", "mean=0.485/0.456/0.406,std=0.229/0.224/0.225"),
            ("0", "255", "mean=0/0/0,std=1/1/1"),
        ],
    )
    def test_of_0_to_255_is_refused_with_what_to_write(
        self, mean: str, std: str, right: str, load_toy: LoadToy
    ) -> None:
        with pytest.raises(ModelLoadError) as caught:
            load_toy(MeanColour(), mean=mean, std=std)

        assert "as of pixels in 0–255; here they are of pixels scaled to 0–1" in caught.value.message
        assert caught.value.message.endswith(f"that is {right}.")

    def test_the_line_to_write_is_right(self, load_toy: LoadToy) -> None:
        host = load_toy(MeanColour(), mean="0.485/0.456/0.406", std="0.229/0.224/0.225")

        expected = [(np.array([10, 20, 30]) - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)]
        np.testing.assert_allclose(host.predict(plain((10, 20, 30))), expected, atol=1e-5)

    @pytest.mark.parametrize(("mean", "std"), [("0", "1"), ("0.5", "0.5"), ("0", "0.0039216"), ("1", "1")])
    def test_of_0_to_1_is_taken(self, mean: str, std: str, load_toy: LoadToy) -> None:
        assert load_toy(MeanColour(), mean=mean, std=std).info.preprocess.std == (float(std),) * 3


class TestSize:
    SOURCE = PreprocessSpec(mode="crop", height=8, width=8, resize=10)

    @pytest.mark.parametrize(
        ("configured", "expected"),
        [
            ({"height": 16, "width": 24}, (16, 24, 30)),  # the width grows threefold: 10 · 3
            ({"height": 16}, (16, 8, 20)),
            ({"width": 12}, (8, 12, 15)),
            ({"height": 16, "width": 24, "resize": 24}, (16, 24, 24)),
            ({"height": 16, "width": 24, "mode": "squash"}, (16, 24, None)),
        ],
        ids=str,
    )
    def test_need_not_be_square(
        self, configured: dict[str, Any], expected: tuple[int, int, int | None], load_toy: LoadToy
    ) -> None:
        host = load_toy(MeanColour(), self.SOURCE, **configured)

        spec = host.info.preprocess
        assert (spec.height, spec.width, spec.resize) == expected
        assert host.info.layer("pixels").shape == (3, *expected[:2])

    def test_both_ways_at_once_contradict_each_other(self, load_toy: LoadToy) -> None:
        with pytest.raises(ValueError, match="size is height and width in one"):
            load_toy(MeanColour(), size=16, width=8)

    def test_a_map_is_the_right_way_round(self, load_toy: LoadToy) -> None:
        host = load_toy(MeanColour(), height=8, width=12, mean=0, std=1)
        pixels = np.zeros((1, 8, 12, 3), np.uint8)
        pixels[0, 2, 10, 0] = 255

        (answer,) = host.explain(pixels, [Targets((0,))], HowTo(("pixels",), ("gradcam",)))

        assert tuple(answer.maps[0].values.shape) == (8, 12)
        assert int(answer.maps[0].values.argmax()) == 2 * 12 + 10


@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_is_tried_with_pictures_of_every_kind(channels: int) -> None:
    spec = PreprocessSpec(height=8, width=12, channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    pictures = torch.cat(list(Probe(spec, torch.device("cpu"), torch.float32).pictures()))

    assert len(pictures) > 20
    assert pictures.shape[1:] == (channels, 8, 12)
    assert (float(pictures.min()), float(pictures.max())) == (0.0, 1.0)
    assert bool((pictures == 0).flatten(1).all(1).any()), "black is among them"
    assert bool((pictures == 1).flatten(1).all(1).any()), "white is among them"
