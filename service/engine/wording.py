"""The classes of a request: a model's own, or, of a zero-shot model, sentences that come with the request.

Runs in the front process.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from service.errors import InvalidOption, UnknownLabel, shorten
from service.models.sentences import OWN, Sentences, check_sentence, sentence_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from service.engine.request import Request
    from service.models.info import ModelInfo

__all__ = ["Wording"]

_TEXT = "text:"


@dataclass(frozen=True)
class Wording:
    """What the classes of a request are.

    Attributes:
        info: the model, with these classes.
        sentences: what the worker is told of them.
        texts: the index of every sentence that is given by ``text:``.
    """

    info: ModelInfo
    sentences: Sentences = OWN
    texts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request, info: ModelInfo) -> Wording:
        """Find out what the classes are.

        Raises:
            InvalidOption: the model has classes of its own alone, or a label or sentence cannot be read.
        """
        labels = tuple(check_sentence(label, "labels") for label in request.labels)
        texts = tuple(dict.fromkeys(_texts(request, info)))
        if not (labels or texts):
            return cls(info)
        if info.prompts is None:
            raise _fixed(info, labels, texts)
        if len(set(labels)) < len(labels):
            twice = next(label for place, label in enumerate(labels) if label in labels[:place])
            raise InvalidOption(f"'labels': {shorten(twice)!r} is given twice.")
        indices: dict[str, int] = {}
        for index, label in enumerate(labels or info.labels):
            indices.setdefault(sentence_of(info.prompts, label), index)
        beside = tuple(text for text in texts if text not in indices)
        named = (*(labels or info.labels), *beside)
        if len(named) < 2:
            raise InvalidOption("'labels': a sentence is only scored against others. Give two labels or more.")
        indices |= {text: len(named) - len(beside) + place for place, text in enumerate(beside)}
        instead = tuple(sentence_of(info.prompts, label) for label in labels)
        return cls(replace(info, labels=named), Sentences(instead, beside), {text: indices[text] for text in texts})

    def index(self, target: int | str) -> int:
        """Find a class by its label, its index or its sentence.

        Raises:
            UnknownLabel: there is no such class.
        """
        text = _sentence_in(target)
        if text is not None and text in self.texts:
            return self.texts[text]
        try:
            return self.info.class_index(target)
        except UnknownLabel as error:
            if not self.sentences.instead:
                raise
            # Without a name, so that nobody is sent to the model's own classes.
            here = "The classes are the labels that come with the request."
            raise UnknownLabel(f"{error.message} {here}", suggestions=error.suggestions) from None


def _texts(request: Request, info: ModelInfo) -> Iterator[str]:
    """Yield the sentences among a request's classes. A label that begins with ``text:`` is a label."""
    if request.op == "predict":
        return
    for option, classes in (("target", request.targets), ("against", (request.against,))):
        for each in classes:
            text = _sentence_in(each)
            if text is not None and not info.has_label(str(each).strip()):
                yield check_sentence(text, option)


def _sentence_in(target: int | str | None) -> str | None:
    """Return the sentence that a class is given by, behind ``text:``; None where it is a class's name or number."""
    text = str(target).strip()
    return text[len(_TEXT) :].strip() if text[: len(_TEXT)].casefold() == _TEXT else None


def _fixed(info: ModelInfo, labels: tuple[str, ...], texts: tuple[str, ...]) -> InvalidOption:
    given = f"labels such as {shorten(labels[0])!r}" if labels else f"the sentence {shorten(texts[0])!r}"
    return InvalidOption(
        f"The classes of model {info.name!r} are fixed, and {given} cannot be looked for: 'labels' and 'text:' are for "
        "zero-shot models (clip/…). Leave them out, or name a class."
    )
