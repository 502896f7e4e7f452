"""Which tensors of a checkpoint are a network's: found by what the network has, however deep and under whatever prefix.

Trainers put the state dict beside an optimizer and averaged weights, DataParallel and Lightning put a prefix before its
names, and losses and metrics leave tensors of their own between them.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import Tensor

from service.errors import ModelLoadError
from service.models.info import ModelWarning
from service.models.pickles import mapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["StateDict", "WeightSet", "choose", "find_sets", "mappings", "tensor_dicts"]

StateDict = dict[str, Tensor]

# Where trainers put the state dict, the usual place first; what DataParallel and others put before its keys.
_USUAL = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "_orig_mod", "network")
_AVERAGED = re.compile(r"(^|[._])(ema|swa|shadow|averaged?)([._]|$)|moving_average", re.IGNORECASE)

# Left among the weights by losses, metrics (torchmetrics), averaging, and profilers (thop).
_BESIDE = re.compile(
    r"(^|[._])(criteri(on|a)|loss(es|_?fn|_?func)?|metrics?|\w*(acc|accuracy|auc|auroc|f1|precision|recall|confmat|"
    r"confusion_matrix)|pos_weight|class_weights?|n_averaged|total_ops|total_params|teacher|optimizer)([._]|$)",
    re.IGNORECASE,
)
_MOST_PREFIXES = 100  # of a name, and of those that a dict's names have in common
_LONGEST_NAME = 300  # in characters: ten times what layers are called
_DEPTH = 4  # of dicts within dicts: more than any trainer has
_MOST_ITEMS = 100  # of a list that are looked at: the models of an ensemble, not the log of a training

# Where a part of a network was wrapped, as PyTorch's ImageNet example does with the features of VGG.
_WITHIN = re.compile(r"(?<=\.)(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

# torchvision's published DenseNet files predate a renaming: "norm.1" is "norm1" today.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


@dataclass(frozen=True)
class WeightSet:
    """Tensors of a checkpoint that may be the weights.

    Attributes:
        where: the keys of the dicts around them, and the prefix of their names, as in ``state_dict.module``.
        prefix: of their names, as in ``module.``.
        state: those under the prefix, without it.
        others: those of the same dict that are not under the prefix.
        fitting: how many are the network's, by name and shape.
    """

    where: str
    prefix: str
    state: StateDict
    others: StateDict
    fitting: int

    @property
    def averaged(self) -> bool:
        """Whether they are a running average of weights (EMA, SWA), by what they are called."""
        return _AVERAGED.search(self.where) is not None

    @property
    def surplus(self) -> int:
        """How many under the prefix are not the network's."""
        return len(self.state) - self.fitting

    @property
    def unusual(self) -> tuple[int, ...]:
        """How far from where weights usually are: in order, and unlisted places last."""
        parts = self.where.split(".") if self.where else []
        return tuple(_USUAL.index(part) if part in _USUAL else len(_USUAL) for part in parts)

    def completed(self, network: Mapping[str, Tensor]) -> tuple[WeightSet, list[str]]:
        """Add what it lacks from under another prefix, where all of it is there: a backbone and a head apart.

        Returns:
            The set, and the names of what was added, as they are in the file.
        """
        missing = [key for key in network if key not in self.state and not key.endswith("num_batches_tracked")]
        prefixes = {prefix for key in self.others for prefix, name in _endings(key) if name in missing[:1]}
        whole = [
            prefix
            for prefix in prefixes
            if not (_AVERAGED.search(prefix) or _BESIDE.search(prefix))
            and all(
                key_of in self.others and _same_kind(self.others[key_of], network[key])
                for key in missing
                for key_of in [prefix + key]
            )
        ]
        if len(whole) != 1:
            return self, []
        added = {key: whole[0] + key for key in missing}
        others = {key: value for key, value in self.others.items() if key not in added.values()}
        state = self.state | {key: self.others[name] for key, name in added.items()}
        return replace(self, state=state, others=others, fitting=self.fitting + len(added)), list(added.values())

    @property
    def names(self) -> list[str]:
        """Everything in the dict, as it is called there."""
        return [*(self.prefix + key for key in self.state), *self.others]

    def part(self, network: Mapping[str, Tensor], rivals: Iterable[WeightSet]) -> tuple[StateDict, list[str]]:
        """Part what is the network's, or looks as if it should be, from the names of what training left beside it.

        Args:
            network: a state dict of the architecture.
            rivals: other sets of weights, which are no layers of this one.
        """
        copies = tuple(rival.prefix for rival in rivals if rival.prefix)
        own = {key: value for key, value in self.state.items() if key in network or not _is_beside(key, value)}
        ahead, behind = _ends(self.state, network)
        own |= {
            key: value
            for key, value in self.others.items()
            if not (_BESIDE.search(key) or _AVERAGED.search(key) or key.startswith(copies))
            and _could_adjoin(value, ahead, behind)
        }
        return own, [key for key in (*self.state, *self.others) if key not in own]


