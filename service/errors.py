"""Every error a caller can meet: a stable code, a message that says what to do, and details. Knows no HTTP.

The tree, and nothing outside it, may leave the decoder, the engine and the client::

    ServiceError
    ├── BadInput          the caller sent something we cannot work with
    │   ├── InvalidImage · NoImage · InvalidRequest · InvalidOption · UnsupportedMediaType
    │   ├── ImageTooLarge · BodyTooLarge · TooManyImages · RequestTooCostly
    │   ├── NotFound · MethodNotAllowed · PictureNotFetched
    │   ├── UnknownModel · UnknownLayer · UnknownLabel · UnknownMethod · UnknownColormap
    │   ├── UnknownVersion · UnknownAlias · UnknownFunction · PathNotAllowed · SourceNotAllowed · ManagementOff
    │   ├── ModelBusy · DefaultModel · NameTaken
    │   ├── UnknownHead · LayerNotExplainable · MethodNotApplicable · HeadersTooLarge
    │   └── Unauthorized · Forbidden · HostNotAllowed · OriginNotAllowed · AddressNotAllowed
    ├── Unavailable       try again later
    │   ├── Overloaded · RateLimited · NotReady
    └── RequestTimeout · DeadlineExceeded · ModelLoadError · ModelOutputError · InternalError

``problems.py`` maps codes to status codes; ``docs/errors.md`` has a section per code.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self


_LONGEST = 4000  # characters of a message, whatever a model's code says
_NO_TEXT = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class ServiceError(Exception):
    """Root of the tree.

    Attributes:
        code: stable, machine-readable, one per class.
        title: what this kind of error is, the same for every occurrence.
        message: one sentence, safe to show, that says what to do; whatever it was made of, it can be written.
        details: further members for the response, JSON-serialisable.
    """

    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, message: str, **details: Any) -> None:
        self.message = shorten(writable(message), _LONGEST)
        super().__init__(self.message)
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by message, details and further attributes, so that a worker's error arrives whole."""
        return _rebuild, (type(self), self.message, self.details), vars(self)


def _rebuild(cls: type[ServiceError], message: str, details: dict[str, Any]) -> ServiceError:
    return cls(message, **details)


class BadInput(ServiceError):
    """The caller sent something that cannot be worked with; sending it again will not help."""

    code = "bad_input"
    title = "Bad input"


class InvalidImage(BadInput):
    """The bytes are not a picture that can be read."""

    code = "invalid_image"
    title = "Not a readable picture"


class NoImage(BadInput):
    """The request carries no picture."""

    code = "no_image"
    title = "No picture"


class InvalidRequest(BadInput):
    """The request itself is malformed: broken JSON, a broken multipart body."""

    code = "invalid_request"
    title = "Malformed request"


class InvalidOption(BadInput):
    """An option has a value out of range, of the wrong type, or an unknown name."""

    code = "invalid_option"
    title = "Invalid option"


class ImageTooLarge(BadInput):
    """A picture has more pixels, or more frames, than allowed; found out before it was decoded."""

    code = "image_too_large"
    title = "Picture too large"


class BodyTooLarge(BadInput):
    """The request has more bytes than allowed."""

    code = "body_too_large"
    title = "Request too large"


class HeadersTooLarge(BadInput):
    """The request's line and headers together have more bytes than allowed."""

    code = "headers_too_large"
    title = "Headers too large"


class TooManyImages(BadInput):
    """The request carries more pictures than allowed."""

    code = "too_many_images"
    title = "Too many pictures"


@dataclass(frozen=True)
class TooMuchOf:
    """A way out of a request that is too costly.

    Attributes:
        factor: the option to lower.
        asked: how much of it was asked for.
        allowed: how much may be, with everything else as it is.
        suffices: whether that is enough.
    """

    factor: str
    asked: int
    allowed: int
    suffices: bool

    def __str__(self) -> str:
        if self.allowed == self.asked or (self.factor == "image" and not self.allowed):
            return "Ask for less"
        lower = f"Lower '{self.factor}' from {self.asked:,} to {self.allowed:,}"
        return lower if self.suffices else f"{lower} and ask for less of the rest, too"


class RequestTooCostly(BadInput):
    """The request asks for more than one may: passes of the model, pixels, or bytes in the answer."""

    code = "request_too_costly"
    title = "Request too costly"

    @classmethod
    def because(cls, part: str, cost: float, most: float, much: TooMuchOf) -> Self:
        """Say what is too much, and which option to lower.

        Args:
            part: ``forward``, ``pixels`` or ``bytes``.
            cost: how much of it the request would take.
            most: how much it may.
            much: the option to lower.
        """
        words = {"forward": "passes of the model", "pixels": "pixels decoded and drawn", "bytes": "bytes to send"}[part]
        return cls(
            f"This would take about {cost:,.0f} {words}; {most:,.0f} are allowed in one request. {much}, or send "
            "several requests.",
            factor=much.factor,
            asked=much.asked,
            allowed=much.allowed,
        )


