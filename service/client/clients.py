"""The two clients, thin over ``calls``."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

import httpx

from service import __version__, wire, wire_models
from service.client.calls import (
    READY,
    VERSION,
    Call,
    ImageSource,
    alias_call,
    explain_call,
    get,
    layers_call,
    model_path,
    only,
    predict_call,
    put_call,
    reload_call,
    remove_call,
    unload_call,
)
from service.client.errors import ConnectionFailed, TimedOut, from_response, from_transport, make_error
from service.client.evaluations import AsyncEvaluations, Evaluations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from typing import Self, Unpack

    from service.client.answers import Explained, Failed, Predicted
    from service.options import ExplainArguments, PredictArguments

__all__ = ["AsyncClient", "Client"]

T = TypeVar("T")
TransportT = TypeVar("TransportT")

_MAX_WAIT_S = 60.0


def _jitter() -> float:
    return random.uniform(0.5, 1.5)  # noqa: S311 -- spreads callers over time, keeps no secret


def _left(until: float, url: httpx.URL) -> float:
    """Return the seconds to wait before the next look at ``/readyz``; raise when the time is over."""
    left = until - time.monotonic()
    if left <= 0:
        raise make_error("NotReady", f"{url} did not become ready in time. Its /readyz and its log say why.", {})
    return min(left, 0.25)


class _Base(Generic[TransportT]):
    """What both clients are made of: the settings, and the decision what follows an attempt."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        timeout: float | None = 60.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        transport: TransportT | None = None,
        api_key: str | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://, which {base_url!r} does not.")
        sent = httpx.Headers({"User-Agent": f"camserve-client/{__version__}", "Accept": "application/json"})
        if api_key is not None:
            sent["Authorization"] = f"Bearer {api_key}"
        sent.update(headers)
        self._url, self._retries = httpx.URL(base_url), retries
        self._open({"base_url": base_url, "timeout": timeout, "headers": sent, "transport": transport})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._url)!r})"

    def _open(self, settings: dict[str, Any]) -> None:
        raise NotImplementedError

    def _pause(self, attempt: int, retry_after: str | None = None) -> float:
        wait = (
            float(retry_after) if retry_after and retry_after.isdecimal() else 2.0 ** min(attempt, 9) * 0.5 * _jitter()
        )
        return min(wait, _MAX_WAIT_S)

    def _after_response(self, call: Call[Any], attempt: int, response: httpx.Response) -> float | None:
        """Return the seconds to wait for the next attempt, or None if this is the answer; raise to give up."""
        if response.is_success or (call.probe and response.status_code == 503):
            return None
        if response.status_code in {429, 503} and attempt < self._retries:
            return self._pause(attempt, response.headers.get("Retry-After"))
        raise from_response(response)

    def _after_error(self, call: Call[Any], attempt: int, error: httpx.RequestError) -> float:
        """Return the seconds to wait for the next attempt; raise to give up."""
        failure = from_transport(error, self._url)
        lasting = call.probe or call.changes or isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
        if isinstance(failure, ConnectionFailed) and not lasting and attempt < self._retries:
            return self._pause(attempt)
        raise failure from error


