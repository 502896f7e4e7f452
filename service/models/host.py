"""A loaded model: its networks on their device, its lock, and what is known of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from service.cam.explain import explain, predict
from service.cam.targets import PLAIN, CamOptions
from service.errors import MethodNotApplicable, ModelOutputError
from service.models.fair_lock import FairLock
from service.models.sentences import OWN
from service.models.side_by_side import SideBySide, Whole, folded_within

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from service.cam.explain import Checkpoint, Explained
    from service.cam.network import Network
    from service.cam.targets import Targets
    from service.models.info import ModelInfo
    from service.models.sentences import Sentences

__all__ = ["HowTo", "ModelHost", "Worded"]

# What was raised is told in the log alone: it may say something of a caller's picture.
_STRAYED = "Its code did something else for a picture than when it was loaded."

Worded = Callable[["Sentences", "Checkpoint"], "Network"]
"""Makes the network that has some sentences for its classes."""


# For how long a large answer gives way at a time, and how long the next small batch takes to come after one has ended.
_GIVES_WAY_S, _NEXT_S = 0.1, 0.005


def _go_on(_done: int, _total: int) -> None:
    """Do nothing at a checkpoint."""


@dataclass(frozen=True)
class HowTo:
    """How a batch is explained: the same layers, methods, options, head and sentences for all its images.

    With a ``random_head``, by the network whose last layer has its weights in a random order: that of this seed.
    With ``both_heads``, by both, see ``explain``'s ``heads``: the random head's classes follow the model's own.
    """

    layers: tuple[str, ...]
    methods: tuple[str, ...]
    options: CamOptions = PLAIN
    head: str | None = None
    sentences: Sentences = OWN
    random_head: int | None = None
    both_heads: bool = False


class ModelHost:
    """One model on one device: computes one batch at a time, in order of arrival; large ones give way between steps."""

    def __init__(
        self,
        networks: Mapping[str | None, Network],
        info: ModelInfo,
        device: torch.device,
        *,
        channels_last: bool = True,
        worded: Worded | None = None,
    ) -> None:
        """Take over a model.

        Args:
            networks: one per head, by name; that of a model with one output under None.
            info: what is known of it.
            device: where it lives.
            channels_last: whether it takes pixels as they lie in pictures, which is faster; else they are rearranged.
            worded: of a zero-shot model; called by one thread at a time.
        """
        self.info = info
        self._networks = networks
        self._worded = worded
        self._device = device
        self._dtype = getattr(torch, info.dtype)
        self._lock = FairLock()
        spec = info.preprocess
        # (pixels * scale - mean) / std as one multiplication and one addition per pixel
        std = torch.tensor(spec.std).view(-1, 1, 1)
        self._scale = (1 / (1 / spec.scale * std)).to(device)
        self._shift = (-torch.tensor(spec.mean).view(-1, 1, 1) / std).to(device)
        self._swapped = spec.order == "BGR"
        self.channels_last = channels_last
        self._parts: SideBySide | None = None
        self._noting = threading.Lock()

    def compute_in_parts(self) -> None:
        """Compute batches in parts side by side from now on, one for each thread, where that is no slower.

        That is found out between batches, in some passes; ``info`` says it then.
        """
        try:
            self._parts = self._tried_in_parts()
        except Whole as told:
            self._note(whole=str(told))
        else:
            self._note(parts=len(self._parts.networks))

    def _tried_in_parts(self) -> SideBySide:
        if self._device.type != "cpu":
            raise Whole("It is not computed on a CPU.")
        spec, rows = self.info.preprocess, SideBySide.least_rows()
        pixels = np.random.default_rng(0).integers(0, 256, (rows, spec.height, spec.width, spec.channels), np.uint8)
        return SideBySide.where_it_pays(self.network(), self.normalise(pixels), self._lock)

    def stay_whole(self, why: str) -> None:
        """Compute batches as a whole, since finding out what is best has failed."""
        self._note(whole=why)

    def note_straying(self) -> bool:
        """Let ``info`` say so where it is not folded any more; return whether that is news."""
        networks = self._parts.networks if self._parts is not None else (self.network(),)
        strayed = any(each.has_strayed for each in filter(None, map(folded_within, networks)))
        if not (strayed and self.info.computing.folded):
            return False
        self._note(folded=False, unfolded=_STRAYED)
        return True

    def _note(self, **found: Any) -> None:
        with self._noting:  # parts are tried beside batches
            self.info = replace(self.info, computing=replace(self.info.computing, **found))

    def predict(
        self,
        pixels: NDArray[np.uint8],
        head: str | None = None,
        checkpoint: Checkpoint = _go_on,
        sentences: Sentences = OWN,
    ) -> Tensor:
        """Return float32 logits (N, classes) on the CPU for ``pixels`` (N, H, W, channels) uint8, RGB or grey.

        ``checkpoint`` is called when the model is free, before the pass. The classes are ``sentences`` where there are
        some.
        """
        with self._lock:
            checkpoint(0, 1)
            network = self.network(head, sentences, checkpoint)
            if (parts := self._parts_for(network, len(pixels))) is None:
                return predict(network, self.normalise(pixels))
            rows = parts.compute(len(pixels), lambda own, rows: list(predict(own, self.normalise(pixels[rows]))))
            return torch.stack(rows)

    def _parts_for(self, network: Network, rows: int) -> SideBySide | None:
        parts = self._parts
        return parts if parts is not None and parts.network is network and parts.takes(rows) else None

    def explain(
        self,
        pixels: NDArray[np.uint8],
        targets: Sequence[Targets],
        how: HowTo,
        checkpoint: Checkpoint = _go_on,
        *,
        gives_way: bool = True,
    ) -> list[Explained]:
        """Explain the classes that each image asks for; see :func:`service.cam.explain.explain`.

        Args:
            pixels: (N, H, W, channels) uint8, RGB or grey, at the model's input size.
            targets: N of them.
            how: the same for all images.
            checkpoint: called when the model is free, and between steps, after others that wait have computed.
            gives_way: whether others that wait compute between its steps.

        Raises:
            ModelOutputError: see there; or a random head is asked for, and it is not known what the head is.
        """
        passed = False

        def give_way(done: int, total: int) -> None:
            nonlocal passed
            self._synchronise()
            passed |= self._give_way()
            checkpoint(done, total)

        def compute(checkpoint: Checkpoint) -> list[Explained]:
            layers = [self.info.head_view(how.head).layer(name) for name in how.layers]
            network = self.network(how.head, how.sentences, checkpoint)
            if how.random_head is not None:
                network = self._with_random_head(network, how, how.random_head)
            heads = 2 if how.both_heads else 1

            def of_rows(network: Network, rows: slice) -> list[Explained]:
                inputs = self.normalise(pixels[rows])
                return explain(network, inputs, targets[rows], layers, how.methods, how.options, checkpoint, heads)

            # Parts do not end their steps together, which is when others would be let go first.
            parts = None if gives_way else self._parts_for(network, len(pixels))
            return of_rows(network, slice(None)) if parts is None else parts.compute(len(pixels), of_rows)

        with self._lock:
            try:
                return compute(give_way if gives_way else checkpoint)
            except MethodNotApplicable:
                # A model that writes into buffers of its own spoils the graph of whom it has given way: then without.
                if not passed:
                    raise
            return compute(checkpoint)

    def _with_random_head(self, network: Network, how: HowTo, seed: int) -> Network:
        view = self.info.head_view(how.head)
        own = 0 if how.sentences.instead else len(view.labels)
        classes = own + len(how.sentences.all)
        if how.both_heads:
            asked = [view.layer(name) for name in how.layers]
            other = network.beside_random_head(view.layers, asked, classes, seed)
        else:
            other = network.with_random_head(view.layers, classes, seed)
        if other is None:
            raise ModelOutputError(f"It is not known what the head of model {self.info.name!r} is.")
        return other

    def _give_way(self) -> bool:
        """Let others go first who wait, and who come at once after these; return whether there were any."""
        passed, until = False, time.monotonic() + _GIVES_WAY_S
        while self._lock.yield_to_waiting():
            passed = True
            if time.monotonic() > until:
                break
            time.sleep(_NEXT_S)
        return passed

    def _synchronise(self) -> None:
        """Wait until the device has done what it was told: whoever comes next would have to."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def network(self, head: str | None = None, sentences: Sentences = OWN, checkpoint: Checkpoint = _go_on) -> Network:
        """Return the network as it is seen through a head, the default one if None, or with sentences as its classes.

        Raises:
            InvalidOption: a sentence cannot be read.
        """
        if sentences == OWN:
            return self._networks[head or self.info.default_head]
        assert self._worded is not None, "requests with sentences are planned for zero-shot models alone"
        return self._worded(sentences, checkpoint)

    def has_random_head(self) -> bool:
        """Whether it is known what the model's last layer is, so that it can be made one that has learned nothing."""
        return self.network().with_random_head(self.info.layers, len(self.info.labels), 0) is not None

    def normalise(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return the network's input (N, channels, H, W) for ``pixels`` (N, H, W, channels) uint8."""
        batch = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2)  # (N, channels, H, W)
        if self._swapped:
            batch = batch.flip(1)
        if not self.channels_last:
            batch = batch.contiguous()
        return torch.addcmul(self._shift, batch.float(), self._scale).to(self._dtype)
