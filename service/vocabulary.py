"""The closed vocabularies: words that mean one thing wherever they stand, each list of them written once."""

from __future__ import annotations

from typing import Literal

__all__ = [
    "Activation",
    "Augment",
    "ChannelLayout",
    "ChannelOrder",
    "ColormapKind",
    "Decoding",
    "EmptyReason",
    "EvaluationState",
    "Fitting",
    "Fuse",
    "GateMissing",
    "ImageFormat",
    "LayerKind",
    "LoadCheck",
    "LoadingStage",
    "MayManage",
    "ModelState",
    "Operation",
    "Output",
    "Precision",
    "PrecisionRefusal",
    "Preset",
    "Protocol",
    "Registration",
    "Size",
    "Undecided",
    "Verdict",
    "VersionState",
    "WorkerState",
]

# -- what may be asked -------------------------------------------------------------------------------------------------

Operation = Literal["predict", "explain"]
"""What is done with images."""

Output = Literal["heatmap", "overlay", "mask", "map", "regions", "scores", "hidden"]
"""What may be returned of an explanation."""

Size = Literal["picture", "model", "layer"]
"""The grid of what is drawn: the image's own, the model's input, or the layer's cells."""

ImageFormat = Literal["auto", "png", "jpeg", "webp"]
"""The format of what is drawn; ``auto`` is the cheapest that loses nothing that matters."""

Registration = Literal["measured", "stretch"]
"""Where the cells of a layer are drawn: where they were found to look, or spread evenly over the model's input."""

Augment = Literal["none", "flip"]
"""Over which views of the image a map is averaged."""

Fuse = Literal["max", "mean", "product"]
"""How the maps of several layers become one."""

Precision = Literal["float32", "bfloat16", "float16"]
"""What a model computes in."""

Protocol = Literal["cvat", "kserve_v1", "label_studio", "open_inference", "torchserve"]
"""The protocols besides the native one, which may be switched off."""

# -- what is told ------------------------------------------------------------------------------------------------------

LayerKind = Literal["conv", "norm", "activation", "pool", "attention", "linear", "block", "other"]
"""What a layer of the catalogue does."""

ColormapKind = Literal["sequential", "diverging"]
"""From nothing to much, or from against through nothing to for."""

EmptyReason = Literal["no_positive_evidence", "zero_gradient", "constant"]
"""Why a map shows nothing."""

Verdict = Literal["supported", "not_supported", "undecided"]
"""Whether hiding what a map calls important proves it."""

Undecided = Literal["empty", "nothing_to_hide", "few_controls"]
"""Why there is no proof: the map shows nothing, nothing of it speaks for the class, or its shape has too few places."""

GateMissing = Literal["empty", "nothing_to_hide", "no_other_class", "head_unknown", "whole_network", "many_passes"]
"""Why a map has no gate: there is no proof of it either, there is no other class, nobody knows what the last layer is,
the method is of the whole network, or the gates would take more passes than a proof may."""

LoadCheck = Literal["model", "preprocessing", "determinism", "batch", "labels", "layers", "gradient"]
"""What is found out about a model while it is loaded, in this order: where it fails, that is what it fails in."""

ModelState = Literal["loading", "ready", "unloaded", "failed"]
"""How far a model is, whatever its versions are; one that is unloaded is loaded again when somebody asks for it."""

LoadingStage = Literal["waiting", "reading weights", "checking", "measuring layers", "warming", "taking over"]
"""What is being done to load a version, in this order; the last is loading by the workers what was tried before."""

VersionState = Literal["loading", "ready", "unloaded", "draining", "failed"]
"""How far one version of a model is; one that drains serves what has begun with it."""

MayManage = Literal["allowed", "forbidden", "off"]
"""Whether somebody may change models: not with their key, or nobody."""

WorkerState = Literal["waiting", "loading", "ready", "failed"]
"""Not started yet, no model yet, some model, or none that can be loaded."""

Decoding = Literal["full", "reduced"]
"""Whether large JPEGs are decoded whole, or at a half, a quarter or an eighth of their size."""

Fitting = Literal["crop", "squash", "pad"]
"""How an image is fitted to a model's input."""

Activation = Literal["softmax", "sigmoid", "none"]
"""What makes probabilities of a model's outputs; of those that are probabilities already, nothing."""

ChannelLayout = Literal["NCHW", "NHWC"]
"""Where activations with rows and columns have their channels."""

ChannelOrder = Literal["RGB", "BGR"]
"""In which order a model takes the colours; BGR is OpenCV's and Caffe's."""

Preset = Literal["tf", "caffe", "torch"]
"""The modes of ``preprocess_input`` of ``keras.applications``."""

PrecisionRefusal = Literal["hardware", "source", "failed", "check"]
"""Why bfloat16 was not taken: the device emulates it, the artefact says otherwise, it cannot be computed, or it is not
near enough to float32."""

EvaluationState = Literal["queued", "running", "done", "failed", "cancelled"]
"""How far an evaluation is; the last three end it."""