class UnsupportedMediaType(BadInput):
    """The content type is none that the service reads."""

    code = "unsupported_media_type"
    title = "Unsupported content type"


class PictureNotFetched(BadInput):
    """A picture that is named by a URL cannot be had, or may not be asked for."""

    code = "picture_not_fetched"
    title = "Picture cannot be fetched"
    status: int | None = None  # what its server answered; None where there was no answer


class NotFound(BadInput):
    """No such route."""

    code = "not_found"
    title = "Not found"


class MethodNotAllowed(BadInput):
    """The route exists, the HTTP verb does not."""

    code = "method_not_allowed"
    title = "Method not allowed"


class Unauthorized(BadInput):
    """The service asks for an API key, and the request has none that it knows."""

    code = "unauthorized"
    title = "API key needed"


class Forbidden(BadInput):
    """The API key is known, but not for this; ``scope`` in the details is what it lacks."""

    code = "forbidden"
    title = "Not allowed with this API key"


class HostNotAllowed(BadInput):
    """The request asks for a host that is not this service's: a page may have its own name point here."""

    code = "host_not_allowed"
    title = "Host not allowed"


class OriginNotAllowed(BadInput):
    """The request comes from a page that may not ask this service."""

    code = "origin_not_allowed"
    title = "Origin not allowed"


class AddressNotAllowed(BadInput):
    """What is asked for here without a key is answered to some addresses only, and not to this one."""

    code = "address_not_allowed"
    title = "Address not allowed"


class ManagementOff(BadInput):
    """Models may not be changed over HTTP here."""

    code = "management_off"
    title = "Models are not changed here"


class PathNotAllowed(BadInput):
    """A file that is named over HTTP lies outside the folders that the operator allows."""

    code = "path_not_allowed"
    title = "Path not allowed"


class SourceNotAllowed(BadInput):
    """A model that is named over HTTP would run code of a module that the operator does not list."""

    code = "source_not_allowed"
    title = "Source not allowed"


class ModelBusy(BadInput):
    """Another version of the model is being loaded."""

    code = "model_busy"
    title = "Model is being loaded"


class ModelSuperseded(BadInput):
    """Another change came first: the model was removed or replaced while somebody waited for it to be loaded."""

    code = "model_superseded"
    title = "Another change came first"


class DefaultModel(BadInput):
    """The default model stays: requests that name none go to it."""

    code = "default_model"
    title = "The default model stays"


class NameTaken(BadInput):
    """A model and an alias cannot have the same name."""

    code = "name_taken"
    title = "Name taken"


class UnknownName(BadInput):
    """A name is none of those known. Where the known ones are listed, each protocol says in its own words.

    Attributes:
        kind: what it would be the name of.
        name: as it was given, shortened; None where an index was given.
        model: whose it would be; None where all models have the same.
    """

    kind: ClassVar[str] = "name"
    name: str | None = None
    model: str | None = None

    @classmethod
    def among(cls, name: str, known: Iterable[str], hint: str = "", *, model: str | None = None) -> Self:
        """Build the error for ``name``, with the closest of ``known`` as suggestions, and a hint that always holds."""
        suggestions = closest(name, known)
        meant = f"Did you mean {' or '.join(repr(s) for s in suggestions)}?" if suggestions else ""
        said = (f"There is no {cls.kind} {shorten(name)!r}.", meant, hint)
        error = cls(" ".join(part for part in said if part), suggestions=suggestions)
        error.name, error.model = shorten(name), model
        return error

    @property
    def suggestions(self) -> tuple[str, ...]:
        """The closest of the known names, best first."""
        return tuple(self.details.get("suggestions", ()))


class UnknownModel(UnknownName):
    """No model of that name is served."""

    code = "unknown_model"
    title = "Unknown model"
    kind = "model"


class UnknownVersion(UnknownName):
    """The model has no version of that label that can be asked."""

    code = "unknown_version"
    title = "Unknown version"
    kind = "version"


class UnknownAlias(UnknownName):
    """There is no alias of that name."""

    code = "unknown_alias"
    title = "Unknown alias"
    kind = "alias"


class UnknownFunction(UnknownName):
    """There is no function of that name."""

    code = "unknown_function"
    title = "Unknown function"
    kind = "function"


class UnknownEvaluation(BadInput):
    """There is no evaluation of that id, or it is another key's."""

    code = "unknown_evaluation"
    title = "Unknown evaluation"


class EvaluationNotDone(BadInput):
    """An evaluation has no report yet, or never will have one."""

    code = "evaluation_not_done"
    title = "Evaluation not done"


class UnknownLayer(UnknownName):
    """The model has no layer of that name."""

    code = "unknown_layer"
    title = "Unknown layer"
    kind = "layer"


