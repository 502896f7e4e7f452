"""Evaluations, which take minutes: asked for, followed, read. What both clients have of them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias
from urllib.parse import quote

import httpx

from service.client.calls import Call, ImageSource, file_of, get, remove_call, validated
from service.client.errors import ClientError, from_response, from_transport, make_error
from service.wire_evaluation import Evaluation, EvaluationList

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

__all__ = ["AsyncEvaluations", "Evaluations", "ImageSources"]

ImageSources: TypeAlias = "Iterable[ImageSource] | Mapping[str, ImageSource]"
"""Pictures, or pictures by the names under which they are sent: ``cats/1.jpg`` is of the class *cats*."""

_POLL_S = 0.5


class _LazyFile:
    """A file that is open while it is sent, and no longer: there may be a thousand."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._size, self._at = path.stat().st_size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to the beginning or the end, which is all that httpx does."""
        self._close()
        self._at = offset if whence == 0 else self._size + offset
        return self._at

    def tell(self) -> int:
        """Return where it is."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        if self._stream is None:
            self._stream = self._path.open("rb")
            self._stream.seek(self._at)
        data = self._stream.read(size)
        self._at += len(data)
        if not data or self._at >= self._size:
            self._close()
        return data

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def start_call(
    images: ImageSources,
    annotations: str | os.PathLike[str] | bytes | Mapping[str, Any] | None,
    masks: ImageSources | None,
    options: Mapping[str, object],
) -> Call[Evaluation]:
    """Ask for an evaluation."""
    files = [("image", each) for each in _named(images, "image")]
    if not files:
        raise ValueError("There is no picture to send.")
    files += [("mask", each) for each in _named(masks or (), "mask")]
    if annotations is not None:
        files.append(("annotations", ("annotations.json", _coco(annotations))))
    given = {name: value for name, value in options.items() if value is not None}
    data = {name: [str(each) for each in _list(value)] for name, value in given.items()}
    return Call(
        "POST", "/api/v1/evaluations", partial(validated, Evaluation), {"files": files, "data": data}, changes=True
    )


def _named(sources: ImageSources, field: str) -> list[tuple[str, Any]]:
    if isinstance(sources, str | bytes | os.PathLike):
        raise TypeError("Several pictures are expected: put the one into a list.")
    if isinstance(sources, Mapping):
        return [(_sendable(name), _content(source, field)[1]) for name, source in sources.items()]
    return [_content(source, f"{field}-{number + 1}") for number, source in enumerate(sources)]


def _content(source: ImageSource, name: str) -> tuple[str, Any]:
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return _sendable(path.name), _LazyFile(path)
    return file_of(source, name)


def _sendable(name: str) -> str:
    """Return a name of a file, which may be any bytes, as one that can be written down."""
    return os.fsencode(name).decode(errors="replace")


def _coco(annotations: str | os.PathLike[str] | bytes | Mapping[str, Any]) -> bytes:
    if isinstance(annotations, bytes):
        return annotations
    if isinstance(annotations, Mapping):
        return json.dumps(annotations).encode()
    return Path(annotations).read_bytes()


def _list(value: object) -> list[object]:
    return [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)


def _path(evaluation: str) -> str:
    return f"/evaluations/{quote(evaluation, safe='')}"


def _report_call(evaluation: str) -> Call[str]:
    return Call("GET", f"/api/v1{_path(evaluation)}/report", lambda response: response.text)


def _events_path(evaluation: str) -> str:
    return f"/api/v1{_path(evaluation)}/events"


def _event(line: str) -> Evaluation | None:
    """Read a line of server-sent events: comments and names are none of ours."""
    return Evaluation.model_validate_json(line.removeprefix("data: ")) if line.startswith("data: ") else None


def _ended(found: Evaluation) -> bool:
    """Whether nothing more comes of it.

    Raises:
        ClientError: it has failed, or somebody has cancelled it.
    """
    if found.state in {"failed", "cancelled"}:
        reason = f": {found.reason}" if found.reason else "."
        raise make_error("EvaluationNotDone", f"The evaluation has {found.state}{reason}", {})
    return found.state == "done"


def _tell(progress: Callable[[Evaluation], object] | None, found: Evaluation) -> None:
    if progress is not None:
        progress(found)


class Evaluations:
    """What ``Client`` has of evaluations."""

    _http: httpx.Client
    _url: httpx.URL
    _send: Callable[[Call[Any]], Any]
    _sleep: Callable[[float], None]

    def evaluate(
        self,
        images: ImageSources,
        *,
        annotations: str | os.PathLike[str] | bytes | Mapping[str, Any] | None = None,
        masks: ImageSources | None = None,
        progress: Callable[[Evaluation], object] | None = None,
        **options: Any,
    ) -> Evaluation:
        """Measure which layer and method explain a model best, and wait for it, which takes minutes.

            done = client.evaluate(Path("pictures").glob("*.jpg"), annotations="coco.json", purpose="localisation")
            print(done.result.recommendations[0].text)
            Path("report.html").write_text(client.evaluation_report(done.id))

        It is cancelled where the wait for it ends early, by Ctrl-C for example.

        Args:
            images: pictures, or pictures by name.
            annotations: what is on them, as COCO: a file, its bytes, or what it holds.
            masks: instead, a mask for each, of the picture's name.
            progress: told how far it is, now and then.
            **options: ``model``, ``layer``, ``method``, ``purpose``, ``seed``, as the server documents them.

        Raises:
            ClientError: it was refused, has failed, or somebody else has cancelled it.
        """
        found = self.start_evaluation(images, annotations=annotations, masks=masks, **options)
        try:
            while not _ended(found):
                _tell(progress, found)
                self._sleep(_POLL_S)
                found = self.evaluation(found.id)
        except ClientError:
            raise
        except BaseException:
            self.remove_evaluation(found.id)
            raise
        _tell(progress, found)
        return found

    def start_evaluation(
        self,
        images: ImageSources,
        *,
        annotations: str | os.PathLike[str] | bytes | Mapping[str, Any] | None = None,
        masks: ImageSources | None = None,
        **options: Any,
    ) -> Evaluation:
        """Ask for an evaluation as ``evaluate`` does, and do not wait."""
        found: Evaluation = self._send(start_call(images, annotations, masks, options))
        return found

    def evaluation(self, evaluation: str) -> Evaluation:
        """Return how far an evaluation is, and what came out once it is done."""
        found: Evaluation = self._send(get(Evaluation, _path(evaluation)))
        return found

    def evaluation_events(self, evaluation: str) -> Iterator[Evaluation]:
        """Yield how far an evaluation is, whenever that has changed, until it ends, however it does.

        Raises:
            ClientError: there is none, or the connection is lost.
        """
        try:
            with self._http.stream("GET", _events_path(evaluation)) as response:
                if not response.is_success:
                    response.read()
                    raise from_response(response)
                yield from filter(None, map(_event, response.iter_lines()))
        except httpx.RequestError as error:
            raise from_transport(error, self._url) from error

    def evaluations(self) -> EvaluationList:
        """Return the evaluations of this key, without what came out."""
        found: EvaluationList = self._send(get(EvaluationList, "/evaluations"))
        return found

    def evaluation_report(self, evaluation: str) -> str:
        """Return the report of an evaluation that is done, a page of HTML."""
        found: str = self._send(_report_call(evaluation))
        return found

    def remove_evaluation(self, evaluation: str) -> None:
        """Cancel an evaluation, and forget it."""
        self._send(remove_call(_path(evaluation)))


class AsyncEvaluations:
    """What ``AsyncClient`` has of evaluations."""

    _http: httpx.AsyncClient
    _url: httpx.URL
    _send: Callable[[Call[Any]], Awaitable[Any]]
    _sleep: Callable[[float], Awaitable[None]]

    async def evaluate(
        self,
        images: ImageSources,
        *,
        annotations: str | os.PathLike[str] | bytes | Mapping[str, Any] | None = None,
        masks: ImageSources | None = None,
        progress: Callable[[Evaluation], object] | None = None,
        **options: Any,
    ) -> Evaluation:
        """As ``Client.evaluate``."""
        found = await self.start_evaluation(images, annotations=annotations, masks=masks, **options)
        try:
            while not _ended(found):
                _tell(progress, found)
                await self._sleep(_POLL_S)
                found = await self.evaluation(found.id)
        except ClientError:
            raise
        except BaseException:
            await asyncio.shield(self.remove_evaluation(found.id))
            raise
        _tell(progress, found)
        return found

    async def start_evaluation(
        self,
        images: ImageSources,
        *,
        annotations: str | os.PathLike[str] | bytes | Mapping[str, Any] | None = None,
        masks: ImageSources | None = None,
        **options: Any,
    ) -> Evaluation:
        """As ``Client.start_evaluation``."""
        found: Evaluation = await self._send(await asyncio.to_thread(start_call, images, annotations, masks, options))
        return found

    async def evaluation(self, evaluation: str) -> Evaluation:
        """As ``Client.evaluation``."""
        found: Evaluation = await self._send(get(Evaluation, _path(evaluation)))
        return found

    async def evaluation_events(self, evaluation: str) -> AsyncIterator[Evaluation]:
        """As ``Client.evaluation_events``: ``async for found in client.evaluation_events(id)``."""
        try:
            async with self._http.stream("GET", _events_path(evaluation)) as response:
                if not response.is_success:
                    await response.aread()
                    raise from_response(response)
                async for line in response.aiter_lines():
                    if (found := _event(line)) is not None:
                        yield found
        except httpx.RequestError as error:
            raise from_transport(error, self._url) from error

    async def evaluations(self) -> EvaluationList:
        """As ``Client.evaluations``."""
        found: EvaluationList = await self._send(get(EvaluationList, "/evaluations"))
        return found

    async def evaluation_report(self, evaluation: str) -> str:
        """As ``Client.evaluation_report``."""
        found: str = await self._send(_report_call(evaluation))
        return found

    async def remove_evaluation(self, evaluation: str) -> None:
        """As ``Client.remove_evaluation``."""
        await self._send(remove_call(_path(evaluation)))
