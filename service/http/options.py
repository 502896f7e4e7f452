"""Options as they come in: from a query string, a form or JSON, held against their table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from service.errors import InvalidOption, closest, shorten
from service.options import OPTIONS
from service.wire import NativeOptions

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails
    from starlette.requests import Request


__all__ = [
    "MAX_VALUES",
    "check_one_map",
    "check_query",
    "option_error",
    "query_options",
    "refuse",
    "single",
    "validated",
]

OptionsT = TypeVar("OptionsT", bound=NativeOptions)

MAX_VALUES = 2 * sum(option.about.most or 1 for option in OPTIONS.values())
"""What all options may have together, each as often as it may be given; and as much again, to say what is wrong."""

_REPEATABLE = {name for name, option in OPTIONS.items() if option.repeatable}
_MAX_WORDED = 5


def query_options(request: Request) -> dict[str, Any]:
    """Read the query string, unless it has more names and values than all options together."""
    return single(_query(request))


def check_query(request: Request, known: Collection[str]) -> None:
    """Hold the query string of a route without pictures against its options, each of which has one value.

    Raises:
        InvalidOption: one is unknown, or given twice.
    """
    for name, values in _query(request).items():
        if name not in known:
            near = closest(name, known)
            meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise InvalidOption(f"There is no option {shorten(name)!r}.{meant}", suggestions=near)
        if len(values) > 1:
            raise _given_often(name, values)


def _query(request: Request) -> dict[str, list[str]]:
    values = request.scope["query_string"].count(b"&") + 1
    if values > MAX_VALUES:
        raise InvalidOption(
            f"The query string has {values} values; all options together have no more than {MAX_VALUES}. "
            "Pictures are sent in the body."
        )
    query = request.query_params
    return {name: query.getlist(name) for name in query}


def single(fields: Mapping[str, list[str]]) -> dict[str, Any]:
    """Turn the lists of options that may not be repeated into their one value."""
    for name, values in fields.items():
        if name not in _REPEATABLE and len(values) > 1:
            raise _given_often(name, values)
    return {name: values if name in _REPEATABLE else values[0] for name, values in fields.items()}


def _given_often(name: str, values: list[str]) -> InvalidOption:
    return InvalidOption(f"The option {shorten(name)!r} is given {len(values)} times; it can have one value only.")


def validated(options_type: type[OptionsT], fields: Mapping[str, Any]) -> OptionsT:
    """Read options from what a caller gave, by name.

    Raises:
        InvalidOption: one is unknown or out of range.
    """
    try:
        return options_type.model_validate(fields)
    except ValidationError as error:
        raise option_error(error, options_type) from error


def refuse(given: Mapping[str, Any], instead: Mapping[str, str]) -> None:
    """Refuse options that a protocol's answers have no place for.

    Args:
        given: options by name.
        instead: by name, how the same is said there.

    Raises:
        InvalidOption: one of them is given.
    """
    for name in given:
        if name in instead:
            raise InvalidOption(f"{name!r} is no option here: {instead[name]}.")


def check_one_map(attributes: Mapping[str, Any]) -> None:
    """Refuse what makes several maps of a picture, where an answer holds one; ``top-K`` is known when it is computed.

    Raises:
        InvalidOption: there are several layers that are not fused, methods or targets.
    """
    layers = 1 if attributes.get("fuse") else len(attributes.get("layers", "1"))
    if layers * len(attributes.get("methods", "1")) * len(attributes.get("targets", "1")) != 1:
        raise InvalidOption(
            "The answer holds one map for each picture: ask for one layer, method and target, or fuse the layers."
        )


def option_error(error: ValidationError, options_type: type[BaseModel]) -> InvalidOption:
    """Word a validation error: which option, what is wrong, and what was probably meant."""
    problems = []
    suggestions: list[str] = []
    for detail in error.errors(include_url=False)[:_MAX_WORDED]:
        name = ".".join(str(part) for part in detail["loc"][:1])
        if detail["type"] == "extra_forbidden":
            suggestions += closest(name, options_type.model_fields)
            problems.append(f"there is no option {shorten(name)!r}")
        else:
            problems.append(f"{shorten(name)!r}: {_wrong(detail)}")
    meant = f" Did you mean {' or '.join(repr(name) for name in suggestions)}?" if suggestions else ""
    text = "; ".join(dict.fromkeys(problems))
    return InvalidOption(f"{text[:1].upper()}{text[1:]}.{meant}", suggestions=suggestions)


def _wrong(detail: ErrorDetails) -> str:
    """Say what is wrong with a value, in words that are not Python's."""
    if detail["type"] in {"string_type", "int_type"} and isinstance(detail["input"], list):
        return "it may be given once"
    if detail["type"] == "too_long":
        return f"at most {detail['ctx']['max_length']} may be given, not {detail['ctx']['actual_length']}"
    if detail["type"] == "too_short":
        return f"at least {detail['ctx']['min_length']} must be given"
    return lower_first(detail["msg"])


def lower_first(text: str) -> str:
    return f"{text[:1].lower()}{text[1:]}"
