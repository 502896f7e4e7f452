"""Sentences as the classes of a zero-shot model: what a request may say in place of the model's own. Needs no torch."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from service.errors import InvalidOption, shorten

__all__ = ["LONGEST_SENTENCE", "OWN", "SENTENCES_KEPT", "Sentences", "check_sentence", "sentence_of"]

LONGEST_SENTENCE = 1000
"""Characters; a text encoder reads a few hundred at most."""

SENTENCES_KEPT = 4096
"""How many sentences a model remembers, those that were asked for last."""

_BLANK = re.compile(r"[\s\u2800\u3164]*")


@dataclass(frozen=True)
class Sentences:
    """What a request asks of a zero-shot model, as whole sentences.

    Attributes:
        instead: its classes in place of the model's own; the own ones where there are none.
        beside: further classes behind those.
    """

    instead: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """All of them, in order."""
        return self.instead + self.beside


OWN = Sentences()
"""The model's own classes, as they are."""


def sentence_of(prompts: str, label: str) -> str:
    """Put a label into the prompt."""
    return prompts.replace("{}", label)


def check_sentence(text: str, option: str) -> str:
    """Return a sentence or label as it is taken: without white space around it.

    Raises:
        InvalidOption: there is nothing to read in it, too much, or something that is no text.
    """
    text = text.strip()
    if len(text) > LONGEST_SENTENCE:
        raise InvalidOption(f"{option!r}: {len(text)} characters are too many; {LONGEST_SENTENCE} at most are read.")
    kinds = {unicodedata.category(character) for character in text}
    if kinds & {"Cc", "Cs"} or "\ufffd" in text:
        raise InvalidOption(
            f"{option!r}: {shorten(ascii(text)[1:-1])} holds control characters, or bytes that are no UTF-8. Send "
            "plain text, in one line."
        )
    if _BLANK.fullmatch(text) or kinds <= {"Cf", "Zs", "Mn", "Me"}:
        raise InvalidOption(f"{option!r}: there is no text in it. Say what is to be seen, such as 'a red car'.")
    return text
