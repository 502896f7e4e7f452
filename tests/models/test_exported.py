"""Programs of torch.export: explained as the networks that they were exported from."""

from __future__ import annotations

import zipfile
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export
from torch.nn import functional

from service.cam.targets import Targets
from service.errors import ModelLoadError
from service.models.host import HowTo
from service.models.loading import load_model
from service.models.sources.exported import load, reads
from service.models.torchvision_adapter import torchvision
from service.settings import ModelConfig
from tests.direct_cam import assert_maps_are_direct, normalised

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from service.models.host import ModelHost
    from service.models.sources.source import Downloads

ANY_BATCH = ({0: Dim("batch")},)
# torch uses what it has deprecated itself while it exports.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def exported(net: nn.Module, file: Path, *size: int, shapes: Any = ANY_BATCH, train: bool = False) -> Path:
    """Export ``net`` for inputs of ``size``."""
    torch.export.save(export(net.train(train), (torch.randn(size),), dynamic_shapes=shapes), file)
    return file


def served(file: Path, offline: Downloads, **configuration: Any) -> ModelHost:
    return load_model(ModelConfig(architecture=str(file), name="mine", **configuration), "cpu", offline)


class Grey(nn.Module):
    """One channel in, one logit out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 1, 1))
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        logit: Tensor = self.head(self.body(x).relu().mean((2, 3)))
        return logit


class Attending(nn.Module):
    """Patches that attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.patches, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(functional.scaled_dot_product_attention(tokens, tokens, tokens).mean(1))
        return logits


def small(channels: int = 3) -> nn.Sequential:
    """A network that takes no time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


NETS: dict[str, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    "resnet18": (torchvision.models.resnet18, ("layer4", "layer3.0", "layer2.1.conv1")),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, ("features", "features.6", "features.3.block.0")),
    "shufflenet_v2_x0_5": (torchvision.models.shufflenet_v2_x0_5, ("conv5", "stage3", "stage2.0.branch2")),
    "densenet121": (torchvision.models.densenet121, ("features", "features.transition2", "features.denseblock2")),
}


class TestMaps:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", NETS)
    def test_are_those_of_the_network_itself(self, name: str, tmp_path: Path, offline: Downloads) -> None:
        build, layers = NETS[name]
        torch.manual_seed(0)
        net = settled(build(num_classes=5))
        host = served(exported(net, tmp_path / "net.pt2", 2, 3, 64, 96), offline)

        check_maps(host, net.eval(), layers, (0, 2, 4))
        assert (host.info.preprocess.height, host.info.preprocess.width) == (64, 96)

    def test_of_one_channel_and_one_logit(self, tmp_path: Path, offline: Downloads) -> None:
        net = Grey()
        host = served(exported(net, tmp_path / "grey.pt2", 2, 1, 40, 24), offline)

        assert host.info.preprocess.channels == 1
        assert host.info.labels == ("class 0", "class 1")
        check_maps(host, net.eval(), ("body", "body.0", "body.2"), (1,))

    def test_of_five_channels(self, tmp_path: Path, offline: Downloads) -> None:
        net = small(5)
        host = served(exported(net, tmp_path / "bands.pt2", 2, 5, 32, 32), offline)

        assert (host.info.preprocess.channels, len(host.info.preprocess.mean)) == (5, 5)
        check_maps(host, net.eval(), ("2",), (0, 2))

    def test_of_a_network_whose_batch_was_bounded_by_its_exporter(self, tmp_path: Path, offline: Downloads) -> None:
        bounded = ({0: Dim("batch", min=1, max=3)},)
        host = served(exported(small(), tmp_path / "net.pt2", 2, 3, 32, 32, shapes=bounded), offline)

        assert host.predict(torch.zeros(7, 32, 32, 3, dtype=torch.uint8).numpy()).shape == (7, 4)

    def test_of_attention_that_is_written_out(self, tmp_path: Path, offline: Downloads) -> None:
        """By ``run_decompositions``: with infinities, which JSON has no numbers for, and so many words on attention."""
        net = Attending().eval()
        program = export(net, (torch.randn(2, 3, 32, 32),), dynamic_shapes=ANY_BATCH).run_decompositions()
        torch.export.save(program, tmp_path / "net.pt2")
        assert b"-Infinity" in zipfile.ZipFile(tmp_path / "net.pt2").read("net/models/model.json")
        host = served(tmp_path / "net.pt2", offline)

        check_maps(host, net, ("patches",), (0, 2))
        assert set(host.info.refused_methods) >= {"attention_rollout", "legrad"}

    def test_of_several_outputs_by_their_names(self, tmp_path: Path, offline: Downloads) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body, self.colour, self.side = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(4, 2)

            def forward(self, x: Tensor) -> dict[str, Tensor]:
                pooled = self.body(x).relu().mean((2, 3))
                return {"colour": self.colour(pooled), "side": self.side(pooled)}

        host = served(exported(Two(), tmp_path / "two.pt2", 2, 3, 16, 16), offline)

        assert {name: len(head.labels) for name, head in host.info.heads.items()} == {"colour": 5, "side": 2}


def settled(net: nn.Module) -> nn.Module:
    """Give batch normalisations the statistics of noise: a network of random weights would fade away otherwise."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    with torch.no_grad():
        net.train()(torch.randn(8, 3, 64, 96))
    return net


