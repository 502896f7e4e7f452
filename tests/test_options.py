"""The table of options: what follows from a line of it, on every surface; and that a new line needs nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Any, get_type_hints

import httpx
import pytest
from starlette.requests import Request as HttpRequest

from docs import make_tables
from scripts import page_options
from service import cli
from service.client.calls import explain_call, predict_call
from service.commands.pictures import request_of
from service.engine.request import Request
from service.options import OPTIONS, ExplainArguments, Option, PredictArguments
from service.protocols.native.requests import read_request
from service.settings import Settings
from service.web.app import create_app
from tests.documents import inlined
from tests.toys import png

if TYPE_CHECKING:
    from service.client.calls import Call
    from service.vocabulary import Operation

PREDICTED = [name for name, option in OPTIONS.items() if option.about.predict]
IMAGE = png()
SERVED = "http://camserve.test/api/v1"


def another(option: Option) -> Any:
    """A value that is not the default, as JSON has it."""
    if option.choices:
        value: Any = next(choice for choice in reversed(option.choices) if choice != option.default)
    elif option.type is bool:
        value = not option.default
    elif option.type in {int, float}:
        value = option.about.high
    else:
        value = "other"
    return [value, value] if option.repeatable else value


def attribute(option: Option) -> Any:
    """That value as the engine's request has it."""
    value = another(option)
    return tuple(value) if option.repeatable else value


def as_text(option: Option) -> list[str]:
    value = another(option)
    return [str(each) for each in (value if isinstance(value, list) else [value])]


async def read(sent: httpx.Request, op: Operation) -> Request:
    """What the native protocol makes of a request that a client sent."""
    body = sent.read()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": "POST",
        "path": sent.url.path,
        "query_string": sent.url.query,
        "headers": [(name.lower(), value) for name, value in sent.headers.raw],
        "state": {"settings": Settings()},
    }
    return await read_request(HttpRequest(scope, receive), op, None)


def parsed(op: Operation, flags: Iterable[str]) -> Request:
    return request_of(cli.make_parser().parse_args([op, "file.png", *flags]), op)


