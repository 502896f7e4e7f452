"""What the engine is asked, by whatever protocol: images, options, model and time.

Runs in the front process.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from service.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.errors import ServiceError
    from service.vocabulary import Operation

__all__ = ["Request", "Upload"]


@dataclass(frozen=True)
class Upload:
    """An image's file as it came in, or why it could not be had from the request.

    Attributes:
        data: the file.
        filename: comes back with the answer.
        error: why there is no file.
        options: of this image alone, in the place of all of the request's; None for those.
    """

    data: bytes
    filename: str | None = None
    error: ServiceError | None = None
    options: Options | None = None


@dataclass(frozen=True)
class Request(Options):
    """A request, its options within the bounds that their table states; names are looked up when it is planned.

    Attributes:
        images: what it is about.
        op: ``predict`` lists classes alone; the options that only ``explain`` has then mean nothing.
        model: name of the model, or an alias; the default one if None.
        version: label of one of its versions; the one that its name points to if None.
        timeout_s: time allowed for all of it; the configured default if None.
        client: whose it is: the name of an API key, or an address where there are none.
        weight: how large the client's share is, beside those of others.
        charge: told how much work it is, in units of ``Cost.units``, before that is begun; may raise to refuse it.
    """

    images: Sequence[Upload] = ()
    _: KW_ONLY
    op: Operation = "explain"
    model: str | None = None
    version: str | None = None
    timeout_s: float | None = None
    client: str = ""
    weight: float = 1.0
    charge: Callable[[float], None] = field(default=lambda _units: None, compare=False)
