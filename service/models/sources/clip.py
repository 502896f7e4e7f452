"""Zero-shot classifiers of open_clip, as ``clip/NAME:weights``: the classes are sentences."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.errors import InvalidOption, ModelLoadError, closest
from service.imaging.preprocess import PreprocessSpec
from service.models.labels import read_labels
from service.models.sentences import Sentences, sentence_of
from service.models.sources.clip_text import TextEncoder
from service.models.sources.libraries import library
from service.models.sources.source import Downloads, LoadedModel
from service.models.state_dicts import digest, load_file_into

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

    from service.cam.explain import Checkpoint
    from service.settings import ModelConfig

__all__ = ["has", "load"]

_PREFIX = "clip/"
_PROMPT = "a photo of a {}"


def has(architecture: str) -> bool:
    """Return whether the name begins with ``clip/``."""
    return architecture.startswith(_PREFIX)


def load(config: ModelConfig, _downloads: Downloads) -> LoadedModel:
    """Load a network of open_clip with weights from a file; its classes are ``prompts`` with each of ``labels`` in it.

    Raises:
        ModelLoadError: open_clip is missing, has no such network, or cannot read its sentences without a download; the
            weights do not fit, or there are no labels.
    """
    open_clip = library("open_clip", "clip")
    name = config.architecture.removeprefix(_PREFIX)
    _check_name(open_clip, name)
    if config.weights is None or not Path(config.weights).is_file():
        raise ModelLoadError(
            f"{config.architecture} needs a file with its weights: {config.architecture}:weights.safetensors. Save one "
            'with safetensors.torch.save_file(open_clip.create_model("…", "…").state_dict(), "weights.safetensors").'
        )
    labels = _labels(config)
    file = Path(config.weights)
    model = open_clip.create_model(name, load_weights=False)
    warnings = load_file_into(model, file, use_ema=config.use_ema)
    prompts = _prompts(config)
    encoder = TextEncoder(model, open_clip.get_tokenizer(name))
    module = ZeroShot(model, _own_features(encoder, [sentence_of(prompts, label) for label in labels]))
    told = open_clip.get_model_preprocess_cfg(model)
    return LoadedModel(
        module,
        _preprocessing(told),
        labels,
        digest(file),
        warnings,
        default_layer=_default_layer(module),
        activation="softmax" if module.bias is None else "sigmoid",
        transform=partial(_transform, told),
        zero_shot=_Classes(prompts, module, encoder),
    )


class ZeroShot(nn.Module):
    """Scores pictures by how well each of some sentences fits them.

    Attributes:
        visual: maps (N, 3, H, W) to features (N, D).
        sentences: features (classes, D) of length 1.
        scale: what a cosine is multiplied by.
        bias: what is added to it then; None but for networks that were trained with sigmoids (SigLIP).
    """

    sentences: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, model: Any, sentences: Tensor) -> None:
        """Take the visual half of ``model``, and its scale."""
        super().__init__()
        self.visual = model.visual
        self.register_buffer("sentences", sentences)
        self.register_buffer("scale", model.logit_scale.detach().exp())
        bias = getattr(model, "logit_bias", None)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) of pictures (N, 3, H, W)."""
        features = self.visual(x)
        pooled = features[0] if isinstance(features, tuple) else features
        logits = self.scale * functional.normalize(pooled, dim=-1) @ self.sentences.T
        return logits if self.bias is None else logits + self.bias


@dataclass(frozen=True)
class _Classes:
    """See ``ZeroShotClasses``."""

    prompts: str
    own: ZeroShot
    encoder: TextEncoder

    def to(self, device: torch.device) -> None:
        self.encoder.to(device)

    def flops(self) -> int:
        return self.encoder.flops()

    def module(self, sentences: Sentences, checkpoint: Checkpoint) -> nn.Module:
        features = self.encoder.encode(sentences.all, checkpoint).to(self.own.sentences)
        module = copy.copy(self.own)
        module._buffers = dict(self.own._buffers)
        module.sentences = features if sentences.instead else torch.cat([self.own.sentences, features])
        return module


def _check_name(open_clip: Any, name: str) -> None:
    known = open_clip.list_models()
    if name not in known:
        near = closest(name, known)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ModelLoadError(f"open_clip has no network {name!r}.{meant}")
    text = open_clip.get_model_config(name).get("text_cfg", {})
    if elsewhere := text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        raise ModelLoadError(
            f"{name} reads sentences by {elsewhere} of Hugging Face, which is not fetched. Take a network that brings "
            "its own tokenizer, such as ViT-B-32 or RN50."
        )


def _labels(config: ModelConfig) -> tuple[str, ...]:
    if not isinstance(config.labels, Path):
        raise ModelLoadError(
            f"{config.architecture} has no classes of its own: name them in a file, labels=labels.txt, a line each. "
            f"prompts makes a sentence of each, {_PROMPT!r} if left out."
        )
    labels = read_labels(config.labels)
    if len(labels) < 2:
        raise ModelLoadError(
            f"{config.labels.name} has {len(labels)} labels; a sentence is only scored against others."
        )
    return labels


def _prompts(config: ModelConfig) -> str:
    prompts = config.prompts or _PROMPT
    if "{}" not in prompts:
        raise ModelLoadError(f"prompts is {prompts!r}: write {{}} where the label is to stand, as in {_PROMPT!r}.")
    return prompts


def _own_features(encoder: TextEncoder, sentences: list[str]) -> Tensor:
    try:
        return encoder.encode(sentences)
    except InvalidOption as error:
        raise ModelLoadError(f"A label cannot be used. {error.message}") from error


def _preprocessing(told: dict[str, Any]) -> PreprocessSpec:
    size = told["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = {"shortest": "crop", "longest": "pad", "squash": "squash"}[told["resize_mode"]]
    return PreprocessSpec(
        mode,  # type: ignore[arg-type]
        height,
        width,
        resize=min(height, width) if mode == "crop" else None,
        interpolation=told["interpolation"],
        mean=tuple(told["mean"]),
        std=tuple(told["std"]),
        fill=(told["fill_color"],) * 3,
    )


def _transform(told: dict[str, Any]) -> Callable[[Image], Tensor]:
    """Return what open_clip itself makes of a picture, (3, H, W)."""
    transform = library("open_clip.transform", "clip")
    made: Callable[[Image], Tensor] = transform.image_transform_v2(transform.PreprocessCfg(**told), is_train=False)
    return made


def _default_layer(module: ZeroShot) -> str | None:
    """Return the first norm of a transformer's last block, behind which only the class token is read; or layer4."""
    blocks: list[str] = [name for name, _ in module.named_modules() if name.endswith(".ln_1")]
    if blocks:
        return blocks[-1]
    return "visual.layer4" if hasattr(module.visual, "layer4") else None