class UnknownLabel(UnknownName):
    """The model has no class of that index or label."""

    code = "unknown_label"
    title = "Unknown class"
    kind = "class"


class UnknownMethod(UnknownName):
    """There is no CAM method of that name."""

    code = "unknown_method"
    title = "Unknown method"
    kind = "method"


class UnknownColormap(UnknownName):
    """There is no colormap of that name."""

    code = "unknown_colormap"
    title = "Unknown colormap"
    kind = "colormap"


class UnknownHead(UnknownName):
    """The model has no output of that name or position."""

    code = "unknown_head"
    title = "Unknown head"
    kind = "head"


class MethodNotApplicable(BadInput):
    """The method exists, but not for this model or with these options; the message carries the reason."""

    code = "method_not_applicable"
    title = "Method not applicable"


class LayerNotExplainable(BadInput):
    """The layer exists but its output cannot be turned into a map; the message carries the reason."""

    code = "layer_not_explainable"
    title = "Layer cannot be explained"
    model: str | None = None

    @classmethod
    def because(cls, layer: str, model: str, reason: str | None, instead: str) -> Self:
        """Build the error for a layer of ``model``, with the layer to try ``instead``."""
        message = f"Layer {layer!r} of model {model!r} cannot be explained: {reason}. Try {instead!r}."
        error = cls(message, suggestions=[instead])
        error.model = model
        return error


class Unavailable(ServiceError):
    """The service cannot take the request now; ``retry_after_s`` in the details says when to try again."""

    code = "unavailable"
    title = "Unavailable"

    @property
    def retry_after_s(self) -> int:
        """Whole seconds after which a new try makes sense."""
        return int(self.details.get("retry_after_s", 1))


class Overloaded(Unavailable):
    """The queue is full."""

    code = "overloaded"
    title = "Too many requests"


class RateLimited(Unavailable):
    """The API key has used up what it may ask per minute, or at once."""

    code = "rate_limited"
    title = "Too many requests with this API key"


class TooManyEvaluations(Unavailable):
    """As many evaluations wait or run as may."""

    code = "too_many_evaluations"
    title = "Too many evaluations"


class NotReady(Unavailable):
    """No model or worker can answer: loading, draining, failed."""

    code = "not_ready"
    title = "Not ready"


class RequestTimeout(ServiceError):
    """The request did not arrive within the time allowed for it."""

    code = "request_timeout"
    title = "Request took too long to arrive"


class DeadlineExceeded(ServiceError):
    """The answer did not come within the time allowed for it."""

    code = "deadline_exceeded"
    title = "Deadline exceeded"


class ModelLoadError(ServiceError):
    """A model cannot be loaded; the message says what is wrong with its file or its configuration."""

    code = "model_load_failed"
    title = "Model cannot be loaded"


class ModelOutputError(ServiceError):
    """A loaded model gave something that no answer can be made of: not logits, or not finite."""

    code = "model_output"
    title = "Model output cannot be used"


class InternalError(ServiceError):
    """Our fault. The message carries nothing internal; the log has the rest, under the request id."""

    code = "internal_error"
    title = "Internal error"


OF_A_PICTURE = (InvalidImage, ImageTooLarge, BodyTooLarge, RequestTooCostly, ModelOutputError)
"""What is wrong with one picture, while the next one may be answered; everything else is wrong with all of them."""

# Names that are compared with one that is not known.
_COMPARED = 2000


def closest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return up to ``limit`` of ``known`` that look most like ``name``, best first."""
    folded = name[:200].casefold()
    by_folded = {candidate.casefold(): candidate for candidate in known}
    compared: Iterable[str] = by_folded
    if len(by_folded) > _COMPARED:  # of very many, those that begin alike: comparing takes 10 µs for each
        compared = list(islice((each for each in by_folded if each.startswith(folded[:2])), _COMPARED))
    matches = difflib.get_close_matches(folded, compared, n=limit, cutoff=0.6)
    return [by_folded[match] for match in matches]


def writable(text: str) -> str:
    r"""Write as ``\x1b`` what no text holds: UTF-8 has no lone surrogates, and terminals obey control characters."""
    return _NO_TEXT.sub(lambda found: ascii(found[0])[1:-1], text)


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, without its full stop; its kind where it says nothing."""
    return _first_line(error) or type(error).__name__


def kind_and_line(error: BaseException) -> str:
    """Return what kind an exception is of, and the first line of what it says if it says something."""
    line = _first_line(error)
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _first_line(error: BaseException) -> str:
    try:
        line = next(iter(str(error).strip().splitlines()), "")
    except Exception:  # noqa: BLE001  # of a class of a model's own
        return ""
    return shorten(writable(line.rstrip()), 300).removesuffix(".")


def shorten(text: str, limit: int = 80) -> str:
    """Cut a caller's text to ``limit`` characters, so that an error never echoes a megabyte."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
