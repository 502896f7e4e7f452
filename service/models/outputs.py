"""What a model's outputs mean: their classes and labels, and what makes probabilities of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from service.cam.binary import BinaryNetwork
from service.errors import ModelLoadError, ModelOutputError, writable
from service.models.info import Head, ModelWarning
from service.models.labels import read_labels
from service.models.probabilities import activation_for, doubts, examine

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from service.cam.network import Network
    from service.models.inputs import Probe
    from service.settings import ModelConfig

__all__ = ["Outputs", "read_outputs"]


@dataclass(frozen=True)
class Outputs:
    """A model's outputs by name; that of a model with one under None.

    Attributes:
        networks: the model seen through each, with two classes where it has one output.
        heads: what each means.
        warnings: what was found out or assumed.
    """

    networks: dict[str | None, Network] = field(default_factory=dict)
    heads: dict[str | None, Head] = field(default_factory=dict)
    warnings: list[ModelWarning] = field(default_factory=list)


def read_outputs(
    config: ModelConfig,
    networks: Mapping[str | None, Network],
    default: str | None,
    labels: tuple[str, ...] | None,
    probe: Probe,
) -> Outputs:
    """Find out what every output of a model means.

    Args:
        config: of the model.
        networks: the model seen through each of its outputs, as they are.
        default: the output that answers where none is asked for.
        labels: of that output's classes, as the source has them.
        probe: what the model is tried with.

    Raises:
        ModelLoadError: the labels do not fit, or the default output is not finite or no logits.
    """
    given = _given_labels(config, networks, default, labels)
    _refuse_unknown_heads(config, networks)
    found = Outputs()
    for name, network in networks.items():
        own = _of_head(config, name)
        try:
            seen = examine(network, probe)
            activation = activation_for(own, seen)
        except ModelOutputError as error:
            if name == default:
                raise ModelLoadError(error.message) from error
            found.warnings.append(ModelWarning("unusable_head", f"The head {name!r} is left out. {error.message}"))
            continue
        binary = seen.outputs == 1 and not config.multi_label
        found.networks[name] = BinaryNetwork(network, of_probability=activation == "none") if binary else network
        found.heads[name] = Head(_labels(config, seen.outputs, given.get(name)), activation)
        found.warnings.extend(_worded(name, doubts(own, seen, activation)))
    found.warnings.extend(warning for labels in given.values() for warning in _doubled(labels))
    found.warnings.extend(_unlabelled([name for name in found.heads if name not in given], given))
    return found


def _refuse_unknown_heads(config: ModelConfig, heads: Collection[str | None]) -> None:
    for name in config.activation if isinstance(config.activation, dict) else ():
        if name not in heads:
            has = "one output: give one" if None in heads else f"the heads {', '.join(map(str, heads))}"
            raise ModelLoadError(f"Model {config.name!r} has no head {name!r} to give an activation to; it has {has}.")


def _of_head(config: ModelConfig, head: str | None) -> ModelConfig:
    """Return the configuration as it is for one head."""
    if not isinstance(config.activation, dict):
        return config
    return config.model_copy(update={"activation": config.activation.get(str(head), "auto")})


@dataclass(frozen=True)
class _Labels:
    """Labels, and where they are from."""

    names: tuple[str, ...]
    origin: str = "its source"
    from_file: bool = False


def _given_labels(
    config: ModelConfig, heads: Collection[str | None], default: str | None, labels: tuple[str, ...] | None
) -> dict[str | None, _Labels]:
    """Return the labels that are known, by head: a file alone, and what the source knows, are the default head's."""
    files = config.labels if isinstance(config.labels, dict) else {default: config.labels} if config.labels else {}
    for name in files:
        if name not in heads:
            has = "one output: give one file" if None in heads else f"the heads {', '.join(map(str, heads))}"
            raise ModelLoadError(f"Model {config.name!r} has no head {name!r} to give labels to; it has {has}.")
    given = {} if labels is None else {default: _Labels(labels)}
    given |= {name: _Labels(read_labels(file), file.name, from_file=True) for name, file in files.items()}
    return {name: replace(known, names=tuple(map(writable, known.names))) for name, known in given.items()}


def _labels(config: ModelConfig, outputs: int, given: _Labels | None) -> tuple[str, ...]:
    """Return a label per class: two for one output, of which one alone names what the output speaks for.

    Raises:
        ModelLoadError: there are more or fewer.
    """
    binary = outputs == 1 and not config.multi_label
    classes = 2 if binary else outputs
    if given is None:
        return tuple(f"class {index}" for index in range(classes))
    if binary and len(given.names) == 1:
        return f"not {given.names[0]}", given.names[0]
    if len(given.names) != classes:
        count = f"has {classes} classes, but {given.origin} names {len(given.names)}"
        more = " Is its first one a heading, or a class for the background?" if len(given.names) == classes + 1 else ""
        raise ModelLoadError(f"Model {config.name!r} {count}.{more}")
    return given.names


def _doubled(labels: _Labels) -> Iterator[ModelWarning]:
    """Say which labels of a file several classes have; those of a source, as ImageNet's two cranes, are known."""
    counted = Counter(labels.names) if labels.from_file else Counter[str]()
    doubled = [name for name, count in counted.items() if count > 1]
    if doubled:
        name, more = doubled[0], f", and {len(doubled) - 1} more like it" if len(doubled) > 1 else ""
        classes = ", ".join(f"#{index}" for index, other in enumerate(labels.names) if other == name)
        yield ModelWarning(
            "equal_labels",
            f"{labels.origin} calls several classes {name!r}: {classes}{more}. By its label the first is meant; ask "
            "for the others by their index, with the #.",
        )


def _unlabelled(heads: Sequence[str | None], labelled: Collection[str | None]) -> Iterator[ModelWarning]:
    """Say which heads have no labels where others have."""
    if heads and labelled:
        names = ", ".join(repr(head) for head in heads)
        yield ModelWarning(
            "unlabelled_head",
            f"No labels are known for the head {names}: its classes are numbered. Give each head a file of its own, "
            f"labels.{heads[0]}=FILE on the command line or a table [models.labels] in the settings file.",
        )


def _worded(head: str | None, odd: Iterable[tuple[str, str]]) -> Iterator[ModelWarning]:
    subject = "The outputs" if head is None else f"The outputs of head {head!r}"
    for code, text in odd:
        yield ModelWarning(code, f"{subject} {text}")
