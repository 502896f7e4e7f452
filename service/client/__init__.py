"""The Python client of a camserve server; needs httpx and pydantic, and Pillow and numpy only where they are used.

    from service.client import Client

    with Client("http://127.0.0.1:8000") as client:
        explained = client.explain("cat.jpg", layer="layer4", target="tabby")
        explained.overlay().save("why.png")

Everything that goes wrong on the way to an answer is a ``ClientError`` and, where the server says what it is, also of
that class of ``service.errors``: ``except UnknownLayer`` and ``except ClientError`` both work. Calling the client
wrongly is a ``ValueError`` or a ``TypeError``.
"""

from __future__ import annotations

from service.client.answers import Explained, ExplanationView, Failed, Predicted
from service.client.calls import ImageSource
from service.client.clients import AsyncClient, Client
from service.client.errors import ClientError, ConnectionFailed, TimedOut, UnexpectedResponse
from service.options import ExplainArguments, PredictArguments

Options = ExplainArguments  # its name in 0.1

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "ExplainArguments",
    "Explained",
    "ExplanationView",
    "Failed",
    "ImageSource",
    "Options",
    "PredictArguments",
    "Predicted",
    "TimedOut",
    "UnexpectedResponse",
]
