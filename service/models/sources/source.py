"""What a source gives, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from service.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from service.cam.explain import Checkpoint
    from service.imaging.preprocess import PreprocessSpec
    from service.models.info import ModelWarning
    from service.models.sentences import Sentences
    from service.settings import ModelConfig
    from service.vocabulary import Activation, ChannelLayout, Precision

__all__ = ["OPTIONS", "Downloads", "LoadedModel", "Source", "ZeroShotClasses", "refuse_options", "refuse_weights"]


@dataclass(frozen=True)
class Downloads:
    """Where weights may be fetched from, and where they are kept.

    Attributes:
        cache_dir: folder for fetched files.
        allowed: whether anything may be fetched at all.
        mirror: base URL in place of the source's own site, or None.
    """

    cache_dir: Path
    allowed: bool = True
    mirror: str | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model as its source gives it, before the configuration's overrides.

    Attributes:
        module: maps (N, channels, H, W) to logits (N, classes).
        preprocess: how a picture becomes the input.
        labels: one per class; None where the source does not know them.
        version: what it is called in answers.
        warnings: what the source had to assume.
        layout: where its 4-D activations have their channels; None where that is to be found out, layer by layer.
        default_layer: the layer to explain by default, where it can be explained; None where the general rule will do.
        hidden: modules that are no layers, by qualified name; the catalogue leaves them out.
        activation: what makes probabilities of the logits, where the artefact says so.
        zero_shot: of a model whose classes are sentences, what makes others of them; None of any other.
        precision: what it computes in, where the artefact says so and that cannot be changed; else None.
        digest: of the artefact, in hex; None where the weights say all that can differ.
        transform: makes what its library prepares an RGB picture with, into a tensor (channels, H, W): what our own
            preprocessing is compared with. None where there is no such thing.
    """

    module: nn.Module
    preprocess: PreprocessSpec
    labels: tuple[str, ...] | None
    version: str
    warnings: tuple[ModelWarning, ...] = ()
    layout: ChannelLayout | None = None
    default_layer: str | None = None
    hidden: frozenset[str] = frozenset()
    activation: Activation | None = None
    precision: Precision | None = None
    digest: str | None = None
    transform: Callable[[], Callable[[Image], Tensor]] | None = None
    zero_shot: ZeroShotClasses | None = None


class ZeroShotClasses(Protocol):
    """The classes of a zero-shot model, which requests may replace."""

    @property
    def prompts(self) -> str:
        """What makes a sentence of a label, with ``{}`` for it."""

    def to(self, device: torch.device) -> None:
        """Bring what encodes sentences to a device."""

    def flops(self) -> int:
        """Count the floating-point operations that a sentence takes."""

    def module(self, sentences: Sentences, checkpoint: Checkpoint) -> nn.Module:
        """Return the model with other classes; it shares all else with the one that was loaded.

        Raises:
            InvalidOption: a sentence cannot be read.
        """


def _none(_architecture_or_artefact: object) -> bool:
    return False


@dataclass(frozen=True)
class Source:
    """One row of the table.

    Attributes:
        title: what it has, for people.
        load: loads a model; raises ``ModelLoadError`` with a sentence that says what to do.
        has: whether it has an architecture of that name, or would have if its library were there.
        architectures: returns the names that it lists.
        reads: whether it reads the artefact at a path, a file or folder that exists, told by its content.
        options: which of ``OPTIONS`` mean something to it; the others are refused.
    """

    title: str
    load: Callable[[ModelConfig, Downloads], LoadedModel]
    has: Callable[[str], bool] = _none
    architectures: Callable[[], Sequence[str]] = tuple
    reads: Callable[[Path], bool] = _none
    options: frozenset[str] = frozenset()


# Options of a model that mean something to some sources alone.
OPTIONS = frozenset({"factory_args", "prompts", "transform_input", "use_ema"})


def refuse_weights(config: ModelConfig) -> None:
    """Refuse weights for what comes with its own.

    Raises:
        ModelLoadError: ``config`` names some.
    """
    if config.weights is not None:
        raise ModelLoadError(f"{config.architecture} comes with its weights; leave {config.weights!r} out.")


def refuse_options(config: ModelConfig, *names: str) -> None:
    """Refuse options that would be ignored.

    Raises:
        ModelLoadError: ``config`` sets one of them.
    """
    for name in names:
        if getattr(config, name) not in (None, {}):
            raise ModelLoadError(
                f"The option {name} means nothing for {config.architecture} as it is loaded; leave it out."
            )
