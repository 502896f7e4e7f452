"""Attention methods of every source: the maps are those of the attention that the network's own library gives out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from service.cam.attention import refuse_without_attention, refuse_without_blocks
from service.cam.eager import EagerNetwork
from service.cam.targets import Targets
from service.models.host import HowTo
from service.models.loading import load_model
from service.models.sources.source import Downloads
from service.settings import ModelConfig
from tests.direct_attention import direct_legrad, direct_rollout
from tests.direct_cam import normalised
from tests.sources.extras import need
from tests.sources.serving import settle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from service.models.host import ModelHost

BOTH = ("attention_rollout", "legrad")
PIXELS = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def load(text: str, folder: Path, **configuration: Any) -> ModelHost:
    config = ModelConfig.model_validate({"architecture": text, **configuration})
    return load_model(config, "cpu", Downloads(folder / "cache", allowed=False))


def assert_maps_are(host: ModelHost, wanted: dict[str, Tensor], target: int) -> None:
    """Compare a host's maps with values per token (T,), to 1e-5 of their maximum."""
    assert set(BOTH) - set(wanted) == set(BOTH) & set(host.info.refused_methods)
    how = HowTo((host.info.default_layer,), tuple(wanted))
    (answer,) = host.explain(PIXELS.numpy(), [Targets((target,))], how)
    for raw in answer.maps:
        places = wanted[raw.method][-raw.values.numel() :].view(raw.values.shape)
        assert places.max() > 0
        torch.testing.assert_close(raw.values, places, rtol=0, atol=1e-5 * float(places.max()))


def both(
    tokens: Sequence[Tensor],
    attentions: Sequence[Tensor],
    classify: Callable[[Tensor], Tensor],
    read: Sequence[int],
    target: int,
) -> dict[str, Tensor]:
    return {
        "attention_rollout": direct_rollout(attentions, read),
        "legrad": direct_legrad(tokens, attentions, classify, target),
    }


# timm

SIZES = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 5}


def of_timm(name: str, **args: Any) -> Any:
    torch.manual_seed(0)
    return settle(need("timm", "timm").create_model(name, **{**SIZES, **args}), 3, 64, 64)


def by_timm(model: Any, inputs: Tensor, read: Sequence[int], target: int) -> dict[str, Tensor]:
    """Read attention where timm drops parts of it, which it does where it is not fused."""
    attentions: list[Tensor] = []
    tokens: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _m, _i, output: tokens.append(output)) for block in model.blocks]
    for block in model.blocks:
        block.attn.fused_attn = False
        hooks.append(block.attn.attn_drop.register_forward_hook(lambda _m, given, _o: attentions.append(given[0])))
    model(inputs.requires_grad_())
    for hook in hooks:
        hook.remove()
    return both(tokens, attentions, lambda found: model.forward_head(model.norm(found)), read, target)


TIMM = [
    ("vit_tiny_patch16_224", {}, [0]),
    ("vit_tiny_patch16_224", {"global_pool": "avg"}, list(range(1, 17))),
    ("deit_tiny_distilled_patch16_224", {}, [0, 1]),
    ("deit3_small_patch16_224", {}, [0]),
    ("eva02_tiny_patch14_224", {"patch_size": 16}, list(range(1, 17))),
    ("beit_base_patch16_224", {}, list(range(1, 17))),
    ("vit_small_patch14_reg4_dinov2", {"patch_size": 16}, [0]),
    ("vit_relpos_small_patch16_224", {}, list(range(16))),
]


@pytest.mark.parametrize(("name", "args", "read"), TIMM, ids=[f"{row[0]} {row[1]}" for row in TIMM])
def test_of_timm(name: str, args: dict[str, Any], read: list[int], tmp_path: Path) -> None:
    own = of_timm(name, **args)
    file = tmp_path / "weights.pth"
    torch.save(own.state_dict(), file)
    build = {key: value for key, value in {**SIZES, **args}.items() if key != "num_classes"}
    host = load(f"timm/{name}", tmp_path, weights=str(file), factory_args=build)
    wanted = by_timm(own, normalised(PIXELS, host.info.preprocess), read, 3)
    assert_maps_are(host, wanted, 3)


# Hugging Face

VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 64}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("ViT", [0]),
        ("DeiT", [0]),
        ("Beit", list(range(1, 17))),
        ("Dinov2", list(range(17))),
        ("Dinov2WithRegisters", list(range(17))),
    ],
)
def test_of_transformers(kind: str, read: list[int], implementation: str, tmp_path: Path) -> None:
    transformers = need("transformers", "hf")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**VIT, patch_size=16, num_labels=5)
    built = getattr(transformers, f"{kind}ForImageClassification")._from_config(config)
    settle(built, 3, 64, 64)
    built.save_pretrained(tmp_path / "own")
    own = getattr(transformers, f"{kind}ForImageClassification").from_pretrained(
        tmp_path / "own", attn_implementation="eager"
    )
    host = load(str(tmp_path / "own"), tmp_path)
    for network in host._networks.values():
        assert isinstance(network, EagerNetwork)
        body: Any = network._module
        body.set_attn_implementation(implementation)
    inputs = normalised(PIXELS, host.info.preprocess).requires_grad_()
    seen: list[Tensor] = []
    body = own.eval().get_submodule(own.base_model_prefix)
    layers = body.get_submodule("layers" if hasattr(body, "layers") else "encoder.layer")
    hooks = [layer.register_forward_hook(lambda _m, _i, output: seen.append(first_of(output))) for layer in layers]
    output = own(inputs, output_attentions=True)
    for hook in hooks:
        hook.remove()
    if kind == "Dinov2WithRegisters":  # four registers behind the class token, which the head leaves out
        read = [0, *range(5, 21)]
    assert_maps_are(host, both(seen, output.attentions, lambda found: head_of(own, found), read, 3), 3)


