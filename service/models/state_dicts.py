"""Weights from files into networks: safetensors, or PyTorch checkpoints as trainers write them."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.errors import ModelLoadError
from service.models.checkpoints import read_checkpoint
from service.models.digests import digest_of_files
from service.models.info import ModelWarning
from service.models.pickles import Inert, mapping
from service.models.weight_sets import StateDict, choose, find_sets, mappings, tensor_dicts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

__all__ = ["StateDict", "Weights", "digest", "load_file_into", "load_into", "read_weights", "reason_if_whole_model"]

_NAME_IT = "Name the architecture that these weights were trained with."
_WRITE_IT = (
    "Name the architecture that these weights were trained with; where it was changed for them, write a function that "
    "returns the changed network and name that, such as mypackage.nets.build."
)
# What a network that normalises its own input calls the numbers for it.
_NORMALISES = re.compile(r"(^|[._])(mean|std)$")
_MOST_MOMENTS = 4

# How Hugging Face calls the parts of weights: model-00001-of-00002.safetensors.
_PART = re.compile(r"\d+-of-\d+\b")


@dataclass(frozen=True)
class Weights:
    """The weights of a network, by the network's own names, and what had to be chosen or set aside to find them."""

    state: StateDict
    warnings: tuple[ModelWarning, ...] = ()


def read_weights(file: Path, network: Mapping[str, Tensor], *, use_ema: bool | None = None) -> Weights:
    """Find the weights of ``network`` in a file, however deep and under whatever prefix they are.

    Args:
        file: safetensors or a PyTorch checkpoint, told by its content.
        network: a state dict of the architecture; its names and shapes count. The first axis of a tensor may differ,
            as it does with the number of classes.
        use_ema: whether to take averaged weights, where there are averaged ones and others; None takes the others
            and says so.

    Returns:
        What is the network's, or looks as if it should be; ``load_into`` compares them one by one.

    Raises:
        ModelLoadError: the file is missing, damaged or of another kind, or it holds no such weights.
    """
    content = read_checkpoint(file)
    sets = find_sets(content, network)
    if not sets:
        raise ModelLoadError(_why_none(file.name, content, network))
    chosen, warnings = choose(file.name, sets, use_ema)
    if chosen.fitting < len(network) / 2 and _missing(chosen.state, network):  # what they share is a coincidence
        raise ModelLoadError(_difference(file.name, chosen.names, network))
    whole, added = chosen.completed(network)
    if added:
        text = f"{file.name} has its weights in two places: {chosen.where} was taken, and {_some(added)} beside it."
        warnings.append(ModelWarning("weights_joined", text))
    own, beside = whole.part(network, [found for found in sets if found is not chosen])
    if missing := _missing(own, network):
        _refuse_other_forms(file.name, content, chosen.prefix, missing)
    if beside:
        text = f"{file.name} holds tensors that are not the network's, and that were set aside: {_some(beside)}."
        warnings.append(ModelWarning("weights_set_aside", text))
    if moments := {key: value for key, value in whole.others.items() if _NORMALISES.search(key)}:
        listed = ", ".join(f"{key} {_numbers(value)}" for key, value in moments.items())
        text = f"{file.name} was trained behind a normalisation, which is not the network's: {listed}."
        warnings.append(
            ModelWarning("normalisation_set_aside", f"{text} Set the model's mean and std to what it says.")
        )
    return Weights(own, tuple(warnings))


def _numbers(value: Tensor) -> str:
    return "/".join(f"{number:.4g}" for number in value.flatten()[:_MOST_MOMENTS].tolist())


def _refuse_other_forms(name: str, content: Any, prefix: str, missing: Iterable[str]) -> None:
    """Refuse weights that are there, but not as plain tensors: sparse ones, or NumPy's.

    Raises:
        ModelLoadError: one of the ``missing`` is.
    """
    for _, whole in mappings(content):
        for key in missing:
            found = whole.get(prefix + key)
            if isinstance(found, Inert):
                raise ModelLoadError(
                    f"{name} holds {prefix}{key} as {found.name}, which is no plain tensor. Save "
                    "{name: value.to_dense().contiguous() for name, value in model.state_dict().items()}."
                )


def _why_none(name: str, content: Any, network: Mapping[str, Tensor]) -> str:
    """Say why nothing in a checkpoint fits a network at all."""
    if reason := reason_if_whole_model(name, content):
        return reason
    tensors = [f"{where}.{key}".lstrip(".") for where, state in tensor_dicts(content) for key in state]
    if not tensors and any(_is_numpy(value) for _, whole in mappings(content) for value in whole.values()):
        return (
            f"{name} holds NumPy arrays instead of tensors. Save "
            "{name: torch.from_numpy(value) for name, value in weights.items()} with torch.save."
        )
    if not tensors:
        return (
            f"The weights file {name} holds no state dict. Save one with "
            "safetensors.torch.save_file(model.state_dict(), …) or torch.save(model.state_dict(), …)."
        )
    return _difference(name, tensors, network)


