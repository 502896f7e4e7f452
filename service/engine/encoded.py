"""Which sentences need no encoding: workers remember those that zero-shot models were asked for last.

Runs in the front process.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from service.models.sentences import SENTENCES_KEPT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.models.info import ModelKey

__all__ = ["EncodedSentences"]


class EncodedSentences:
    """What the front knows of it: what was answered lately, of all models together no more than each remembers.

    A further worker, or one that has begun anew, may have to encode what is known here.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[ModelKey, str], None] = OrderedDict()

    def fresh(self, model: ModelKey, sentences: Iterable[str]) -> int:
        """Return how many of these sentences are to be encoded."""
        return sum((model, sentence) not in self._known for sentence in set(sentences))

    def remember(self, model: ModelKey, sentences: Iterable[str]) -> None:
        """Note that these were encoded."""
        for sentence in sentences:
            self._known[model, sentence] = None
            self._known.move_to_end((model, sentence))
        while len(self._known) > SENTENCES_KEPT:
            self._known.popitem(last=False)
