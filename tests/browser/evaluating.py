"""A server's evaluations, made up: what it would take minutes to compute is there at once."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from tests.browser.asked import form_of

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

ROUTES = re.compile(r"/api/v1/evaluations(/|$)")
REPORT = "<!doctype html><html lang='en'><title>Which layer?</title><h1>Which layer of shapes?</h1></html>"
SKIPPED = [{"name": "set/broken.png", "code": "unsupported_image", "text": "The bytes are no picture."}]

# Replaces what reads events, in the document that is open: they are told one by one, by `tell`.
_TELL = """() => {
  const real = window.fetch;
  const encoder = new TextEncoder();
  window.fetch = (address, init) => {
    if (!String(address).endsWith("/events")) return real(address, init);
    const start = (stream) => {
      window.tell = (event, data) => stream.enqueue(encoder.encode(`event: ${event}\\ndata: ${data}\\n\\n`));
    };
    return Promise.resolve(new Response(new ReadableStream({ start })));
  };
}"""


def entry(name: str = "one", **changes: Any) -> dict[str, Any]:
    """An evaluation as the list has it."""
    return {
        "id": name,
        "state": "running",
        "progress": 0.4,
        "eta_s": 70,
        "stage": "taking pixels away",
        "reason": None,
        "model": "shapes",
        "images": 15,
        "created": 1_790_000_000.0,
        "ended": None,
        "restarts": 0,
        "kept": False,
        "note": "It is forgotten when the service ends.",
        "skipped": [],
    } | changes


def done(name: str = "one", **changes: Any) -> dict[str, Any]:
    """One that is over."""
    return entry(name, state="done", progress=1.0, eta_s=None, stage=None, ended=1_790_000_100.0, **changes)


def _row(layer: str, mean: float, **changes: Any) -> dict[str, Any]:
    gates = {"beats_random": True, "beats_centre": True, "class_sensitive": True, "head_sensitive": True}
    road = {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "n": 15}
    row = {"layer": layer, "method": "gradcam", "metrics": {"road": road}, "gates": gates}
    return {**row, "excluded": None, "same_as": None, **changes}


def result() -> dict[str, Any]:
    """What came out: layer3 is recommended, and nothing for localisation."""
    nothing: dict[str, Any] = {"purpose": "localisation", "layer": None, "method": None, "ties": [], "images": 0}
    return {
        "rows": [
            _row("layer3", 0.42),
            _row("layer4", 0.4, gates={"beats_random": False, "class_sensitive": False}),
            _row("avgpool", 0.1, excluded="it has a single cell"),
        ],
        "baselines": [{"name": "random", "metrics": _row("", 0.01)["metrics"]}],
        "recommendations": [
            {
                "purpose": "faithfulness",
                "layer": "layer3",
                "method": "gradcam",
                "ties": ["layer3", "layer4"],
                "text": "For showing what the model uses, use layer3.",
                "none_because": None,
                "images": 15,
            },
            {**nothing, "text": "No object is marked.", "none_because": "No object is marked."},
        ],
        "warnings": [{"code": "same_regions", "text": "Maps of different classes are alike."}],
    }


class Evaluations:
    """Stands for the server's routes of a page.

    Attributes:
        known: the evaluations by their ids, as the list has them.
        forms: what was sent to begin one: options by name, pictures' names under ``image``.
        asked: method, path and Authorization of every request, in order.
    """

    def __init__(self, page: Page, *known: dict[str, Any]) -> None:
        self.known = {each["id"]: each for each in known}
        self.forms: list[dict[str, list[str]]] = []
        self.asked: list[tuple[str, str, str]] = []
        self._page = page
        page.route(ROUTES, self._answer)

    def listen(self) -> None:
        """Have the page's next evaluation told by :meth:`tell`."""
        self._page.evaluate(_TELL)

    def tell(self, told: dict[str, Any]) -> None:
        """Tell an event without what was left out."""
        self.known[told["id"]] = told
        said = {name: value for name, value in told.items() if name != "skipped"}
        self._page.wait_for_function("() => window.tell")
        kind = "done" if told["state"] == "done" else "progress"
        self._page.evaluate("([kind, data]) => window.tell(kind, data)", [kind, json.dumps(said)])

    def _answer(self, route: Route) -> None:
        request = route.request
        _, _, path = request.url.partition("/evaluations")
        self.asked.append((request.method, path, request.headers.get("authorization", "")))
        name, _, part = path.removeprefix("/").partition("/")
        if request.method == "POST":
            self._begin(route)
        elif not name:
            route.fulfill(json={"evaluations": list(self.known.values())})
        elif name not in self.known:
            missing = {"detail": "No evaluation has this id.", "code": "unknown_evaluation"}
            route.fulfill(status=404, content_type="application/problem+json", body=json.dumps(missing))
        elif request.method == "DELETE":
            del self.known[name]
            route.fulfill(status=204)
        else:
            self._tell_of(route, self.known[name], part)

    def _begin(self, route: Route) -> None:
        self.forms.append(form_of(route.request))
        begun = entry(state="queued", progress=0.0, eta_s=None, stage=None, skipped=SKIPPED)
        self.known["one"] = begun
        route.fulfill(status=202, json={**begun, "result": None})

    def _tell_of(self, route: Route, known: dict[str, Any], part: str) -> None:
        if part == "events":
            kind = "done" if known["state"] == "done" else "progress"
            route.fulfill(
                content_type="text/event-stream", body=f": here\n\nevent: {kind}\ndata: {json.dumps(known)}\n\n"
            )
        elif part == "report":
            route.fulfill(content_type="text/html", body=REPORT)
        else:
            route.fulfill(json={**known, "result": result() if known["state"] == "done" else None})
