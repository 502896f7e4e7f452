"""What a source says of a model besides its weights counts, and the configuration has the last word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.cam.layers import Layout
from service.cam.targets import Targets
from service.errors import ModelLoadError
from service.imaging.preprocess import PreprocessSpec
from service.models.host import HowTo

if TYPE_CHECKING:
    from service.models.info import ModelInfo
    from tests.models.conftest import LoadToy

PIXELS = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
SPEC = PreprocessSpec(height=8, width=8)


class Mixed(nn.Module):
    """Mixes the last axis, the channels, as Keras does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, 8, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight).relu()


class ChannelsLast(nn.Module):
    """Its activations are (N, 8, 8, 8): by their numbers, the channels might be on either side."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Mixed(3), Mixed(8)
        self.spare = nn.ParameterDict({"kernel": self.first.weight})
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(x.permute(0, 2, 3, 1))).mean((1, 2)))
        return logits


class TestLayout:
    @pytest.mark.parametrize("layer", ["first", "second"])
    def test_where_the_source_says_where_the_channels_are_the_map_is_right(self, layer: str, load_toy: LoadToy) -> None:
        net = ChannelsLast()
        host = load_toy(net, said={"layout": "NHWC"})
        kept: list[Tensor] = []
        hook = net.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[2]))
        spec = host.info.preprocess
        inputs = (torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255 - torch.tensor(spec.mean).view(3, 1, 1)) / (
            torch.tensor(spec.std).view(3, 1, 1)
        )
        logits = net(inputs.requires_grad_())
        hook.remove()
        (gradient,) = torch.autograd.grad(logits[0, 3], kept)
        expected = (kept[0] * gradient.mean((1, 2), keepdim=True)).sum(-1).relu()[0].detach()

        (answer,) = host.explain(PIXELS, [Targets((3,))], HowTo((layer,), ("gradcam",)))

        assert host.info.layer(layer).layout == Layout("nhwc", 8, 8)
        torch.testing.assert_close(answer.maps[0].values, expected, rtol=1e-5, atol=1e-6)

    def test_without_a_word_of_it_no_map_is_made_of_the_wrong_axes(self, load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match="its cells are no places of the picture"):
            load_toy(ChannelsLast())


def nhwc(load_toy: LoadToy, said: dict[str, Any], **configuration: Any) -> ModelInfo:
    """Load the network as a source would that says more of it than its layout."""
    return load_toy(ChannelsLast(), said={"layout": "NHWC", **said}, **configuration).info


class TestDefaultLayer:
    def test_is_the_sources(self, load_toy: LoadToy) -> None:
        assert nhwc(load_toy, {}).default_layer == "second"
        assert nhwc(load_toy, {"default_layer": "first"}).default_layer == "first"

    def test_the_configurations_comes_before(self, load_toy: LoadToy) -> None:
        assert nhwc(load_toy, {"default_layer": "first"}, layer="second").default_layer == "second"

    def test_one_that_cannot_be_explained_is_passed_over(self, load_toy: LoadToy) -> None:
        assert nhwc(load_toy, {"default_layer": "head"}).default_layer == "second"


def test_what_is_hidden_is_no_layer(load_toy: LoadToy) -> None:
    assert "spare" in [layer.name for layer in nhwc(load_toy, {}).layers]

    info = nhwc(load_toy, {"hidden": frozenset({"spare"})})

    assert [layer.name for layer in info.layers] == ["first", "second", "head"]


class TestActivation:
    def test_is_the_artefacts(self, load_toy: LoadToy) -> None:
        assert nhwc(load_toy, {}).activation == "softmax"
        assert nhwc(load_toy, {"activation": "sigmoid"}).activation == "sigmoid"

    def test_the_configurations_comes_before(self, load_toy: LoadToy) -> None:
        said = {"activation": "sigmoid"}
        assert nhwc(load_toy, said, activation="softmax").activation == "softmax"
        assert nhwc(load_toy, {"activation": "softmax"}, multi_label=True).activation == "sigmoid"


class TestDigest:
    def test_is_the_same_for_the_same(self, load_toy: LoadToy) -> None:
        one, other = (nhwc(load_toy, {}, name=name) for name in ("one", "other"))

        assert one.digest == other.digest
        assert len(one.digest) == 64

    def test_differs_by_one_weight(self, load_toy: LoadToy) -> None:
        changed = ChannelsLast()
        with torch.no_grad():
            changed.second.weight[0, 0] += 1e-6

        assert load_toy(changed, said={"layout": "NHWC"}).info.digest != nhwc(load_toy, {}).digest

    def test_differs_by_the_configuration_and_the_labels(self, load_toy: LoadToy) -> None:
        plain = nhwc(load_toy, {}).digest

        assert nhwc(load_toy, {}, mean=0.1).digest != plain
        assert nhwc(load_toy, {}, labels=("a", "b", "c", "d", "e")).digest != plain

    def test_an_artefacts_own_counts_in_place_of_its_weights(self, load_toy: LoadToy) -> None:
        one, other = (nhwc(load_toy, {"digest": digest}) for digest in ("ab", "cd"))

        assert one.digest != other.digest


class TestScale:
    def test_raw_pixels_reach_a_model_that_wants_them(self, load_toy: LoadToy) -> None:
        net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        net[0].weight = nn.Parameter(torch.eye(3)[:, :, None, None])
        host = load_toy(net, PreprocessSpec(height=8, width=8, scale=1.0, mean=(0,) * 3, std=(1,) * 3))
        white = np.full((1, 8, 8, 3), 255, np.uint8)

        np.testing.assert_allclose(host.predict(white), [[255] * 3])
        assert load_toy(net, scale=0.5, mean=0, std=1).predict(white).tolist() == [[127.5] * 3]

    def test_mean_and_std_are_of_scaled_pixels(self, load_toy: LoadToy) -> None:
        """As Caffe's networks are given them."""
        net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        net[0].weight = nn.Parameter(torch.eye(3)[:, :, None, None])
        host = load_toy(net, scale=1, mean="103.939/116.779/123.68", std=1)

        black = host.predict(np.zeros((1, 8, 8, 3), np.uint8))

        np.testing.assert_allclose(black, [[-103.939, -116.779, -123.68]], rtol=1e-6)
