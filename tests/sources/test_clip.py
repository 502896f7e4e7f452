"""Zero-shot classifiers: the classes are sentences, and the maps those of open_clip's own network."""

from __future__ import annotations

import asyncio
import base64
import copy
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from service.cam.targets import CamOptions, Targets
from service.engine.workers.in_process import InProcessWorker
from service.errors import InvalidOption, ModelLoadError
from service.imaging.preprocess import PreprocessSpec
from service.models.host import HowTo
from service.models.loading import load_model
from service.models.sentences import Sentences
from service.models.sources import clip_text
from service.models.sources.clip_text import TextEncoder
from service.models.sources.source import Downloads
from service.settings import ModelConfig, load_settings
from service.web.app import create_app
from tests.direct_attention import direct_rollout
from tests.direct_cam import assert_maps_are_direct, normalised
from tests.server import running_server
from tests.sources.extras import need
from tests.sources.serving import ask, assert_equal_maps, direct_map, picture
from tests.web.application import HOSTS, Application

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import httpx

open_clip = need("open_clip", "clip")

SENTENCES = ["a drawing of a disk", "a drawing of a star", "a drawing of a cross"]
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
SMALL_VIT = {**SMALL, "vision_cfg": {"image_size": 64, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}}
LAYERS = {
    "tiny-resnet": ("visual.layer4", "visual.layer3", "visual.layer2"),
    "tiny-vit": tuple(f"visual.transformer.resblocks.{block}" for block in ("2.ln_1", "1", "0")),
}
PIXELS = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make(name: str, folder: Path) -> Any:
    """A small network of open_clip's own making, its weights in a file, and its labels."""
    torch.manual_seed(0)
    model = open_clip.create_model(name, load_weights=False).eval()
    for part in model.visual.modules():
        if isinstance(part, nn.BatchNorm2d) and part.num_features == 64 and (part.weight == 0).all():
            nn.init.ones_(part.weight)  # a residual branch that would say nothing
    save_file(model.state_dict(), folder / "tiny.safetensors")
    (folder / "labels.txt").write_text("disk\nstar\ncross\n")
    return model


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-resnet", SMALL)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-vit", SMALL_VIT)


@pytest.fixture
def network(tmp_path: Path) -> Any:
    return make("tiny-resnet", tmp_path)


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

    def __init__(self, model: Any, sentences: Sequence[str] = SENTENCES) -> None:
        super().__init__()
        self.model = model
        self.tokens = open_clip.get_tokenizer("tiny-resnet")(list(sentences))

    def forward(self, x: Tensor) -> Tensor:
        text = functional.normalize(self.model.encode_text(self.tokens), dim=-1)
        image = functional.normalize(self.model.encode_image(x), dim=-1)
        logits: Tensor = self.model.logit_scale.exp() * image @ text.T
        return logits


def test_maps_are_those_of_the_network_itself(network: Any, tmp_path: Path) -> None:
    host, pixels = served(tmp_path), PIXELS
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


# Sentences of requests

