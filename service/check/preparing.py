"""How a picture becomes the model's input: in words, and compared with what its source does."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import torch

from service.cam.explain import predict
from service.check.report import Row
from service.check.warned import row_with_warnings
from service.engine.scores import scores_of
from service.imaging.decode import DecodedImage
from service.imaging.preprocess import PreprocessSpec, preprocess

if TYPE_CHECKING:
    from torch import Tensor

    from service.check.subject import Subject

__all__ = ["preprocessing_row", "reference_row"]

# Two levels of 255, as resampling rounds in one library and another; more is another picture.
_LEVELS = 2.0
_PROBABILITY = 0.01

_FITTING = {
    "squash": "squashed to {size}",
    "pad": "fitted into {size}, with black around it",
}


def preprocessing_row(subject: Subject) -> Row:
    """Say how a picture is prepared, and where the configuration wants it otherwise than the source."""
    spec, source = subject.info.preprocess, subject.loaded.preprocess
    changed = [
        f"{field.name} {_value(getattr(spec, field.name))} for {_value(getattr(source, field.name))}"
        for field in fields(PreprocessSpec)
        if getattr(spec, field.name) != getattr(source, field.name)
    ]
    configured = f"; configured otherwise than its source says: {', '.join(changed)}" if changed else ""
    return row_with_warnings(subject.info, "preprocessing", f"{_in_words(spec)}{configured}")


def _in_words(spec: PreprocessSpec) -> str:
    size = f"{spec.height}×{spec.width}"
    if spec.mode == "crop":
        fitted = f"shorter side to {spec.resize}, middle {size}" if spec.resize else f"middle {size}"
    else:
        fitted = _FITTING[spec.mode].format(size=size)
    colours = {1: "grey", 3: spec.order}.get(spec.channels, f"{spec.channels} channels")
    scale = f"1/{1 / spec.scale:.6g}" if spec.scale < 1 else f"{spec.scale:g}"
    moments = f"mean {_value(spec.mean)}, std {_value(spec.std)}"
    return f"{fitted} ({spec.interpolation}), {colours}, pixels × {scale}, {moments}"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(f"{each:.4g}" for each in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def reference_row(subject: Subject) -> Row:
    """Compare the input for a real picture, and what is predicted of it, with what its library's own code makes."""
    if subject.loaded.transform is None:
        return Row(
            "reference", "skipped", f"a model of the source {subject.info.source} brings no transform of its own"
        )
    if not (isinstance(subject.picture, DecodedImage) and isinstance(subject.seen, DecodedImage)):
        return Row("reference", "skipped", f"no picture for it: {subject.picture}")
    ours = subject.host.normalise(preprocess(subject.seen, subject.info.preprocess).pixels[None])
    theirs = subject.loaded.transform()(subject.picture.rgb)[None].to(ours)
    if ours.shape != theirs.shape:
        sizes = f"{_shape(ours)} here, {_shape(theirs)} there"
        return Row("reference", "skipped", f"inputs of different shapes, as configured: {sizes}")
    levels = float((ours - theirs).abs().max()) * _levels_per_unit(subject.info.preprocess)
    moved = _moved(subject, ours, theirs)
    found = f"inputs differ by {levels:.2g} of 255 levels at most, probabilities by {moved:.2g}"
    if levels <= _LEVELS or moved <= _PROBABILITY:
        return Row("reference", "ok", found)
    return Row("reference", "warning", found, (_OTHER_INPUT,))


_OTHER_INPUT = (
    "The model sees another picture than its own library would show it. Leave out the options of preprocessing that it "
    "was not trained with (size, resize, mode, interpolation, decoding, mean, std, scale, order)."
)


def _shape(inputs: Tensor) -> str:
    return "×".join(str(side) for side in inputs.shape[1:])


def _levels_per_unit(spec: PreprocessSpec) -> float:
    """Return by how many of a pixel's 255 levels an input differs that differs by one, in its finest channel."""
    return max(spec.std) / spec.scale


def _moved(subject: Subject, ours: Tensor, theirs: Tensor) -> float:
    logits = predict(subject.host.network(), torch.cat([ours, theirs])).numpy()
    one, other = (scores_of(row, subject.info) for row in logits)
    return max(abs(one(index).probability - other(index).probability) for index in range(len(subject.info.labels)))
