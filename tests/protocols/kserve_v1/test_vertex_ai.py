"""Vertex AI's own paths, as Google's clients see them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from service.settings import KeyConfig
from service.web.keys import digest_of
from tests.toys import png
from tests.web.application import faked

if TYPE_CHECKING:
    import httpx

B64 = base64.b64encode(png()).decode()
PLACE = "/v1/projects/my-project/locations/us-central1/endpoints"
# What Google's library adds to every path.
ALT = {"$alt": "json;enum-encoding=int"}


def says(response: httpx.Response, status: int, code: str, reason: str, *words: str) -> None:
    """The response is an error in Google's words, and nothing else."""
    assert response.headers["Content-Type"] == "application/json"
    (error,) = response.json().values()
    assert (response.status_code, error["code"], error["status"]) == (status, status, code), response.text
    assert error["details"][0]["reason"] == reason
    for word in words:
        assert word in error["message"]


@pytest.mark.parametrize("verb", ["predict", "explain"])
async def test_an_endpoint_answers_as_the_model_that_it_is_called_after(client: httpx.AsyncClient, verb: str) -> None:
    """Numbers come as Google's library sends them: all of them with a fraction."""
    body = {"instances": [{"content": B64, "target": 1.0}, B64], "parameters": {"maxPredictions": 2.0}}
    response = await client.post(f"{PLACE}/pets:{verb}", params=ALT, json=body)
    assert response.status_code == 200, response.text
    answer, same = response.json(), (await client.post(f"/v1/models/pets:{verb}", json=body)).json()
    assert {**answer, "id": None} == {**same, "id": None}
    assert len(answer["predictions"][0]["ids"]) == 2
    if verb == "explain":
        assert answer["explanations"][0]["attributions"][0]["outputIndex"] == [1]


WRONG: dict[str, tuple[str, dict[str, Any], tuple[int, str, str], str]] = {
    "another endpoint": ("/pet:predict", {"instances": [B64]}, (404, "NOT_FOUND", "UNKNOWN_MODEL"), "'pets'"),
    "an endpoint by number": ("/42:explain", {"instances": [B64]}, (404, "NOT_FOUND", "UNKNOWN_MODEL"), "aliases"),
    "no verb": ("/pets", {"instances": [B64]}, (404, "NOT_FOUND", "NOT_FOUND"), ":explain"),
    "another verb": ("/pets:rawPredict", {"instances": [B64]}, (404, "NOT_FOUND", "NOT_FOUND"), ":explain"),
    "no instances": ("/pets:predict", {}, (400, "INVALID_ARGUMENT", "INVALID_REQUEST"), "'instances'"),
    "an option": (
        "/pets:explain",
        {"instances": [B64], "parameters": {"layr": "x"}},
        (422, "INVALID_ARGUMENT", "INVALID_OPTION"),
        "'layer'",
    ),
    "one that overrides": (
        "/pets:explain",
        {"instances": [B64], "explanationSpecOverride": {}},
        (400, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        "explanationSpecOverride",
    ),
}


@pytest.mark.parametrize(("path", "body", "error", "word"), WRONG.values(), ids=WRONG)
async def test_errors_are_googles(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], error: tuple[int, str, str], word: str
) -> None:
    says(await client.post(PLACE + path, json=body), *error, word)


async def test_what_is_no_post_is_refused_in_its_words(client: httpx.AsyncClient) -> None:
    says(await client.get(f"{PLACE}/pets:predict"), 405, "UNIMPLEMENTED", "METHOD_NOT_ALLOWED")
    says(await client.get("/v1/projects"), 404, "NOT_FOUND", "NOT_FOUND")


async def test_a_key_is_the_token() -> None:
    keys = (KeyConfig(name="caller", sha256=digest_of("secret")),)
    async with faked(keys=keys) as application, application.client() as client:
        body = {"instances": [B64]}
        says(await client.post(f"{PLACE}/pets:predict", json=body), 401, "UNAUTHENTICATED", "UNAUTHORIZED")
        found = await client.post(f"{PLACE}/pets:predict", json=body, headers={"Authorization": "Bearer secret"})
        assert found.status_code == 200
