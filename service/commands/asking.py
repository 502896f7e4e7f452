"""A model that a command asks about pictures: loaded in this process, or behind a running server."""

from __future__ import annotations

import argparse
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from service.commands.flags import server_url, settings_of
from service.commands.pictures import explained, loaded, request_of
from service.errors import InvalidImage, ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from service import wire

__all__ = ["Answered", "AskedModel", "add_server", "asked_model"]

_AT_ONCE = 4  # requests to a server


@dataclass(frozen=True)
class Answered:
    """What came back for a picture."""

    image: wire.ImageInfo
    predictions: list[wire.Prediction]
    explanations: list[wire.Explanation]


class _Ask(Protocol):
    async def __call__(self, file: Path, **changes: Any) -> Answered | ServiceError:
        """Answer a file with the options of the command, and ``changes`` to them; return what is wrong with it."""


@dataclass(frozen=True)
class AskedModel:
    """What is asked: a model, and how.

    Attributes:
        name: as it is served.
        version: of its weights.
        digest: of all that it is made of.
        layer: its default one.
        labels: of its classes, as the command's head has them.
        ask: answers one picture.
        at_once: how many pictures it is worth asking for at a time.
    """

    name: str
    version: str
    digest: str
    layer: str
    labels: tuple[str, ...]
    ask: _Ask
    at_once: int


def add_server(parser: argparse.ArgumentParser) -> None:
    """Give a command the flags with which it asks a server in the place of this process."""
    parser.add_argument(
        "--server", type=server_url, metavar="URL", help="ask a running server; --model is then the name of its model"
    )
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="file that holds a key of the server")


def asked_model(
    options: argparse.Namespace, names: Sequence[str], drawn: Mapping[str, Any]
) -> AbstractAsyncContextManager[AskedModel]:
    """Return the model that a command's flags name, to be asked while the context lasts.

    Args:
        options: the flags.
        names: those that are options of a request.
        drawn: further options of every request.

    Raises:
        ServiceError: the model cannot be had, or the options do not go with it.
    """
    return (_there if options.server else _here)(options, names, drawn)


@asynccontextmanager
async def _here(
    options: argparse.Namespace, names: Sequence[str], drawn: Mapping[str, Any]
) -> AsyncIterator[AskedModel]:
    """Load the model in this process."""
    from service.protocols.native.responses import to_wire  # noqa: PLC0415

    given = {name: getattr(options, name) for name in names} | dict(drawn)
    settings, asked = settings_of(options), request_of(argparse.Namespace(**given), "explain")
    async with loaded(settings, asked) as explainer:

        async def ask(file: Path, **changes: Any) -> Answered | ServiceError:
            request = request_of(argparse.Namespace(**given | changes), "explain") if changes else asked
            answer = await explained(explainer, request, file)
            if isinstance(answer, ServiceError):
                return answer
            (result,) = to_wire(answer, str(file)).results
            return Answered(result.image, result.predictions, result.explanations)

        info = explainer.ready_info().head_view(None if asked.head is None else str(asked.head))
        yield AskedModel(
            info.name, info.version, info.digest, info.default_layer, info.labels, ask, settings.max_batch_size
        )


@asynccontextmanager
async def _there(
    options: argparse.Namespace, names: Sequence[str], drawn: Mapping[str, Any]
) -> AsyncIterator[AskedModel]:
    """Ask a running server."""
    from service.client import AsyncClient  # noqa: PLC0415

    if len(options.models or ()) > 1:
        raise ServiceError(
            "A server is asked for one model: give --model once, with the name that the server has for it."
        )
    key = options.api_key_file.read_text(encoding="utf-8").strip() if options.api_key_file else None
    given = {name: value for name in names if (value := getattr(options, name)) is not None} | dict(drawn)
    async with AsyncClient(options.server, api_key=key, timeout=600.0) as client:
        entry = await client.model(options.models[0] if options.models else (await client.models()).default)
        found = await client.classes("", model=entry.name, head=options.head, limit=100_000)
        labels = tuple(each.label for each in found.classes)

        async def ask(file: Path, **changes: Any) -> Answered | ServiceError:
            try:
                answer = await client.explain(file, model=entry.name, **given | changes)
            except OSError as error:
                return InvalidImage(f"The file cannot be read: {error.strerror}.")
            except ServiceError as error:
                return error
            return Answered(answer.image, list(answer.predictions), [each.raw for each in answer.explanations])

        version, digest, layer = entry.version or "", entry.digest or "", entry.default_layer or ""
        yield AskedModel(entry.name, version, digest, layer, labels, ask, _AT_ONCE)