def _is_beside(key: str, value: Tensor) -> bool:
    """Whether a tensor among the network's own is none of a layer: layers learn, and learn floats."""
    return _BESIDE.search(key) is not None or not value.is_floating_point()


def _ends(state: StateDict, network: Mapping[str, Tensor]) -> tuple[int | None, set[int]]:
    """Return the channels that the first layer takes, and the numbers that the last layer takes and gives."""
    matrices = [state[key] for key in network if key in state and state[key].ndim > 1]
    return (matrices[0].shape[1], set(matrices[-1].shape[:2])) if matrices else (None, set())


def _could_adjoin(value: Tensor, ahead: int | None, behind: set[int]) -> bool:
    """Whether it could be a layer before or behind the network: one that the answer would be wrong without."""
    if value.ndim < 2 or not value.is_floating_point():
        return False
    return value.shape[1] in behind or (value.ndim == 4 and value.shape[0] == ahead)


def tensor_dicts(content: Any) -> Iterator[tuple[str, StateDict]]:
    """Give every dict within ``content`` that holds tensors, after the keys by which one comes to it."""
    for where, whole in mappings(content):
        tensors = {_name(key): value for key, value in whole.items() if _is_named_tensor(key, value)}
        if tensors:
            yield where, tensors


def mappings(content: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Give every dict within ``content``, also within lists, after the keys by which one comes to it."""
    seen: set[int] = set()
    waiting = [("", content)]
    for _ in range(_DEPTH):
        deeper: list[tuple[str, Any]] = []
        for where, found in waiting:
            whole = mapping(found)
            if id(found) in seen:
                continue
            seen.add(id(found))
            if whole is not None:
                yield where, whole
            items = whole.items() if whole is not None else _items(found)
            deeper += [(f"{where}.{key}".lstrip("."), value) for key, value in items if isinstance(key, str)]
        waiting = deeper


def _items(found: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(found, list | tuple):
        yield from ((str(index), item) for index, item in enumerate(found[:_MOST_ITEMS]))


def _is_named_tensor(key: object, value: object) -> bool:
    """Whether it may be a weight: no layer's name is so long that the patterns above would take for ever on it."""
    return isinstance(value, Tensor) and isinstance(key, str | int) and len(str(key)) <= _LONGEST_NAME


def _name(key: object) -> str:
    return _OLD_DENSENET.sub(r"\1\2", str(key))


def find_sets(content: Any, network: Mapping[str, Tensor]) -> list[WeightSet]:
    """Find what may be the weights of ``network``: in every dict, those under the prefix that most of its names have.

    There are several where a checkpoint has the network more than once, as of a student and its teacher.
    """
    return [
        found
        for where, state in tensor_dicts(content)
        for variant in _variants(state)
        for found in _sets_of(where, variant, network)
    ]


def _variants(state: StateDict) -> list[StateDict]:
    """Give the state dict, and where it has wrappers within, the one without them."""
    unwrapped = {_WITHIN.sub("", key): value for key, value in state.items()}
    return [state] if unwrapped.keys() == state.keys() or len(unwrapped) < len(state) else [state, unwrapped]


def _sets_of(where: str, state: StateDict, network: Mapping[str, Tensor]) -> list[WeightSet]:
    fitting: Counter[str] = Counter()
    for key, value in state.items():
        for prefix, name in _endings(key):
            if name in network and _same_kind(value, network[name]):
                fitting[prefix] += 1
    most = max(fitting.values(), default=0)
    common = fitting.most_common(_MOST_PREFIXES)
    return [_under(where, prefix, state, count) for prefix, count in common if count > most / 2]


def _endings(key: str) -> Iterator[tuple[str, str]]:
    """Give all ways to take ``key`` for a prefix and a name: none of it, up to the first dot, and so on."""
    yield "", key
    for dot in islice(re.finditer(r"\.", key), _MOST_PREFIXES):
        yield key[: dot.end()], key[dot.end() :]


def _same_kind(value: Tensor, expected: Tensor) -> bool:
    """Compare shapes but for the first axis, which the number of classes may decide."""
    return value.ndim == expected.ndim and value.shape[1:] == expected.shape[1:]


def _under(where: str, prefix: str, state: StateDict, fitting: int) -> WeightSet:
    return WeightSet(
        f"{where}.{prefix}".strip("."),
        prefix,
        {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)},
        {key: value for key, value in state.items() if not key.startswith(prefix)},
        fitting,
    )


