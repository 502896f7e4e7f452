"""The half of a zero-shot classifier that reads sentences."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from service.cam.flops import counting_flops
from service.errors import InvalidOption, shorten
from service.models.sentences import SENTENCES_KEPT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["TextEncoder"]

_CHUNK = 16  # sentences encoded at a time: a step, between which others may compute


class TextEncoder:
    """Encodes sentences by a network of open_clip, in float32, and remembers those that were asked for last.

    One thread at a time may use it.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model.eval().requires_grad_(requires_grad=False)
        self._tokenizer = tokenizer
        self._device = torch.device("cpu")
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def to(self, device: torch.device) -> None:
        """Bring it to a device."""
        visual = self._model.visual
        self._model.visual = None  # it has a device and a dtype of its own
        self._model.to(device)
        self._model.visual = visual
        self._device = device
        self._known = OrderedDict((sentence, found.to(device)) for sentence, found in self._known.items())

    def encode(
        self, sentences: Sequence[str], checkpoint: Callable[[int, int], None] = lambda _done, _total: None
    ) -> Tensor:
        """Return features (sentences, D) of length 1.

        Args:
            sentences: some of which may be remembered.
            checkpoint: called with (done, total) between steps.

        Raises:
            InvalidOption: one of them is too long to be read, or holds nothing that is.
        """
        fresh = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._known]
        for sentence in fresh:
            self._check_length(sentence)
        found = {sentence: self._known[sentence] for sentence in sentences if sentence in self._known}
        for done in range(0, len(fresh), _CHUNK):
            checkpoint(done, len(fresh))
            chunk = fresh[done : done + _CHUNK]
            found |= dict(zip(chunk, self._features(chunk), strict=True))
        for sentence in dict.fromkeys(sentences):
            self._known[sentence] = found[sentence]
            self._known.move_to_end(sentence)
        while len(self._known) > SENTENCES_KEPT:
            self._known.popitem(last=False)
        return torch.stack([found[sentence] for sentence in sentences])

    def flops(self) -> int:
        """Count the floating-point operations of one sentence."""
        with counting_flops() as counter:
            self._features(["a photo"])
        return int(counter.get_total_flops())

    def _features(self, sentences: Sequence[str]) -> Tensor:
        with torch.inference_mode(mode=False), torch.no_grad():
            encoded: Tensor = self._model.encode_text(self._tokenizer(list(sentences)).to(self._device))
            return functional.normalize(encoded, dim=-1)

    def _check_length(self, sentence: str) -> None:
        tokens, most = len(self._tokenizer.encode(sentence)), self._tokenizer.context_length - 2
        if tokens > most:
            raise InvalidOption(
                f"The sentence {shorten(sentence)!r} is {tokens} tokens long; the model reads {most} at most. "
                "Shorten it."
            )
        if not tokens:
            raise InvalidOption(f"The sentence {shorten(sentence)!r} holds nothing that the model reads.")