class Client(_Base[httpx.BaseTransport], Evaluations):
    """Asks a camserve server. Safe to share between threads; a context manager that closes its connections.

    A full or a loading server (429, 503) and a failed connection are tried again up to ``retries`` times, after what
    ``Retry-After`` says or else a growing pause, a minute at most. Nothing else is, a slow answer neither. What changes
    models is not sent again after a failed connection: it may have been done.

    Args:
        base_url: where the server is, with the path prefix if a proxy gives it one.
        timeout: seconds for each step (connecting, sending, waiting) of an attempt; None waits for ever.
        retries: how often to try again.
        headers: further headers of every request.
        transport: an httpx transport in place of the network.
        api_key: sent as ``Authorization: Bearer …``.
    """

    def _open(self, settings: dict[str, Any]) -> None:
        self._http = httpx.Client(**settings)
        self._sleep: Callable[[float], None] = time.sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, call: Call[T]) -> T:
        attempt = 0
        while True:
            try:
                response = self._http.request(call.verb, call.path, **call.arguments)
            except httpx.RequestError as error:
                wait: float | None = self._after_error(call, attempt, error)
            else:
                wait = self._after_response(call, attempt, response)
            if wait is None:
                return call.parse(response)
            self._sleep(wait)
            attempt += 1

    def explain(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        version: str | None = None,
        **options: Unpack[ExplainArguments],
    ) -> Explained:
        """Say what the model sees in a picture and where it looked.

            explained = client.explain("cat.jpg", target=["predicted", "tiger cat"], method="gradcam")
            explained.overlay().save("why.png")
            for explanation in explained.explanations:
                print(explanation.label, explanation.maximum, explanation.map().shape)

        Args:
            image: a path, a file's bytes, or a PIL picture.
            model: name of the model; None is the server's default.
            version: label of one of its versions; None is the one that its name points to.
            **options: those of ``ExplainArguments``, as the server documents them. ``layer``, ``target``, ``method``
                and ``output`` take one value or several, and there is an explanation per layer, method and target, in
                that nesting order. ``output`` is heatmap, overlay and map unless given.

        Raises:
            ClientError: there is no answer; its class says why.
        """
        return only(self._send(explain_call([image], model, version, options)))

    def explain_many(
        self,
        images: Iterable[ImageSource],
        *,
        model: str | None = None,
        version: str | None = None,
        **options: Unpack[ExplainArguments],
    ) -> list[Explained | Failed]:
        """Explain several pictures in one request; one that cannot be read is a ``Failed`` in its place.

            for path, answer in zip(paths, client.explain_many(paths, layer="layer4")):
                print(path, answer.error if isinstance(answer, Failed) else answer.label)

        What is wrong with the request as a whole is raised, as by ``explain``.
        """
        return self._send(explain_call(images, model, version, options))

    def predict(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        version: str | None = None,
        **options: Unpack[PredictArguments],
    ) -> Predicted:
        """Say what the model sees in a picture: ``client.predict("cat.jpg", top_k=3).predictions``."""
        return only(self._send(predict_call([image], model, version, options)))

    def predict_many(
        self,
        images: Iterable[ImageSource],
        *,
        model: str | None = None,
        version: str | None = None,
        **options: Unpack[PredictArguments],
    ) -> list[Predicted | Failed]:
        """Predict several pictures in one request; one that cannot be read is a ``Failed`` in its place."""
        return self._send(predict_call(images, model, version, options))

    def models(self) -> wire_models.ModelList:
        """Return what is served."""
        return self._send(get(wire_models.ModelList, "/models"))

    def model(self, name: str) -> wire_models.ModelEntry:
        """Return one model's entry."""
        return self._send(get(wire_models.ModelEntry, model_path(name)))

    def put_model(self, name: str, *, wait_s: float = 300.0, **config: object) -> wire_models.ModelEntry:
        """Create a model, or replace it: ``client.put_model("birds", architecture="resnet18", weights="b.pth")``.

        The present version answers until the new one is ready, and goes on if that cannot be loaded.

        Args:
            name: of the model.
            wait_s: seconds to wait for the outcome; with 0 the answer is how it is now.
            **config: the keys of a ``[[models]]`` table; paths are those of the server.

        Raises:
            ClientError: it cannot be loaded, or may not be; its class says why.
        """
        return self._send(put_call(name, config, wait_s))

    def reload_model(self, name: str, *, layer: str | None = None, wait_s: float = 300.0) -> wire_models.ModelEntry:
        """Load a model again, because its file has changed; ``layer`` is its default layer from then on."""
        return self._send(reload_call(name, layer, wait_s))

    def unload_model(self, name: str) -> wire_models.ModelEntry:
        """Put a model out of memory; it is loaded again when somebody asks for it."""
        return self._send(unload_call(name))

    def remove_model(self, name: str) -> None:
        """Remove a model, and return once what had begun with it is finished."""
        return self._send(remove_call(model_path(name)))

    def aliases(self) -> wire_models.AliasList:
        """Return the further names of models."""
        return self._send(get(wire_models.AliasList, "/aliases"))

    def put_alias(self, alias: str, model: str, version: str) -> wire_models.AliasEntry:
        """Point a name to a version of a model, which stays as long as it does."""
        return self._send(alias_call(alias, model, version))

    def remove_alias(self, alias: str) -> None:
        """Remove such a name."""
        return self._send(remove_call(f"/aliases/{quote(alias, safe='')}"))

    def layers(
        self, model: str | None = None, *, explainable: bool | None = None, kind: str | None = None
    ) -> wire_models.LayerList:
        """Return a model's layers, in forward order; with None those of the default model, in two requests."""
        return self._send(layers_call(model or self.models().default, explainable, kind))

    def classes(
        self, query: str, *, model: str | None = None, head: str | None = None, limit: int | None = None
    ) -> wire_models.ClassList:
        """Search a model's labels, ``client.classes("cat")``; with None the default model's, in two requests."""
        name = model or self.models().default
        return self._send(get(wire_models.ClassList, f"{model_path(name)}/classes", q=query, limit=limit, head=head))

    def methods(self) -> wire.MethodList:
        """Return the methods that can be asked for."""
        return self._send(get(wire.MethodList, "/methods"))

    def colormaps(self) -> wire.ColormapList:
        """Return the colormaps that can be asked for."""
        return self._send(get(wire.ColormapList, "/colormaps"))

    def version(self) -> wire.Version:
        """Return what is running."""
        return self._send(VERSION)

    def ready(self) -> bool:
        """Say whether the server can answer now: False too if it cannot be reached. Asks once, for 5 s at most."""
        try:
            return self._send(READY)
        except (ConnectionFailed, TimedOut):
            return False

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Return once the server can answer; raise a ``NotReady`` of ``service.errors`` if that takes longer."""
        until = time.monotonic() + timeout_s
        while not self.ready():
            self._sleep(_left(until, self._url))


class AsyncClient(_Base[httpx.AsyncBaseTransport], AsyncEvaluations):
    """``Client`` for asyncio: the same arguments and methods, awaited, and ``aclose``.

        async with AsyncClient() as client:
            explained = await client.explain("cat.jpg")

    Pictures are read and encoded in a thread, so that the event loop goes on.
    """

    def _open(self, settings: dict[str, Any]) -> None:
        self._http = httpx.AsyncClient(**settings)
        self._sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send(self, call: Call[T]) -> T:
        attempt = 0
        while True:
            try:
                response = await self._http.request(call.verb, call.path, **call.arguments)
            except httpx.RequestError as error:
                wait: float | None = self._after_error(call, attempt, error)
            else:
                wait = self._after_response(call, attempt, response)
            if wait is None:
                return call.parse(response)
            await self._sleep(wait)
            attempt += 1

    async def explain(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        version: str | None = None,
        **options: Unpack[ExplainArguments],
    ) -> Explained:
        """As ``Client.explain``."""
        return only(await self._send(await asyncio.to_thread(explain_call, [image], model, version, options)))

    async def explain_many(
        self,
        images: Iterable[ImageSource],
        *,
        model: str | None = None,
        version: str | None = None,
        **options: Unpack[ExplainArguments],
    ) -> list[Explained | Failed]:
        """As ``Client.explain_many``."""
        return await self._send(await asyncio.to_thread(explain_call, images, model, version, options))

    async def predict(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        version: str | None = None,
        **options: Unpack[PredictArguments],
    ) -> Predicted:
        """As ``Client.predict``."""
        return only(await self._send(await asyncio.to_thread(predict_call, [image], model, version, options)))

    async def predict_many(
        self,
        images: Iterable[ImageSource],
        *,
        model: str | None = None,
        version: str | None = None,
        **options: Unpack[PredictArguments],
    ) -> list[Predicted | Failed]:
        """As ``Client.predict_many``."""
        return await self._send(await asyncio.to_thread(predict_call, images, model, version, options))

    async def models(self) -> wire_models.ModelList:
        """As ``Client.models``."""
        return await self._send(get(wire_models.ModelList, "/models"))

    async def model(self, name: str) -> wire_models.ModelEntry:
        """As ``Client.model``."""
        return await self._send(get(wire_models.ModelEntry, model_path(name)))

    async def put_model(self, name: str, *, wait_s: float = 300.0, **config: object) -> wire_models.ModelEntry:
        """As ``Client.put_model``."""
        return await self._send(put_call(name, config, wait_s))

    async def reload_model(
        self, name: str, *, layer: str | None = None, wait_s: float = 300.0
    ) -> wire_models.ModelEntry:
        """As ``Client.reload_model``."""
        return await self._send(reload_call(name, layer, wait_s))

    async def unload_model(self, name: str) -> wire_models.ModelEntry:
        """As ``Client.unload_model``."""
        return await self._send(unload_call(name))

    async def remove_model(self, name: str) -> None:
        """As ``Client.remove_model``."""
        return await self._send(remove_call(model_path(name)))

    async def aliases(self) -> wire_models.AliasList:
        """As ``Client.aliases``."""
        return await self._send(get(wire_models.AliasList, "/aliases"))

    async def put_alias(self, alias: str, model: str, version: str) -> wire_models.AliasEntry:
        """As ``Client.put_alias``."""
        return await self._send(alias_call(alias, model, version))

    async def remove_alias(self, alias: str) -> None:
        """As ``Client.remove_alias``."""
        return await self._send(remove_call(f"/aliases/{quote(alias, safe='')}"))

    async def layers(
        self, model: str | None = None, *, explainable: bool | None = None, kind: str | None = None
    ) -> wire_models.LayerList:
        """As ``Client.layers``."""
        return await self._send(layers_call(model or (await self.models()).default, explainable, kind))

    async def classes(
        self, query: str, *, model: str | None = None, head: str | None = None, limit: int | None = None
    ) -> wire_models.ClassList:
        """As ``Client.classes``."""
        name = model or (await self.models()).default
        return await self._send(
            get(wire_models.ClassList, f"{model_path(name)}/classes", q=query, limit=limit, head=head)
        )

    async def methods(self) -> wire.MethodList:
        """As ``Client.methods``."""
        return await self._send(get(wire.MethodList, "/methods"))

    async def colormaps(self) -> wire.ColormapList:
        """As ``Client.colormaps``."""
        return await self._send(get(wire.ColormapList, "/colormaps"))

    async def version(self) -> wire.Version:
        """As ``Client.version``."""
        return await self._send(VERSION)

    async def ready(self) -> bool:
        """As ``Client.ready``."""
        try:
            return await self._send(READY)
        except (ConnectionFailed, TimedOut):
            return False

    async def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """As ``Client.wait_until_ready``."""
        until = time.monotonic() + timeout_s
        while not await self.ready():
            await self._sleep(_left(until, self._url))
