"""Programs of ``torch.export``: ``.pt2`` files, brought back to the modules that they were exported from.

A program is one flat graph, which says of each operator in which module it was called. Unflattened, the modules are
there again under their names, so that their outputs can be watched.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.export.unflatten import InterpreterModule, UnflattenedModule
from torch.fx.node import map_aggregate

from service.errors import ModelLoadError, first_line
from service.models.digests import digest_of_files
from service.models.file_kinds import EXPORTED, kind_of
from service.models.programs import read_program
from service.models.sources.graph_inputs import graph_input
from service.models.sources.source import Downloads, LoadedModel, refuse_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from torch import Tensor, fx, nn

    from service.models.programs import Program
    from service.settings import ModelConfig

__all__ = ["load", "reads"]

log = logging.getLogger("camserve.models")

_FREE_BATCH = "dynamic_shapes=({0: torch.export.Dim('batch')},)"
_FREE_SIZE = "dynamic_shapes=({0: Dim('batch'), 2: Dim('height'), 3: Dim('width')},)"


def reads(path: Path) -> bool:
    """Return whether it is an exported program."""
    return path.is_file() and kind_of(path) is EXPORTED


def load(config: ModelConfig, _downloads: Downloads) -> LoadedModel:
    """Load the program at ``config.architecture``. Nothing in it is unpickled.

    Raises:
        ModelLoadError: it is damaged, cannot be batched, was exported in training mode, or has another input.
    """
    file = Path(config.architecture)
    refuse_weights(config)
    program = read_program(file)
    _check_can_be_served(program, file)
    size = program.channels, program.height, program.width
    spec, assumed = graph_input(config, file, size, fixed=program.fixed, how_to_free=_FREE_SIZE)
    module = _unflattened(program, file)
    digest = digest_of_files(file)
    return LoadedModel(
        module, spec, None, digest[:12], assumed, default_layer=_before_last_attention(module), digest=digest
    )


def _check_can_be_served(program: Program, file: Path) -> None:
    if program.batch is not None:
        raise ModelLoadError(
            f"{file.name} was exported for batches of {program.batch}. Export it again for any, from an example of two "
            f"pictures: torch.export.export(model.eval(), (torch.randn(2, {program.channels}, {program.height}, "
            f"{program.width}),), {_FREE_BATCH})."
        )
    if program.training is not None:
        raise ModelLoadError(
            f"{file.name} was exported in training mode: its {program.training} is active, which cannot be changed "
            f"afterwards. Export it again from model.eval(): torch.export.export(model.eval(), …, {_FREE_BATCH})."
        )


def _unflattened(program: Program, file: Path) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch uses what it has deprecated itself
            module = torch.export.unflatten(torch.export.load(program.archive))
    except Exception as error:  # a graph may be wrong in any way
        log.info("%s could not be loaded", file.name, exc_info=error)
        raise ModelLoadError(
            f"{file.name} cannot be loaded by this torch ({torch.__version__}): {type(error).__name__}: "
            f"{first_line(error)}. Export it again with a current one."
        ) from error
    for part in module.modules():
        if isinstance(part, InterpreterModule):
            part.__class__ = _class_like(part.type_name())
    module.__class__ = ExportedModule
    return module


def _class_like(original: str | None) -> type[InterpreterModule]:
    """Make a class that is called as the module's own was: the catalogue tells kinds of layers by it."""
    home, _, name = (original or "torch.nn.modules.module.Module").rpartition(".")
    return type(name, (InterpreterModule,), {"__module__": home})


def _before_last_attention(module: nn.Module) -> str | None:
    """Return the norm in front of the last attention of a network with a class token; None for any other.

    Behind that attention only the class token is read: the gradient is zero everywhere else.
    """
    tokens = ("class_token", "cls_token", "class_embedding")
    if not any(name.endswith(tokens) for name in module.state_dict()):
        return None
    types: dict[str, str] = {name: type(part).__name__ for name, part in module.named_modules()}
    attentions = [name for name, kind in types.items() if "Attention" in kind]
    block = attentions[-1] if attentions else ""
    while block:
        block = block.rpartition(".")[0]
        depth = block.count(".") + bool(block)
        within = [name for name in types if name.startswith(f"{block}.") and name.count(".") == depth]
        norms = [name for name in within if "Norm" in types[name]]
        if norms:
            return norms[0]
    return None


class ExportedModule(UnflattenedModule):
    """A program that follows its weights to another device: its graphs name the device that new tensors are made on."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        devices = {value.device for value in self.state_dict().values()}
        if len(devices) == 1:
            (device,) = devices
            for node in _nodes(self):
                node.args = map_aggregate(node.args, lambda each: _on(device, each))
                node.kwargs = map_aggregate(node.kwargs, lambda each: _on(device, each))
        return self


def _nodes(module: nn.Module) -> Iterator[fx.Node]:
    for part in module.modules():
        graph = getattr(part, "graph", None)
        yield from graph.nodes if graph is not None else ()


def _on(device: torch.device, given: Any) -> Any:
    return device if isinstance(given, torch.device) else given