def check_maps(host: ModelHost, net: nn.Module, layers: tuple[str, ...], classes: tuple[int, ...]) -> None:
    """Compare maps and logits with what autograd finds on ``net``."""
    spec = host.info.preprocess
    size = (1, spec.height, spec.width, spec.channels)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs = normalised(pixels, spec)
    (answer,) = host.explain(pixels.numpy(), [Targets(classes)], HowTo(layers, ("gradcam",)))
    found = iter(answer.maps)
    outputs = net(inputs).shape[1]
    for layer in layers:
        maps = torch.stack([next(found).values for _ in classes])
        assert_maps_are_direct(maps, net, layer, inputs, [target % outputs for target in classes])


class TestWhatTheFileSays:
    def test_it_is_told_by_its_content(self, tmp_path: Path) -> None:
        file = exported(small(), tmp_path / "net.pt2", 2, 3, 32, 32).rename(tmp_path / "net.bin")
        (tmp_path / "other.pt2").write_bytes(b"not a program")

        assert reads(file)
        assert not reads(tmp_path / "other.pt2")
        assert not reads(tmp_path)

    def test_layers_are_called_what_they_were(self, tmp_path: Path, offline: Downloads) -> None:
        info = served(exported(small(), tmp_path / "net.pt2", 2, 3, 32, 32), offline).info

        assert [(layer.name, layer.type, layer.kind) for layer in info.layers][:3] == [
            ("0", "Conv2d", "conv"),
            ("1", "BatchNorm2d", "norm"),
            ("2", "ReLU", "activation"),
        ]

    def test_a_free_size_may_be_configured(self, tmp_path: Path, offline: Downloads) -> None:
        free = ({0: Dim("n"), 2: Dim("h", min=8, max=64), 3: Dim("w", min=8, max=64)},)
        file = exported(small(), tmp_path / "net.pt2", 2, 3, 32, 24, shapes=free)

        assert (served(file, offline).info.preprocess.height, served(file, offline).info.preprocess.width) == (32, 24)
        assert served(file, offline, size=48).info.preprocess.height == 48
        with pytest.raises(ModelLoadError, match="<= 64, but got 96"):
            served(file, offline, size=96)

    def test_normalisation_is_assumed_and_said_so(self, tmp_path: Path, offline: Downloads) -> None:
        file = exported(small(), tmp_path / "net.pt2", 2, 3, 32, 32)

        assert [row.code for row in served(file, offline).info.warnings] == ["assumed_normalisation"]
        assert not served(file, offline, mean=0, std=1).info.warnings

    def test_the_default_layer_is_in_front_of_the_last_attention_where_a_class_token_is_read(
        self, tmp_path: Path
    ) -> None:
        vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)
        file = exported(vit, tmp_path / "vit.pt2", 2, 3, 32, 32)

        loaded = load(ModelConfig(architecture=str(file)), None)  # type: ignore[arg-type]

        assert loaded.default_layer == "encoder.layers.encoder_layer_1.ln_1"

    def test_its_graph_follows_its_weights_to_another_device(self, tmp_path: Path) -> None:
        class Ramp(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = nn.Conv2d(3, 4, 3)

            def forward(self, x: Tensor) -> Tensor:
                pooled: Tensor = self.body(x).mean((2, 3))
                return pooled + torch.arange(4, device=x.device)

        file = exported(Ramp(), tmp_path / "ramp.pt2", 2, 3, 16, 16)
        module = load(ModelConfig(architecture=str(file)), None).module  # type: ignore[arg-type]

        assert module.to("meta")(torch.empty(1, 3, 16, 16, device="meta")).device.type == "meta"


class TestRefused:
    def refused(self, match: str, file: Path, offline: Downloads, **configuration: Any) -> None:
        with pytest.raises(ModelLoadError, match=match):
            served(file, offline, **configuration)

    def test_a_batch_of_one_size(self, tmp_path: Path, offline: Downloads) -> None:
        file = exported(small(), tmp_path / "net.pt2", 1, 3, 32, 32, shapes=None)
        self.refused(
            r"net\.pt2 was exported for batches of 1\. .*randn\(2, 3, 32, 32\),\), dynamic_shapes=", file, offline
        )

    @pytest.mark.parametrize(("last", "what"), [(nn.BatchNorm2d(4), "batch normalisation"), (nn.Dropout(), "dropout")])
    def test_training_mode(self, last: nn.Module, what: str, tmp_path: Path, offline: Downloads) -> None:
        net = nn.Sequential(nn.Conv2d(3, 4, 3), last, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        file = exported(net, tmp_path / "net.pt2", 2, 3, 32, 32, train=True)
        self.refused(rf"exported in training mode: its {what} is active.*model\.eval\(\)", file, offline)

    def test_another_size_or_other_channels(self, tmp_path: Path, offline: Downloads) -> None:
        file = exported(small(), tmp_path / "net.pt2", 2, 3, 32, 32)
        self.refused(r"for pictures of 32×32 pixels, not 48×48\. Leave the size out", file, offline, size=48)
        self.refused("takes 3 channels, not 1", file, offline, channels=1)

    def test_channels_that_no_picture_has(self, tmp_path: Path, offline: Downloads) -> None:
        file = exported(small(65), tmp_path / "net.pt2", 2, 65, 32, 32)
        self.refused("takes 65 channels; pictures have 1 to 64", file, offline)

    def test_options_that_mean_nothing(self, tmp_path: Path, offline: Downloads) -> None:
        file = exported(small(), tmp_path / "net.pt2", 2, 3, 32, 32)
        self.refused("comes with its weights; leave 'w.pth' out", file, offline, weights="w.pth")
        self.refused("use_ema means nothing", file, offline, use_ema=True)
        self.refused("factory_args means nothing", file, offline, factory_args={"a": 1})

    def test_two_inputs(self, tmp_path: Path, offline: Downloads) -> None:
        class Pair(nn.Module):
            def forward(self, x: Tensor, y: Tensor) -> Tensor:
                return (x + y).mean((2, 3))

        torch.export.save(export(Pair(), (torch.ones(2, 3, 8, 8), torch.ones(2, 3, 8, 8))), tmp_path / "pair.pt2")
        self.refused("takes 2 inputs, where one picture is needed", tmp_path / "pair.pt2", offline)

    def test_an_input_that_is_no_picture(self, tmp_path: Path, offline: Downloads) -> None:
        file = exported(nn.Linear(3, 2), tmp_path / "rows.pt2", 2, 3)
        self.refused("takes an input of 2 axes", file, offline)


def test_a_picture_may_be_given_by_name_to_the_exporter(tmp_path: Path, offline: Downloads) -> None:
    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small()

        def forward(self, *, pixel_values: Tensor) -> Tensor:
            logits: Tensor = self.body(pixel_values)
            return logits

    program = partial(export, ByName().eval(), (), {"pixel_values": torch.randn(2, 3, 32, 32)})
    torch.export.save(program(dynamic_shapes={"pixel_values": {0: Dim("batch")}}), tmp_path / "named.pt2")

    assert served(tmp_path / "named.pt2", offline).info.labels == tuple(f"class {index}" for index in range(4))