GIVEN = Sentences(instead=("a drawing of a star", "a photo of a red car"), beside=("two disks",))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("given", [GIVEN, Sentences(beside=("a photo of a red car",))], ids=["instead", "beside"])
def test_maps_of_sentences_are_those_of_the_network_itself(name: str, given: Sentences, tmp_path: Path) -> None:
    model = make(name, tmp_path)
    host = served(tmp_path, architecture=f"clip/{name}")
    inputs, layers = normalised(PIXELS, host.info.preprocess), LAYERS[name]

    how = HowTo(layers, ("gradcam",), CamOptions(signed=True), sentences=given)
    (answer,) = host.explain(PIXELS.numpy(), [Targets((0, 1, 2))], how)

    direct = Direct(model, given.all if given.instead else (*SENTENCES, *given.beside))
    expected = direct(inputs).detach()
    torch.testing.assert_close(answer.logits[None], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(host.predict(PIXELS.numpy(), sentences=given), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(host.predict(PIXELS.numpy()), Direct(model)(inputs).detach(), rtol=1e-5, atol=1e-5)
    for place, layer in enumerate(layers):
        for index, raw in enumerate(answer.maps[3 * place : 3 * place + 3]):
            wanted, exact = (
                torch.from_numpy(direct_map(each, x, f"model.{layer}", index))
                for each, x in ((direct, inputs), (copy.deepcopy(direct).double(), inputs.double()))
            )
            assert exact.any()
            rounding = float((wanted - exact).abs().max())
            close = max(1e-5 * float(exact.abs().max()), 4 * rounding)
            torch.testing.assert_close(raw.values.double(), exact, rtol=0, atol=close)


def test_the_default_layer_of_a_transformer_is_the_first_norm_of_its_last_block(tmp_path: Path) -> None:
    make("tiny-vit", tmp_path)
    info = served(tmp_path, architecture="clip/tiny-vit").info
    assert info.default_layer == "visual.transformer.resblocks.2.ln_1"
    assert {"attention_rollout", "legrad"}.isdisjoint(info.refused_methods)


def test_attention_is_that_of_the_network_itself(tmp_path: Path) -> None:
    model = make("tiny-vit", tmp_path)
    host = served(tmp_path, architecture="clip/tiny-vit")
    attentions: list[Tensor] = []
    for block in model.visual.transformer.resblocks:
        block.attention = lambda q_x, attn=block.attn, **_: told_attention(attn, q_x, attentions)

    how = HowTo((host.info.default_layer,), ("attention_rollout",), sentences=GIVEN)
    (answer,) = host.explain(PIXELS.numpy(), [Targets((1,))], how)

    model.encode_image(normalised(PIXELS, host.info.preprocess))
    wanted = direct_rollout(attentions, [0])[1:].view(4, 4)
    torch.testing.assert_close(answer.maps[0].values, wanted, rtol=0, atol=1e-5 * float(wanted.max()))


def told_attention(attn: nn.MultiheadAttention, x: Tensor, into: list[Tensor]) -> Tensor:
    mixed, weights = attn(x, x, x, need_weights=True, average_attn_weights=False)
    into.append(weights)
    return mixed  # type: ignore[no-any-return]


class TestEncoder:
    def test_the_models_own_labels_give_its_own_answer(self, network: Any, tmp_path: Path) -> None:
        del network
        host = served(tmp_path)
        own = host.predict(PIXELS.numpy())
        assert torch.equal(host.predict(PIXELS.numpy(), sentences=Sentences(tuple(SENTENCES))), own)
        assert torch.equal(host.predict(PIXELS.numpy(), sentences=Sentences(tuple(SENTENCES[::-1]))), own.flip(1))

    def test_sentences_are_encoded_once(self, network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        encoded: list[int] = []
        encoder, real = TextEncoder(network, open_clip.get_tokenizer("tiny-resnet")), network.encode_text

        def count(tokens: Tensor) -> Any:
            encoded.append(len(tokens))
            return real(tokens)

        monkeypatch.setattr(network, "encode_text", count)
        steps: list[tuple[int, int]] = []
        first = encoder.encode([*SENTENCES, *SENTENCES], lambda *step: steps.append(step))
        again = encoder.encode(SENTENCES[::-1])
        assert (encoded, steps) == ([3], [(0, 3)])
        assert torch.equal(first[:3], again.flip(0))
        encoder.encode([f"sentence {number}" for number in range(40)], lambda *step: steps.append(step))
        assert (encoded[1:], steps[1:]) == ([16, 16, 8], [(0, 40), (16, 40), (32, 40)])

    def test_what_it_remembers_is_bounded(self, network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clip_text, "SENTENCES_KEPT", 4)
        encoder = TextEncoder(network, open_clip.get_tokenizer("tiny-resnet"))
        encoder.encode([str(number) for number in range(9)])
        assert list(encoder._known) == ["5", "6", "7", "8"]

    @pytest.mark.parametrize(
        ("sentence", "why"),
        [("car " * 76, "76 tokens long; the model reads 75 at most"), ("&nbsp;", "holds nothing that the model reads")],
    )
    def test_what_it_cannot_read(self, sentence: str, why: str, network: Any, tmp_path: Path) -> None:
        del network
        host = served(tmp_path)
        with pytest.raises(InvalidOption, match=why):
            host.predict(PIXELS.numpy(), sentences=Sentences(("a car", sentence)))
        (tmp_path / "labels.txt").write_text(f"disk\n{sentence}\n")
        with pytest.raises(ModelLoadError, match=f"A label cannot be used.*{why}"):
            served(tmp_path, prompts="{}")

    def test_a_sentence_has_its_cost(self, network: Any, tmp_path: Path) -> None:
        del network
        host = served(tmp_path)
        assert host.info.prompts == "a drawing of a {}"
        encoder = TextEncoder(
            open_clip.create_model("tiny-resnet", load_weights=False), open_clip.get_tokenizer("tiny-vit")
        )
        assert host.info.sentence_passes == pytest.approx(encoder.flops() / host.info.flops)
        assert 0.01 < host.info.sentence_passes < 1


# Through the service


@pytest.mark.slow
def test_maps_over_the_wire_are_those_of_the_network_itself(tmp_path: Path) -> None:
    """A server of its own process, which knows open_clip's own architectures alone: the smallest of them."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt", load_weights=False).eval()
    weights, labels = tmp_path / "small.safetensors", tmp_path / "labels.txt"
    save_file({name: value.clone() for name, value in model.state_dict().items()}, weights)
    labels.write_text("disk\nstar\ncross\n")
    image = picture(224, 224)
    told = open_clip.get_model_preprocess_cfg(model)
    spec = PreprocessSpec("crop", 224, 224, mean=told["mean"], std=told["std"])
    inputs = normalised(torch.from_numpy(np.array(image))[None], spec)
    layers = [f"visual.transformer.resblocks.{block}" for block in ("11.ln_1", "8", "4")]
    direct = Direct(model)

    command = f"drawn=clip/ViT-S-32-alt:{weights},labels={labels},prompts=a drawing of a {{}}"
    with running_server("--model", command, "--workers", "1") as server:
        result = ask(server.url, "drawn", image, layers, (0, 1, 2))

    assert {each["label"] for each in result["predictions"]} == {"disk", "star", "cross"}
    logits = {each["index"]: each["logit"] for each in result["predictions"]}
    torch.testing.assert_close(torch.tensor([logits[i] for i in range(3)]), direct(inputs)[0].detach())
    assert_equal_maps(result, lambda layer, index: direct_map(direct, inputs, f"model.{layer}", index))


async def test_requests_bring_their_classes_in_every_encoding(network: Any, tmp_path: Path) -> None:
    """Also several at once, with different classes."""
    del network
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[0].numpy()).save(buffer, "PNG")
    data = buffer.getvalue()
    config = {
        "name": "shapes", "architecture": "clip/tiny-resnet", "weights": str(tmp_path / "tiny.safetensors"),
        "labels": str(tmp_path / "labels.txt"), "prompts": "a drawing of a {}",
    }  # fmt: skip
    settings = load_settings(models=[config], device="cpu", cache_dir=tmp_path / "cache", allowed_hosts=HOSTS)
    app = create_app(settings, launch=InProcessWorker)
    async with app.router.lifespan_context(app) as state:
        application = Application(app, state)
        await application.explainer.settled()
        async with application.client(timeout=300) as client:
            await check_encodings(client, data)
            await check_separation(client, data)
            await check_refusals(client, data)


ASKED = {"labels": ["star", "red car"], "target": ["text:two disks", "top-2"], "against": "red car"}


async def check_encodings(client: httpx.AsyncClient, data: bytes) -> None:
    entry = (await client.get("/api/v1/models/shapes")).json()
    assert entry["prompts"] == "a drawing of a {}"
    answers = [
        await client.post("/api/v1/explain", data=ASKED, files={"image": ("a.png", data)}),
        await client.post("/api/v1/explain", json={**ASKED, "images": [{"b64": base64.b64encode(data).decode()}]}),
        await client.post("/api/v1/explain", params=ASKED, content=data, headers={"Content-Type": "image/png"}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    results = [answer.json()["results"][0] for answer in answers]
    assert results[0] == results[1] | {"image": results[0]["image"]} == results[2] | {"image": results[0]["image"]}
    predictions = {each["label"]: each for each in results[0]["predictions"]}
    assert set(predictions) == {"star", "red car", "two disks"}
    assert sum(each["probability"] for each in predictions.values()) == pytest.approx(1)
    explained = results[0]["explanations"]
    best = [each["label"] for each in results[0]["predictions"][:2]]
    assert [each["target"]["label"] for each in explained] == ["two disks", *best]
    assert {each["against"]["label"] for each in explained} == {"red car"}
    costs = [answer.json()["cost"]["forward"] for answer in answers]
    assert costs[0] > costs[1] == costs[2]  # what was encoded is remembered


async def check_separation(client: httpx.AsyncClient, data: bytes) -> None:
    """Whatever is computed together, every request has the logits that it has alone."""
    asked = [["star", "cross"], ["cross", "star"], ["a", "b", "c"], None, ["star", "cross"]] * 4

    async def predict(labels: list[str] | None) -> dict[str, float]:
        fields: dict[str, Any] = {"labels": labels} if labels else {}
        answer = await client.post("/api/v1/predict", data=fields, files={"image": ("a.png", data)})
        return {each["label"]: each["logit"] for each in answer.json()["results"][0]["predictions"]}

    together = await asyncio.gather(*(predict(labels) for labels in asked))
    for labels, found in zip(asked, together, strict=True):
        assert set(found) == set(labels or ["disk", "star", "cross"])
        assert found == pytest.approx(await predict(labels), abs=1e-4)


async def check_refusals(client: httpx.AsyncClient, data: bytes) -> None:
    image = {"b64": base64.b64encode(data).decode()}
    for text, why in [
        ("", "no text in it"),
        ("a\0b", "control characters"),
        ("car " * 76, "tokens long; the model reads 75 at most"),
        ("x" * 100_000, "1000"),
        ("&nbsp;", "nothing that the model reads"),
    ]:
        for asked in ({"labels": ["a", text]}, {"target": [f"text:{text}"]}):
            if text == "&nbsp;" and "labels" in asked:
                continue  # it stands in the prompt
            answer = await client.post("/api/v1/explain", json={**asked, "images": [image]})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_option"), answer.text
            assert why in answer.json()["detail"]
            assert len(answer.content) < 1500
