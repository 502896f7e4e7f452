"""Zero-shot classifiers: the classes are sentences, and the maps those of open_clip's own network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from service.cam.targets import Targets
from service.errors import ModelLoadError
from service.models.host import HowTo
from service.models.loading import load_model
from service.models.sources.source import Downloads
from service.settings import ModelConfig
from tests.direct_cam import assert_maps_are_direct, normalised
from tests.sources.extras import need

if TYPE_CHECKING:
    from pathlib import Path

open_clip = need("open_clip", "clip")

SENTENCES = ["a drawing of a disk", "a drawing of a star", "a drawing of a cross"]
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small network of open_clip's own making, its weights in a file, and its labels."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-resnet", SMALL)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-resnet", load_weights=False).eval()
    save_file(model.state_dict(), tmp_path / "tiny.safetensors")
    (tmp_path / "labels.txt").write_text("disk\nstar\ncross\n")
    return model


def served(folder: Path, **configuration: Any) -> Any:
    given = {
        "architecture": "clip/tiny-resnet",
        "weights": str(folder / "tiny.safetensors"),
        "labels": folder / "labels.txt",
        "prompts": "a drawing of a {}",
        **configuration,
    }
    return load_model(ModelConfig(**given), "cpu", Downloads(folder / "cache", allowed=False))


class Direct(nn.Module):
    """As open_clip's own examples score sentences."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.tokens = open_clip.get_tokenizer("tiny-resnet")(SENTENCES)

    def forward(self, x: Tensor) -> Tensor:
        text = functional.normalize(self.model.encode_text(self.tokens), dim=-1)
        image = functional.normalize(self.model.encode_image(x), dim=-1)
        logits: Tensor = self.model.logit_scale.exp() * image @ text.T
        return logits


def test_maps_are_those_of_the_network_itself(network: Any, tmp_path: Path) -> None:
    host = served(tmp_path)
    pixels = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs, layers = normalised(pixels, host.info.preprocess), ("visual.layer4", "visual.layer3", "visual.layer2")

    (answer,) = host.explain(pixels.numpy(), [Targets((0, 1, 2))], HowTo(layers, ("gradcam",)))

    direct = Direct(network)
    torch.testing.assert_close(host.predict(pixels.numpy()), direct(inputs).detach(), rtol=1e-5, atol=1e-5)
    for place, layer in enumerate(layers):
        maps = torch.stack([raw.values for raw in answer.maps[3 * place : 3 * place + 3]])
        assert_maps_are_direct(maps, direct, f"model.{layer}", inputs, (0, 1, 2))


def test_what_comes_with_it(network: Any, tmp_path: Path) -> None:
    info = served(tmp_path).info

    assert info.labels == ("disk", "star", "cross")
    assert info.default_layer == "visual.layer4"
    told = open_clip.get_model_preprocess_cfg(network)
    spec = info.preprocess
    assert (spec.height, spec.resize, spec.interpolation, spec.mean) == (64, 64, "bicubic", tuple(told["mean"]))


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"architecture": "clip/RN5"}, "open_clip has no network 'RN5'. Did you mean RN50"),
        ({"architecture": "clip/ViT-B-16-SigLIP"}, "reads sentences by timm/ViT-B-16-SigLIP of Hugging Face"),
        ({"weights": None}, r"needs a file with its weights: clip/tiny-resnet:weights\.safetensors"),
        ({"labels": None}, "has no classes of its own: name them in a file"),
        ({"prompts": "a photo"}, "write {} where the label is to stand"),
    ],
)
@pytest.mark.usefixtures("network")
def test_what_is_missing_is_said(changed: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=match):
        served(tmp_path, **changed)