@pytest.mark.parametrize("name", OPTIONS)
class TestEveryOption:
    async def test_in_a_form(self, name: str) -> None:
        option = OPTIONS[name]
        data, files = {name: as_text(option)}, {"image": ("a.png", IMAGE)}
        sent = httpx.Request("POST", f"{SERVED}/explain", data=data, files=files)
        request = await read(sent, "explain")
        assert request == Request(request.images, **{option.attribute: attribute(option)})

    async def test_in_a_query(self, name: str) -> None:
        option = OPTIONS[name]
        params, headers = {name: as_text(option)}, {"Content-Type": "image/png"}
        sent = httpx.Request("POST", f"{SERVED}/explain", params=params, content=IMAGE, headers=headers)
        request = await read(sent, "explain")
        assert request == Request(request.images, **{option.attribute: attribute(option)})

    async def test_in_json(self, name: str) -> None:
        option = OPTIONS[name]
        sent = httpx.Request("POST", f"{SERVED}/explain", json={"images": [], name: another(option)})
        assert await read(sent, "explain") == Request([], **{option.attribute: attribute(option)})

    async def test_in_predict_where_it_has_it(self, name: str) -> None:
        option = OPTIONS[name]
        sent = httpx.Request("POST", f"{SERVED}/predict", json={"images": [], name: another(option)})
        if option.about.predict:
            asked = await read(sent, "predict")
            assert asked == Request([], op="predict", **{option.attribute: attribute(option)})
        else:
            with pytest.raises(Exception, match=f"no option '{name}'"):
                await read(sent, "predict")

    def test_in_the_openapi_document(self, name: str, document: dict[str, Any]) -> None:
        for path, operations in document["paths"].items():
            if "post" not in operations or not path.startswith("/api/") or not path.endswith(("/explain", "/predict")):
                continue
            operation = operations["post"]
            there = OPTIONS[name].about.predict or path.endswith("explain")
            form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
            body = document["components"]["schemas"]["ExplainRequest" if path.endswith("explain") else "PredictRequest"]
            assert (name in form) == (name in body["properties"]) == there
            assert (name in [parameter["name"] for parameter in operation["parameters"]]) == there

    def test_as_a_flag(self, name: str) -> None:
        option = OPTIONS[name]
        flag = f"--{name.replace('_', '-')}"
        flags = [flag] if option.type is bool else [part for text in as_text(option) for part in (flag, text)]
        for op in ("explain", "predict") if option.about.predict else ("explain",):
            assert getattr(parsed(op, flags), option.attribute) == attribute(option)

    async def test_in_the_clients(self, name: str) -> None:
        option = OPTIONS[name]
        calls: list[tuple[Operation, Call[Any]]] = [
            ("explain", explain_call([IMAGE], None, None, {name: another(option)}))
        ]
        if option.about.predict:
            calls.append(("predict", predict_call([IMAGE], None, None, {name: another(option)})))
        for op, call in calls:
            asked = await read(httpx.Request(call.verb, f"http://camserve.test{call.path}", **call.arguments), op)
            assert getattr(asked, option.attribute) == attribute(option)

    def test_among_the_arguments_that_are_checked_by_type(self, name: str) -> None:
        option = OPTIONS[name]
        value = option.type
        hint = value | GenericAlias(Iterable, value) | None if option.repeatable else value | None
        assert get_type_hints(ExplainArguments)[name] == hint
        assert (name in get_type_hints(PredictArguments)) == option.about.predict

    def test_in_the_module_of_the_page(self, name: str) -> None:
        lines = page_options.text_of(OPTIONS.values()).splitlines()
        (line,) = [line for line in lines if line.startswith(f"  {name}: {{ ")]
        default = OPTIONS[name].default
        standard = next(iter(default), None) if OPTIONS[name].repeatable else default
        assert (f" standard: {json.dumps(standard)}" in line) == (standard is not None)

    def test_in_the_table_of_the_documents(self, name: str) -> None:
        (row,) = [line for line in make_tables.request_options().splitlines() if line.startswith(f"| `{name}` |")]
        assert OPTIONS[name].describe(methods="`GET /api/v1/methods`", colormaps="`GET /api/v1/colormaps`") in row


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return inlined(create_app(Settings()).openapi())


def test_no_other_arguments_are_offered() -> None:
    assert list(get_type_hints(PredictArguments)) == PREDICTED
    assert set(get_type_hints(ExplainArguments)) == set(OPTIONS)


def test_what_was_not_given_is_none_where_that_matters() -> None:
    """With the defaults that callers are told, one could not tell that they were given."""
    assert Request().top_k is None
    assert Request().colormap is None
    assert (OPTIONS["top_k"].default, OPTIONS["colormap"].default) == (5, "turbo")


def test_the_module_of_the_page_is_what_the_table_says() -> None:
    assert page_options.MODULE.read_text(encoding="utf-8") == page_options.text_of(OPTIONS.values())


# What somebody would write who adds an option: a line among the options, and one among the arguments.
MADE_UP = """
import sys
from dataclasses import dataclass
from typing import Annotated

import pytest
from service import options

@dataclass(frozen=True, kw_only=True)
class Options(options.Options):
    blur: Annotated[int, options.About("Radius of a blur, in cells.", low=0, high=9, predict=True)] = 0

options.Options = Options
options.OPTIONS = options.table_of(Options)
options.PredictArguments.__annotations__["blur"] = int | None
options.ExplainArguments.__annotations__["blur"] = int | None
sys.exit(pytest.main([*sys.argv[1:], "-q", "-k", "TestEveryOption and blur", "-p", "no:cacheprovider"]))
"""


def test_a_made_up_option_needs_no_more_than_its_line() -> None:
    """The tests above, for an option that is not there, in a process that has it."""
    command = [sys.executable, "-c", MADE_UP, __file__]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    count = sum(name.startswith("test_") for name in vars(TestEveryOption))

    assert f"{count} passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