def first_of(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def head_of(own: Any, tokens: Tensor) -> Tensor:
    """Return what the classifier makes of tokens: the model runs with them in place of its last block's."""
    body = own.get_submodule(own.base_model_prefix)
    last = body.get_submodule("layers" if hasattr(body, "layers") else "encoder.layer")[-1]
    hook = last.register_forward_hook(
        lambda _m, _i, output: (tokens, *output[1:]) if isinstance(output, tuple) else tokens
    )
    try:
        logits: Tensor = own(torch.zeros(1, 3, 64, 64)).logits
    finally:
        hook.remove()
    return logits


# Exported graphs


@pytest.mark.parametrize("fused", [True, False])
def test_of_an_exported_program(fused: bool, tmp_path: Path) -> None:
    own = of_timm("vit_tiny_patch16_224")
    for block in own.blocks:
        block.attn.fused_attn = fused
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    torch.export.save(
        torch.export.export(own, (torch.randn(2, 3, 64, 64),), dynamic_shapes=(batch,)), tmp_path / "vit.pt2"
    )
    host = load(str(tmp_path / "vit.pt2"), tmp_path)
    assert_maps_are(host, by_timm(own, normalised(PIXELS, host.info.preprocess), [0], 3), 3)


@pytest.mark.filterwarnings("ignore")  # exporters use what they have deprecated themselves
def test_of_an_onnx_graph(tmp_path: Path) -> None:
    """Its operators are in no blocks, so that there is attention rollout alone."""
    need("onnx2torch", "onnx")
    from tests.sources.test_onnx import by_tracing

    own = of_timm("vit_tiny_patch16_224")
    for block in own.blocks:
        block.attn.fused_attn = False
    by_tracing(own, tmp_path / "vit.onnx", 2, 3, 64, 64)
    host = load(str(tmp_path / "vit.onnx"), tmp_path)
    wanted = by_timm(own, normalised(PIXELS, host.info.preprocess), [0], 3)
    assert "its blocks cannot be told apart" in host.info.refused_methods["legrad"]
    assert_maps_are(host, {"attention_rollout": wanted["attention_rollout"]}, 3)


# What cannot be read

REFUSED = {
    "swin_tiny_patch4_window7_224": "within windows or groups",
    "xcit_nano_12_p16_224": "not of the tokens to themselves",
    "resnet18": "no attention among tokens is seen",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_timm_has_beside_is_refused_with_the_reason(name: str) -> None:
    model: nn.Module = need("timm", "timm").create_model(name, num_classes=5).eval().requires_grad_(False)
    reason = refuse_without_attention(EagerNetwork(model), torch.randn(1, 3, 224, 224))
    assert reason is not None
    assert REFUSED[name] in reason


def test_tokens_that_are_pooled_by_a_query_are_refused_with_the_reason() -> None:
    """As SigLIP pools them, of timm and of Hugging Face."""
    transformers = need("transformers", "hf")
    vision = VIT | {"patch_size": 16}
    config = transformers.SiglipConfig(vision_config=vision, text_config={"hidden_size": 32}, num_labels=5)
    of_hugging_face = transformers.SiglipForImageClassification(config).eval().requires_grad_(False)
    for model, head in ((of_timm("vit_tiny_patch16_224", global_pool="map"), None), (of_hugging_face, "logits")):
        network = EagerNetwork(model.requires_grad_(False), head)
        for refuse in (refuse_without_attention, refuse_without_blocks):
            reason = refuse(network, torch.randn(1, 3, 64, 64))
            assert reason is not None
            assert "not of the tokens to themselves" in reason
            assert "queries of their own" in reason


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PyTorch's own, where it decomposes
def test_a_decomposed_program_says_what_its_blocks_lack(tmp_path: Path) -> None:
    """Its blocks give out sizes beside their tokens."""
    own, batch = of_timm("vit_tiny_patch16_224"), {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(own, (torch.randn(2, 3, 64, 64),), dynamic_shapes=(batch,)).run_decompositions()
    torch.export.save(program, tmp_path / "vit.pt2")
    host = load(str(tmp_path / "vit.pt2"), tmp_path)
    for method in BOTH:
        assert "do not give out a row for each of their tokens" in host.info.refused_methods[method]
    assert "gradcam" not in host.info.refused_methods
