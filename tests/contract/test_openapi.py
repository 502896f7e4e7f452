"""The OpenAPI document: committed as generated, sound in itself, and true of what the application answers."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

from service import wire, wire_evaluation, wire_models
from service.cli import main
from service.http.examples import BODY_ERRORS
from service.problems import MEDIA_TYPE, STATUS, problem_for, status_of
from service.protocols import EXAMPLE_REQUEST_ID
from service.protocols.native.evaluations_openapi import ANSWERS as EVALUATION_ANSWERS
from service.protocols.native.examples import ANSWERS as NATIVE_ANSWERS
from service.protocols.native.examples import CONFIGURATION, FORMS, MANAGEMENT_ERRORS, REQUESTS
from service.settings import ModelConfig, Settings
from service.web.app import create_app
from service.web.examples import ANSWERS as OPERATIONS_ANSWERS
from service.web.examples import KEY_ERRORS
from tests.documents import inlined
from tests.toys import png
from tests.web.application import faked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx
    from pydantic import BaseModel

COMMITTED = Path(__file__).parents[2] / "openapi" / "openapi.json"

# Operation ids are part of the contract: generated clients name their functions after them.
OPERATIONS = {
    ("post", "/api/v1/explain"): "explain",
    ("post", "/api/v1/models/{model}/explain"): "explain_with",
    ("post", "/api/v1/predict"): "predict",
    ("post", "/api/v1/models/{model}/predict"): "predict_with",
    ("get", "/api/v1/models"): "models",
    ("get", "/api/v1/models/{model}"): "model",
    ("put", "/api/v1/models/{model}"): "put_model",
    ("delete", "/api/v1/models/{model}"): "remove_model",
    ("post", "/api/v1/models/{model}/reload"): "reload_model",
    ("post", "/api/v1/models/{model}/unload"): "unload_model",
    ("post", "/api/v1/models/{model}/versions/{version}/explain"): "explain_version",
    ("post", "/api/v1/models/{model}/versions/{version}/predict"): "predict_version",
    ("get", "/api/v1/aliases"): "aliases",
    ("put", "/api/v1/aliases/{alias}"): "put_alias",
    ("delete", "/api/v1/aliases/{alias}"): "remove_alias",
    ("get", "/api/v1/models/{model}/layers"): "layers",
    ("get", "/api/v1/models/{model}/classes"): "classes",
    ("get", "/api/v1/methods"): "methods",
    ("get", "/api/v1/colormaps"): "colormaps",
    ("get", "/livez"): "livez",
    ("get", "/readyz"): "readyz",
    ("get", "/metrics"): "metrics",
    ("get", "/version"): "version",
}
# Those that take minutes, and a form alone.
EVALUATIONS = {
    ("post", "/api/v1/evaluations"): "evaluate",
    ("get", "/api/v1/evaluations"): "evaluation_list",
    ("get", "/api/v1/evaluations/{evaluation}"): "evaluation",
    ("get", "/api/v1/evaluations/{evaluation}/events"): "evaluation_events",
    ("get", "/api/v1/evaluations/{evaluation}/report"): "evaluation_report",
    ("delete", "/api/v1/evaluations/{evaluation}"): "remove_evaluation",
}
EVALUATION_MODELS: dict[str, type[BaseModel]] = {
    "evaluate": wire_evaluation.Evaluation,
    "evaluation_list": wire_evaluation.EvaluationList,
    "evaluation": wire_evaluation.Evaluation,
}
ANSWER_MODELS: dict[str, type[BaseModel]] = {
    "explain": wire.ExplainResponse,
    "explain_with": wire.ExplainResponse,
    "predict": wire.ExplainResponse,
    "predict_with": wire.ExplainResponse,
    "models": wire_models.ModelList,
    "model": wire_models.ModelEntry,
    "put_model": wire_models.ModelEntry,
    "reload_model": wire_models.ModelEntry,
    "unload_model": wire_models.ModelEntry,
    "explain_version": wire.ExplainResponse,
    "predict_version": wire.ExplainResponse,
    "aliases": wire_models.AliasList,
    "put_alias": wire_models.AliasEntry,
    "layers": wire_models.LayerList,
    "classes": wire_models.ClassList,
    "methods": wire.MethodList,
    "colormaps": wire.ColormapList,
    "livez": wire.Status,
    "readyz": wire.Readiness,
    "version": wire.Version,
}
# What further protocols let anybody ask.
OPEN = {"/ping", "/v2/health/live", "/v2/health/ready"}
# What changes models; the other routes take pictures, or read.
MANAGEMENT = {"put_model", "remove_model", "reload_model", "unload_model", "put_alias", "remove_alias"}
ANSWERS = {**NATIVE_ANSWERS, **OPERATIONS_ANSWERS}
PROBLEMS = {
    str(status_of(each.error)): problem_for(each.error, EXAMPLE_REQUEST_ID).model_dump(exclude_none=True)
    for each in (*BODY_ERRORS, *KEY_ERRORS)
}
MANAGEMENT_PROBLEMS = {
    str(status_of(each.error)): problem_for(each.error, EXAMPLE_REQUEST_ID).model_dump(exclude_none=True)
    for each in MANAGEMENT_ERRORS
}
REQUEST_MODELS: dict[str, type[BaseModel]] = {
    "ExplainRequest": wire.ExplainRequest,
    "PredictRequest": wire.PredictRequest,
}


@pytest.fixture(scope="module")
def generated() -> dict[str, Any]:
    return create_app(Settings()).openapi()


@pytest.fixture(scope="module")
def document(generated: dict[str, Any]) -> dict[str, Any]:
    return inlined(generated)


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(verb, path): each for path, verbs in document["paths"].items() for verb, each in verbs.items()}


def walk(node: Any) -> Iterator[Any]:
    yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from walk(child)


def references(node: Any) -> set[str]:
    return {each["$ref"] for each in walk(node) if isinstance(each, dict) and isinstance(each.get("$ref"), str)}


# -- the document -----------------------------------------------------------------------------------------------------


def test_the_committed_document_is_the_generated_one(generated: dict[str, Any]) -> None:
    assert json.loads(COMMITTED.read_text(encoding="utf-8")) == generated, "run scripts/openapi"
    assert main(["openapi", "--check", str(COMMITTED)]) == 0


def test_it_does_not_depend_on_settings(generated: dict[str, Any]) -> None:
    assert create_app(Settings(max_images=1, max_queue=1, port=1)).openapi() == generated


def test_the_version_of_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert set(document) <= {"openapi", "info", "paths", "components", "tags", "servers"}
    assert {"title", "version", "description"} <= set(document["info"])


def test_every_route_of_the_contract_is_there(document: dict[str, Any]) -> None:
    found = {key: each["operationId"] for key, each in operations(document).items()}
    named = OPERATIONS | EVALUATIONS
    assert {key: found.get(key) for key in named} == named
    assert {key for key in found if key[1].startswith("/api/v1")} <= set(named), "a new route: name it here"


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [each["operationId"] for each in operations(document).values()]
    assert len(ids) == len(set(ids))
    assert all(each.isidentifier() for each in ids)


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    for (verb, path), each in operations(document).items():
        assert each["summary"], (verb, path)
        assert each["description"], (verb, path)
        assert each["tags"], (verb, path)


def test_references_lead_somewhere_and_nothing_is_left_over(generated: dict[str, Any]) -> None:
    components = {kind: named for kind, named in generated["components"].items() if kind != "securitySchemes"}
    assert references(generated) == {f"#/components/{kind}/{name}" for kind in components for name in components[kind]}


def test_what_operations_share_is_said_once(generated: dict[str, Any]) -> None:
    said: Counter[str] = Counter()
    for operation in operations(generated).values():
        shared = [*operation["responses"].values(), *operation.get("parameters", []), operation.get("requestBody", {})]
        said.update(json.dumps(each, sort_keys=True) for each in shared if each and "$ref" not in each)
    assert said.most_common(1)[0][1] == 1


def test_path_parameters_are_those_of_the_path(document: dict[str, Any]) -> None:
    for (_, path), each in operations(document).items():
        declared = [parameter for parameter in each.get("parameters", []) if parameter["in"] == "path"]
        assert {parameter["name"] for parameter in declared} == set(re.findall(r"{(\w+)}", path))
        assert all(parameter["required"] for parameter in declared)
        keys = [(parameter["in"], parameter["name"]) for parameter in each.get("parameters", [])]
        assert len(keys) == len(set(keys))


def test_schemas_are_sane(document: dict[str, Any]) -> None:
    kinds = {"object", "array", "string", "integer", "number", "boolean", "null"}
    for node in walk(document["components"]["schemas"]):
        if isinstance(node, dict) and isinstance(node.get("type"), str) and "properties" in node:
            assert node["type"] == "object"
            assert set(node.get("required", [])) <= set(node["properties"])
        if isinstance(node, dict) and isinstance(node.get("type"), str):
            assert node["type"] in kinds
            assert node["type"] != "array" or "items" in node or "prefixItems" in node


@pytest.mark.parametrize(
    "path", [path for (verb, path), name in OPERATIONS.items() if verb == "post" and name not in MANAGEMENT]
)
def test_every_post_has_the_three_encodings_and_its_options(document: dict[str, Any], path: str) -> None:
    operation = document["paths"][path]["post"]
    name = "PredictRequest" if "predict" in path else "ExplainRequest"
    options = set(REQUEST_MODELS[name].model_fields) - {"images"}
    content = operation["requestBody"]["content"]
    assert operation["requestBody"]["required"] is True
    assert set(content) == {"multipart/form-data", "application/json", "image/*", "application/octet-stream"}
    assert set(content["multipart/form-data"]["schema"]["properties"]) == options | {"image"}
    assert content["application/json"]["schema"] == {"$ref": f"#/components/schemas/{name}"}
    assert set(document["components"]["schemas"][name]["properties"]) == options | {"images"}
    assert document["components"]["schemas"][name]["additionalProperties"] is False
    by_place: dict[str, set[str]] = {}
    for parameter in operation["parameters"]:
        by_place.setdefault(parameter["in"], set()).add(parameter["name"])
    assert by_place["query"] == options
    assert by_place["header"] == {"X-Request-Timeout-Ms"}


@pytest.mark.parametrize(
    ("verb", "path"),
    [key for key, name in OPERATIONS.items() if key[1].startswith("/api/v1") and name not in MANAGEMENT],
)
def test_every_error_is_a_problem_with_an_example(document: dict[str, Any], verb: str, path: str) -> None:
    responses = document["paths"][path][verb]["responses"]
    expected = {str(status) for status in STATUS.values()} - {"405", "409", "424"}
    assert set(responses) >= (
        expected | {"200"} if verb == "post" else {"200", "401", "403", "404", "422", "429", "500", "503"}
    )
    for status, response in responses.items():
        assert response["description"]
        assert "X-Request-ID" in response["headers"]
        assert ("Retry-After" in response["headers"]) == (status in {"429", "503"})
        if status != "200":
            assert set(response["content"]) == {MEDIA_TYPE}
            assert response["content"][MEDIA_TYPE]["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert response["content"][MEDIA_TYPE]["example"] == PROBLEMS[status]


@pytest.mark.parametrize(("verb", "path"), [key for key, name in OPERATIONS.items() if name in MANAGEMENT])
def test_what_changes_models_has_its_errors(document: dict[str, Any], verb: str, path: str) -> None:
    responses = document["paths"][path][verb]["responses"]
    assert set(responses) - {"200", "202", "204"} == {*MANAGEMENT_PROBLEMS, "401", "404", "429", "431", "500", "503"}
    for status, problem in MANAGEMENT_PROBLEMS.items():
        assert responses[status]["content"][MEDIA_TYPE]["example"] == problem


def test_the_body_of_put_is_a_configuration(document: dict[str, Any]) -> None:
    content = document["paths"]["/api/v1/models/{model}"]["put"]["requestBody"]["content"]["application/json"]
    assert set(content["schema"]["properties"]) == set(ModelConfig.model_fields) - {"name"}
    assert content["schema"]["required"] == ["architecture"]
    assert content["example"] == CONFIGURATION
    assert ModelConfig.model_validate({"name": "birds", **CONFIGURATION}).name == "birds"


def test_the_form_of_an_evaluation(document: dict[str, Any]) -> None:
    (content,) = document["paths"]["/api/v1/evaluations"]["post"]["requestBody"]["content"].items()
    assert content[0] == "multipart/form-data"
    options = set(wire_evaluation.EvaluationOptions.model_fields)
    assert set(content[1]["schema"]["properties"]) == options | {"image", "mask", "annotations"}
    given = {name: value for name, value in content[1]["example"].items() if name in options}
    assert wire_evaluation.EvaluationOptions.model_validate(given).layer == ("layer3", "layer4")


@pytest.mark.parametrize(("key", "name"), EVALUATIONS.items())
def test_answers_and_errors_of_evaluations(document: dict[str, Any], key: tuple[str, str], name: str) -> None:
    responses = operations(document)[key]["responses"]
    success = {"evaluate": "202", "remove_evaluation": "204"}.get(name, "200")
    statuses = {success, "401", "403", "429", "431", "500", "503"}
    statuses |= {"400", "404", "408", "413", "415", "422"} if name == "evaluate" else set()
    statuses |= {"404"} if "{evaluation}" in key[1] else set()
    statuses |= {"409"} if name == "evaluation_report" else set()
    assert set(responses) == statuses
    for status in statuses - {success}:
        problem = wire.Problem.model_validate(responses[status]["content"][MEDIA_TYPE]["example"])
        assert str(problem.status) == status == str(STATUS[problem.code])
    content = responses[success].get("content", {})
    if name in EVALUATION_MODELS:
        schema = {"$ref": f"#/components/schemas/{EVALUATION_MODELS[name].__name__}"}
        assert content == {"application/json": {"schema": schema, "example": EVALUATION_ANSWERS[name]}}
        faithful(EVALUATION_MODELS[name], EVALUATION_ANSWERS[name])
    else:
        kinds = {"evaluation_events": {"text/event-stream"}, "evaluation_report": {"text/html"}}
        assert set(content) == kinds.get(name, set())


def test_what_needs_a_key_says_so(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for (_, path), operation in operations(document).items():
        managed = operation["operationId"] in MANAGEMENT
        managed = managed or path.startswith("/v2/repository/models/")
        scopes = {"/livez": None, "/readyz": None, "/version": None, "/metrics": "metrics"}
        scope = (
            None if path in OPEN or path.endswith("/webhook") else "manage" if managed else scopes.get(path, "infer")
        )
        assert operation.get("security") == ([{"key": [scope]}, {}] if scope else None)
        assert ({"401", "403", "429"} <= set(operation["responses"])) == (scope is not None)


def test_answers_are_described_by_the_models_of_the_wire(document: dict[str, Any]) -> None:
    for key, name in OPERATIONS.items():
        if name.startswith("remove_"):
            assert "content" not in operations(document)[key]["responses"]["204"]
            continue
        content = operations(document)[key]["responses"]["200"]["content"]
        if name == "metrics":
            assert set(content) == {"text/plain"}
            continue
        schema = content["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{ANSWER_MODELS[name].__name__}"}
        pictures = {"image/png", "image/jpeg", "image/webp"} if name.startswith("explain") else set()
        assert set(content) == {"application/json"} | pictures


# -- its examples -----------------------------------------------------------------------------------------------------


def faithful(model: type[BaseModel], body: Any) -> None:
    """What the document declares is there, and nothing that it does not declare."""
    assert model.model_validate(body).model_dump(mode="json") == body


@pytest.mark.parametrize("name", ANSWERS)
def test_examples_of_answers(document: dict[str, Any], name: str) -> None:
    faithful(ANSWER_MODELS[name], ANSWERS[name])
    (operation,) = (each for each in operations(document).values() if each["operationId"] == name)
    assert operation["responses"]["200"]["content"]["application/json"]["example"] == ANSWERS[name]


def test_every_answer_has_an_example() -> None:
    assert set(ANSWERS) == set(ANSWER_MODELS) == set(OPERATIONS.values()) - {"metrics", "remove_model", "remove_alias"}


@pytest.mark.parametrize("name", REQUEST_MODELS)
def test_examples_of_requests(document: dict[str, Any], name: str) -> None:
    REQUEST_MODELS[name].model_validate(REQUESTS[name])
    form = dict(FORMS[name])
    assert form.pop("image")
    REQUEST_MODELS[name].model_validate({"images": [], **form})
    for (_, path), operation in operations(document).items():
        native = path.startswith("/api/v1/") and operation["operationId"] not in {*MANAGEMENT, "evaluate"}
        if "requestBody" in operation and native and ("predict" in path) == (name == "PredictRequest"):
            content = operation["requestBody"]["content"]
            assert content["application/json"]["example"] == REQUESTS[name]
            assert content["multipart/form-data"]["example"] == FORMS[name]


@pytest.mark.parametrize("status", PROBLEMS)
def test_examples_of_problems(status: str) -> None:
    problem = wire.Problem.model_validate(PROBLEMS[status])
    assert str(problem.status) == status
    assert STATUS[problem.code] == problem.status


@pytest.mark.parametrize("name", ["ExplainOptions", "PredictOptions", "ImageInput"])
def test_examples_of_fields(name: str) -> None:
    for field in getattr(wire, name).model_fields.values():
        for example in field.examples or ():
            TypeAdapter(field.rebuild_annotation()).validate_python(example)


# -- the application --------------------------------------------------------------------------------------------------


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with faked(max_images=2) as application, application.client() as client:
        yield client


async def test_the_document_is_served(client: httpx.AsyncClient, generated: dict[str, Any]) -> None:
    assert (await client.get("/openapi.json")).json() == generated


@pytest.mark.parametrize(
    ("verb", "path"), [key for key, name in OPERATIONS.items() if name in ANSWER_MODELS.keys() - MANAGEMENT]
)
async def test_real_answers_are_as_documented(client: httpx.AsyncClient, verb: str, path: str) -> None:
    image = {"b64": base64.b64encode(png()).decode(), "filename": "a.png"}
    everything = {"output": ["heatmap", "overlay", "mask", "map", "regions"], "target": ["top-2"], "against": "cat"}
    bodies: list[dict[str, Any] | None] = [None]
    if verb == "post":
        bad = {"b64": "QUJD"}
        bodies = [{"images": [image]}, {"images": [image, bad]}]
        bodies += [] if "predict" in path else [{"images": [image], **everything}]
    for body in bodies:
        response = await client.request(verb, path.format(model="pets", version="1"), json=body)
        assert response.status_code == 200, response.text
        faithful(ANSWER_MODELS[OPERATIONS[verb, path]], response.json())


async def test_real_problems_are_as_documented(client: httpx.AsyncClient, document: dict[str, Any]) -> None:
    declared = document["components"]["schemas"]["Problem"]
    helping = {"retry_after_s", "limit", "unit"}  # members of their own that some errors carry
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/api/v1/nothing", {}),
        ("GET", "/api/v1/explain", {}),
        ("GET", "/api/v1/models/pet", {}),
        ("POST", "/api/v1/explain", {}),
        ("POST", "/api/v1/explain", {"json": {"images": []}}),
        ("POST", "/api/v1/explain", {"json": {"images": [{"b64": "QUJD"}], "layer": "conv3"}}),
        ("POST", "/api/v1/explain", {"files": [("image", ("a.png", b"x"))] * 3}),
    ]
    for verb, path, options in requests:
        body = (await client.request(verb, path, **options)).json()
        assert set(declared["required"]) <= set(body) <= set(declared["properties"]) | helping
        wire.Problem.model_validate(body)