def reason_if_whole_model(name: str, content: Any) -> str | None:
    """Say how to come to weights from a checkpoint that holds a pickled model, alone or in a dict; None for others."""
    for key, found in [("", content), *(mapping(content) or {}).items()]:
        if isinstance(found, Inert) and isinstance(found.state, dict) and "_modules" in found.state:
            within = f'["{key}"]' if key else ""
            return (
                f"{name} holds a whole model ({found.name}), and its code is not run. Take its weights where it was "
                f'trained: torch.save(torch.load("{name}", weights_only=False){within}.state_dict(), "weights.pth").'
            )
    return None


def _is_numpy(value: object) -> bool:
    return isinstance(value, Inert) and value.name.startswith("numpy.") and value.name.endswith("._reconstruct")


def load_file_into(module: nn.Module, file: Path, *, use_ema: bool | None = None) -> tuple[ModelWarning, ...]:
    """Fill ``module`` from ``file``; return what had to be chosen or set aside.

    Raises:
        ModelLoadError: the file cannot be read, or does not fit.
    """
    weights = read_weights(file, module.state_dict(), use_ema=use_ema)
    load_into(module, weights.state, file.name)
    return weights.warnings


def load_into(module: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load ``state`` into ``module``; every key must be there, none may be left over.

    Raises:
        ModelLoadError: keys or shapes do not match; the message names them, the surprising ones first, and ``origin``.
    """
    expected = module.state_dict()
    if _missing(state, expected) or state.keys() - expected.keys():
        raise ModelLoadError(_difference(origin, state, expected))
    sizes = [
        f"{key} is {_shape(state[key])} and should be {_shape(value)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if sizes:
        more = f", and {len(sizes) - 2} more" if len(sizes) > 2 else ""
        way_out = _NAME_IT if more else _WRITE_IT
        raise ModelLoadError(f"{origin} does not fit the architecture: {'; '.join(sizes[:2])}{more}. {way_out}")
    if whole := [key for key in expected if key in state and _loses_its_meaning(state[key], expected[key])]:
        raise ModelLoadError(
            f"{origin} holds {whole[0]} as {str(state[whole[0]].dtype).removeprefix('torch.')}, "
            "and the network computes with real numbers: quantised and complex weights are not served."
        )
    # Files carry no module versions, or have lost them with their wrappers, and MNASNet refuses to load without: take
    # them to be the current ones.
    versioned = OrderedDict(state)
    versioned._metadata = expected._metadata  # type: ignore[attr-defined]
    module.load_state_dict(versioned, strict=False)


def _loses_its_meaning(value: Tensor, expected: Tensor) -> bool:
    """Whether a layer that computes in floats would take whole or complex numbers for them."""
    return expected.is_floating_point() and not value.is_floating_point()


def _missing(found: Iterable[str], network: Mapping[str, Tensor]) -> list[str]:
    """Return what is not there; old checkpoints lack BatchNorm's counter of batches, which answering does not need."""
    there = set(found)
    return [key for key in network if key not in there and not key.endswith("num_batches_tracked")]


def _difference(name: str, found: Iterable[str], network: Mapping[str, Tensor]) -> str:
    missing, unexpected = _missing(found, network), [key for key in found if key not in network]
    differences = [f"{verb} {_some(keys)}" for verb, keys in (("has", unexpected), ("lacks", missing)) if keys]
    if not differences:
        differences = ["has tensors of these names in other shapes"]
    way_out = _NAME_IT if len(missing) > len(network) / 2 else _WRITE_IT
    if _PART.search(name):
        way_out = "It is one of several parts: put the tensors of all of them into one file."
    return f"{name} does not fit the architecture: it {' and '.join(differences)}. {way_out}"


def _shape(value: Tensor) -> str:
    return "×".join(str(size) for size in value.shape) or "a number"


def _some(keys: Iterable[str]) -> str:
    """Name the surprising ones first: those that share the beginning of their name with the fewest others."""
    common = Counter(key.partition(".")[0] for key in keys)
    listed = sorted(keys, key=lambda key: common[key.partition(".")[0]])
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def digest(file: Path) -> str:
    """Return the first 12 hex digits of the file's SHA-256."""
    return digest_of_files(file)[:12]
