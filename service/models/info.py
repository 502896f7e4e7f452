"""What the front process knows of a loaded model. Needs no torch to import."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from service.errors import LayerNotExplainable, UnknownHead, UnknownLabel, UnknownLayer, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.cam.layers import Layer
    from service.imaging.preprocess import PreprocessSpec
    from service.vocabulary import Activation, Precision, PrecisionRefusal

__all__ = ["Computing", "Head", "ModelInfo", "ModelKey", "ModelWarning", "PrecisionChoice", "SelfCheck"]

# Characters that a class may be asked for by: what is folded grows up to eighteenfold.
_LONGEST_LABEL = 1000
_INDEX = re.compile(r"#(\d+)")


@dataclass(frozen=True)
class ModelKey:
    """One version of a model, between front and workers; ``revision`` counts what was ever loaded, from 1."""

    name: str
    revision: int


@dataclass(frozen=True)
class ModelWarning:
    """What was assumed of a model, or looks wrong: a stable ``code``, and a sentence with the way out."""

    code: str
    text: str


@dataclass(frozen=True)
class SelfCheck:
    """How near a network in bfloat16 came to itself in float32, over all its heads and the pictures of the check.

    Attributes:
        pictures: how many.
        method: what made the maps; None where no head has a layer to explain.
        correlation: Pearson's, of the two maps of a picture, on average; None without maps.
        lowest_correlation: the least of them.
        same_cell: share of pictures whose strongest cell is the same, or as strong in float32 but for a hundredth.
        same_class: share of those whose best class is the same, or as good in float32 but for a hundredth.
        logits_apart: the largest difference of two logits, as a share of the largest of all pictures.
    """

    pictures: int
    method: str | None
    correlation: float | None
    lowest_correlation: float | None
    same_cell: float | None
    same_class: float
    logits_apart: float


@dataclass(frozen=True)
class PrecisionChoice:
    """How it was settled what a model computes in.

    Attributes:
        asked: what its configuration says, which may be ``auto``.
        refused: why bfloat16 was not taken where it could have been; None where nobody asked, or it was taken.
        reason: the same in a sentence; also of an artefact that leaves no choice.
        check: what comparing with float32 has shown, where that was done.
    """

    asked: str = "float32"
    refused: PrecisionRefusal | None = None
    reason: str | None = None
    check: SelfCheck | None = None


@dataclass(frozen=True)
class Computing:
    """What is done so that a model's passes take less time, each checked against the modules as they are.

    Attributes:
        folded: whether its convolutions compute what comes next, too.
        unfolded: why not, in a sentence.
        parts: in how many a batch is computed, side by side; 1 where it is a whole.
        whole: why it is, in a sentence; None as long as that is being found out.
    """

    folded: bool = False
    unfolded: str | None = None
    parts: int = 1
    whole: str | None = None


@dataclass(frozen=True)
class Head:
    """One output of a model: what it means, and what of the network can be explained with it.

    Attributes:
        labels: one per class, in the order of the logits.
        activation: what makes probabilities of these.
        layers: the catalogue as it is with this output; empty where that is the model's.
        default_layer: likewise, and so for the others.
        recommended: see ``ModelInfo``.
        refused_methods: see ``ModelInfo``.
    """

    labels: tuple[str, ...]
    activation: Activation = "softmax"
    layers: tuple[Layer, ...] = ()
    default_layer: str = ""
    recommended: tuple[str, ...] = ()
    refused_methods: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelInfo:
    """A loaded model, described.

    Attributes:
        name: in the API.
        version: of the weights.
        source: what read it, such as ``torchvision``.
        prompts: of a zero-shot model, what makes a sentence of a label, with ``{}`` for it: requests may bring classes
            of their own. None where the classes are fixed.
        sentence_passes: forward passes over an image that encoding a sentence takes as long as.
        digest: of the weights and the configuration, in hex: what answers depend on.
        architecture: such as ``resnet50``.
        labels: one per class, in the order of the logits.
        preprocess: how an image becomes the input.
        layers: the catalogue, in forward order.
        default_layer: its row that is explained when the caller names none.
        dtype: what the model computes in.
        precision: how that was settled.
        device: where it lives, such as ``cuda:0``.
        parameters: how many numbers were learned.
        recommended: layers worth trying: the default, a finer and a coarser one.
        refused_methods: methods that do not apply to this model, with the reason.
        activation: what makes probabilities of its outputs.
        multi_label: whether several classes may be there at once.
        heads: what each output means, by name, for a model with several; empty otherwise.
        default_head: the one that ``labels`` and ``activation`` belong to; None for a model with one output.
        warnings: what was assumed of it, or looks wrong.
        flops: floating-point operations of a forward pass over one image, where they could be counted.
        pass_s: seconds that it took, where it was loaded.
        revision: which of the versions that the front had loaded.
        memory: bytes that it takes on its device, as far as that can be told.
        content: digest of its artefact, or of its weights, in hex.
        computing: what makes its passes take less time.
    """

    name: str
    version: str
    architecture: str
    labels: tuple[str, ...]
    preprocess: PreprocessSpec
    layers: tuple[Layer, ...]
    default_layer: str
    dtype: Precision
    device: str
    parameters: int
    recommended: tuple[str, ...] = ()
    refused_methods: Mapping[str, str] = field(default_factory=dict)
    activation: Activation = "softmax"
    multi_label: bool = False
    heads: Mapping[str, Head] = field(default_factory=dict)
    default_head: str | None = None
    warnings: tuple[ModelWarning, ...] = ()
    flops: int = 0
    pass_s: float = 0.0
    revision: int = 0
    memory: int = 0
    content: str = ""
    source: str = ""
    digest: str = ""
    prompts: str | None = None
    sentence_passes: float = 0.0
    precision: PrecisionChoice = PrecisionChoice()
    computing: Computing = Computing()

    @property
    def key(self) -> ModelKey:
        """How front and workers call it."""
        return ModelKey(self.name, self.revision)

    @cached_property
    def _layers_by_name(self) -> dict[str, Layer]:
        # A module called several times has a row per call; its bare name means the last one.
        last_calls = {layer.call.module: layer for layer in self.layers}
        return last_calls | {layer.name: layer for layer in self.layers}

    @cached_property
    def _folded_labels(self) -> list[str]:
        return [_folded(label) for label in self.labels]

    @cached_property
    def _classes_by_label(self) -> dict[str, int]:
        return _first_of_each(self.labels)

    @cached_property
    def _classes_by_folded_label(self) -> dict[str, int]:
        return _first_of_each(self._folded_labels)

    def head_view(self, head: str | None) -> ModelInfo:
        """Describe the model as it is with another head.

        Raises:
            UnknownHead: it has no such output.
        """
        if head is None or head == self.default_head:
            return self
        if head not in self.heads:
            has = f"It has {', '.join(self.heads)}." if self.heads else "It has one output; leave the head out."
            raise UnknownHead.among(head, self.heads, has, model=self.name)
        meant = self.heads[head]
        view = replace(self, labels=meant.labels, activation=meant.activation, default_head=head)
        if not meant.layers:
            return view
        return replace(
            view,
            layers=meant.layers,
            default_layer=meant.default_layer or self.default_layer,
            recommended=meant.recommended,
            refused_methods=meant.refused_methods,
        )

    def layer(self, name: str) -> Layer:
        """Find a layer of the catalogue that can be explained; ``default`` is the model's default.

        Raises:
            UnknownLayer: no such layer; carries the closest names.
            LayerNotExplainable: there is one, and no map can be made of it; the message says why.
        """
        layer = self._layers_by_name.get(self.default_layer if name == "default" else name)
        if layer is None:
            known = [layer.name for layer in self.layers if layer.explainable]
            raise UnknownLayer.among(name, known, model=self.name)
        if not layer.explainable:
            raise LayerNotExplainable.because(layer.name, self.name, layer.note, self.default_layer)
        return layer

    def class_index(self, target: str | int) -> int:
        """Find a class by its label or by its index.

        A label as it is written comes first, then one that differs only in what ``_folded`` takes away, then the index:
        labels may be numbers. ``#10`` and the number 10 are always the index.

        Raises:
            UnknownLabel: there is no such class; carries the closest labels.
        """
        if isinstance(target, int):
            return self._checked_index(str(target))
        text = target.strip()
        if len(text) > _LONGEST_LABEL and not text.lstrip("#-").isdecimal():
            raise UnknownLabel.among(text, (), model=self.name)
        if found := _INDEX.fullmatch(text):
            return self._checked_index(found[1])
        named = self._classes_by_label.get(text, self._classes_by_folded_label.get(_folded(text)))
        if named is not None:
            return named
        if text.removeprefix("-").isdecimal():
            return self._checked_index(text)
        raise UnknownLabel.among(text, self.labels, model=self.name)

    def has_label(self, text: str) -> bool:
        """Whether a class is called so, letter by letter."""
        return text in self._classes_by_label

    def _checked_index(self, text: str) -> int:
        # Python refuses, with an error of its own, to parse thousands of digits.
        index = int(text) if len(text) <= 100 else -1
        if 0 <= index < len(self.labels):
            return index
        last = len(self.labels) - 1
        raise UnknownLabel(f"Class index {shorten(text)} is out of range: model {self.name!r} has 0 to {last}.")

    def search_labels(self, query: str, limit: int) -> list[int]:
        """Return up to ``limit`` class indices whose label contains ``query``; those that begin with it come first."""
        folded = _folded(query)
        labels = self._folded_labels
        hits = [index for index, label in enumerate(labels) if folded in label]
        hits.sort(key=lambda index: not labels[index].startswith(folded))
        return hits[:limit]


def _first_of_each(labels: Sequence[str]) -> dict[str, int]:
    # ImageNet has two cranes and two maillots: the first of equal labels wins, the others go by index.
    return {label: index for index, label in reversed(list(enumerate(labels)))}


def _folded(label: str) -> str:
    """Return what equal labels have in common, however they are typed.

    That is the text without differences of case, of composed and decomposed letters, of compatibility forms such as
    full-width letters and no-break spaces, and of how much white space there is.
    """
    compatible = unicodedata.normalize("NFKC", label)
    return " ".join(unicodedata.normalize("NFKC", compatible.casefold()).split())