def choose(name: str, sets: list[WeightSet], use_ema: bool | None) -> tuple[WeightSet, list[ModelWarning]]:
    """Choose one set of weights of the file ``name``, and say so where there are others.

    Args:
        name: of the file.
        sets: at least one.
        use_ema: whether to take averaged weights, where there are averaged ones and others; None takes the others.

    Raises:
        ModelLoadError: nothing tells two apart, or there are none of the sort that is asked for.
    """
    most = max(found.fitting for found in sets)
    averaged, others = ([s for s in sets if s.averaged is sort and s.fitting > most / 2] for sort in (True, False))
    if use_ema and not averaged:
        raise ModelLoadError(f"{name} has no averaged weights (EMA). Leave use_ema out.")
    if use_ema is False and not others:
        raise ModelLoadError(f"{name} has averaged weights (EMA) only. Leave use_ema out.")
    chosen, rivals = _best(name, averaged if use_ema or not others else others)
    warnings = []
    if rivals:
        text = f"{name} holds several sets of weights that fit. Taken was {_called(chosen)}, not {_called(rivals[0])}."
        warnings.append(ModelWarning("weights_chosen", text))
    if use_ema is None and averaged:
        way = f"Set use_ema=true to take {_called(averaged[0])}." if others else "There are no others."
        text = f"{name} holds averaged weights (EMA). Taken was {_called(chosen)}. {way}"
        warnings.append(ModelWarning("ema_weights", text))
    return chosen, warnings


def _best(name: str, sets: list[WeightSet]) -> tuple[WeightSet, list[WeightSet]]:
    """Choose the set that fits best: the most of the network, the least else, where weights usually are.

    Returns:
        It, and those that fit as well and are other weights.

    Raises:
        ModelLoadError: nothing tells two apart.
    """
    order = sorted(sets, key=lambda found: (-found.fitting, found.surplus, len(found.unusual), found.unusual))
    best = order[0]
    rivals = [
        found
        for found in order[1:]
        if (found.fitting, found.surplus) == (best.fitting, best.surplus) and not _equal(found.state, best.state)
    ]
    if rivals and rivals[0].unusual == best.unusual:
        raise ModelLoadError(
            f"{name} holds several sets of weights that fit: {best.where} and {rivals[0].where}. Save the one that you "
            f'mean: torch.save(torch.load("{name}", weights_only=False)[…], "weights.pth").'
        )
    return best, rivals


def _called(chosen: WeightSet) -> str:
    return chosen.where or "what is not in a dict of its own"


def _equal(one: StateDict, other: StateDict) -> bool:
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)
