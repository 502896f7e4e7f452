"""Those modules of the page that only compute: as functions, called in the browser."""

from __future__ import annotations

import contextlib
import csv
import http.server
import io
import json
import re
import shlex
import subprocess
import threading
from typing import TYPE_CHECKING, Any, get_args

import pytest

from service.vocabulary import GateMissing, LoadingStage, ModelState, VersionState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

LABELS = ["star", "great white shark", "tabby, tabby cat", "ring", "gear", "jack-o'-lantern"]


@pytest.fixture(scope="module")
def page(browser: Browser, server: str) -> Iterator[Page]:
    """A document of the server, shared by all tests here: they leave nothing in it."""
    page = browser.new_page()
    page.goto(f"{server}/errors")
    yield page
    page.close()


def call(page: Page, module: str, expression: str) -> Any:
    return page.evaluate(f"import('/static/page/{module}.js').then((module) => {expression})")


def test_the_expected_class_is_read_from_paths(page: Page) -> None:
    classes = json.dumps([{"index": index, "label": label} for index, label in enumerate(LABELS)])
    paths = {
        "03-star.png": ("star", "name"),
        "star_12.jpg": ("star", "name"),
        "watermark-star.png": ("star", "name"),
        "Great_White-Shark_0001.jpeg": ("great white shark", "name"),
        "set/Tabby Cat/img_7.png": ("tabby, tabby cat", "folder"),
        "set/ring/star.png": ("ring", "folder"),
        "set/unsorted/gear (3).png": ("gear", "name"),
        "jack_o_lantern.png": ("jack-o'-lantern", "name"),
        "stars.png": None,
        "IMG_2041.jpg": None,
    }
    read = call(page, "expected", f"{json.dumps(list(paths))}.map(module.reader({classes}))")

    assert [found and (found["label"], found["from"]) for found in read] == list(paths.values())


def test_the_page_says_how_it_read_them(page: Page) -> None:
    said = call(page, "expected", "module.howRead([{from: 'folder'}, {from: 'name'}, {from: 'name'}, null])")
    assert "from the folder's name for 1 and from the file's name for 2; it is unknown for 1." in said
    assert "nothing is known" in call(page, "expected", "module.howRead([null])")


def test_requests_are_of_a_sensible_size(page: Page) -> None:
    mega = 1024 * 1024
    sizes = [1] * 9 + [20 * mega, 1, 6 * mega, 6 * mega, 1]
    items = f"{json.dumps(sizes)}.map((size) => ({{ picture: {{ file: {{ size }} }} }}))"
    lists = call(page, "batches", f"module.chunks({items}).map((chunk) => chunk.map((item) => item.picture.file.size))")

    assert [size for chunk in lists for size in chunk] == sizes
    assert [len(chunk) for chunk in lists] == [8, 1, 1, 2, 2]


def test_a_table_survives_what_file_names_hold(page: Page) -> None:
    name = 'a "b", c\nd;e.png'
    items = json.dumps([{"picture": {"path": name}, "error": "broken, sorry"}])
    (row,) = csv.DictReader(io.StringIO(call(page, "table", f"module.csv({items})"), newline=""))

    assert row["file"] == name
    assert row["error"] == "broken, sorry"
    assert row["predicted"] == ""


@pytest.mark.parametrize("text", ["plain-1.png", "it's", "$(rm -rf ~)", "a b", '"', "`x`", "", "é"])
def test_shells_read_what_was_meant(page: Page, text: str) -> None:
    assert shlex.split(f"x{call(page, 'commands', f'module.quoted({json.dumps(text)})')}") == [f"x{text}"]


def test_layers_are_listed_in_forward_order_within_their_stage(page: Page) -> None:
    rows = [("a", [8, 4, 4]), ("b", [8, 2, 2]), ("c", [8, 4, 4]), ("fc", [10])]
    layers = [
        {"name": name, "type": "T", "shape": shape, "explainable": len(shape) == 3, "recommended": name == "c",
         "note": None if len(shape) == 3 else "no grid"}
        for name, shape in rows
    ]  # fmt: skip
    groups = call(page, "choices", f"module.layerGroups({json.dumps({'default': 'b', 'layers': layers})})")

    assert [(group["title"], [option["name"] for option in group["options"]]) for group in groups] == [
        ("Recommended", ["b", "c"]),
        ("Stage 1: 4 × 4 cells", ["a", "c"]),
        ("Stage 2: 2 × 2 cells", ["b"]),
        ("Stage 3: No grid of places", ["fc"]),
    ]
    assert groups[-1]["options"][0]["refused"] == "no grid"


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("mode=upside-down", "mode", "overlay"),
        ("opacity=7", "opacity", 0.55),
        ("opacity=", "opacity", 0.55),
        ("smooth=-1", "smooth", 0),
        ("tab=nowhere", "tab", "explain"),
        ("tab=models", "tab", "models"),
        ("signed=true", "signed", True),
        ("fuse=sum", "fuse", ""),
        ("fuse=mean", "fuse", "mean"),
        ("row=a&row=b", "row", ["a", "b"]),
    ],
)
def test_addresses_are_read_with_care(page: Page, query: str, name: str, value: object) -> None:
    assert call(page, "state", f"module.read('?{query}').{name}") == value


def test_a_command_sends_a_sentence_as_it_is(page: Page, tmp_path: Path) -> None:
    """Curl reads ; and what a value begins with, and shells read much more."""
    sentences = ["text:a star; type=x", "@file", "<file", '"quoted"', "text:it's $HOME, `x` \\ #3 🌟", "plain"]
    asked = {
        "base": "http://127.0.0.1:9/",
        "model": "m",
        "options": [["target", text] for text in sentences],
        "pictures": [{"name": "p.png"}],
    }
    command = call(page, "commands", f"module.curl({json.dumps(asked)})")
    (tmp_path / "p.png").write_bytes(b"")
    with listening() as (address, received):
        subprocess.run(["bash", "-c", command.replace("127.0.0.1:9", address)], cwd=tmp_path, check=False)
    assert re.findall(r'name="target"\r\n\r\n(.*?)\r\n--', received[0].decode()) == sentences


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, list[bytes]]]:
    """A server that keeps the bodies that it is sent."""
    received: list[bytes] = []

    class Keep(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Keep) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


def test_a_class_is_named_by_its_index_and_a_further_sentence_by_itself(page: Page) -> None:
    zero_shot, fixed = {"prompts": "a {}", "classes": 3}, {"prompts": None, "classes": 3}
    for model, index, named in ((zero_shot, 2, "2"), (zero_shot, 3, "text:a #3"), (fixed, 5, "5"), (None, 5, "5")):
        one = {"index": index, "label": "a #3", "probability": 0.5}
        assert call(page, "choices", f"module.classNamed({json.dumps(model)}, {json.dumps(one)})") == named
        groups = f"module.classGroups({json.dumps(model)}, {{classes: [], total: 3}}, [{json.dumps(one)}], '')"
        assert call(page, "choices", groups)[0]["options"][0]["value"] == named
    assert call(page, "choices", "module.classGroups({prompts: null}, {classes: [], total: 3}, [], 'a star')")[2] == {
        "title": "Any sentence",
        "options": [],
    }


@pytest.mark.parametrize(
    ("picture", "name"),
    [
        ("a/03-star.png", "03-star_a_star_layer4.png"),
        ("写真 «été» 🌟.tiff", "写真_été_a_star_layer4.png"),
        ("e\u0301té <b>&:*?.png", "été_b_a_star_layer4.png"),
        ("x" * 300, f"{'x' * 60}_a_star_layer4.png"),
        (".png", "picture_a_star_layer4.png"),
    ],
)
def test_files_are_named_in_any_script(page: Page, picture: str, name: str) -> None:
    assert call(page, "save", f"module.fileName({json.dumps(picture)}, ['a star', 'layer4'], 'png')") == name


def test_scores_have_words_also_where_there_is_no_number(page: Page) -> None:
    said = call(page, "scores", "module.sureness({entropy: 0.126, margin: 0.5})")
    assert said.startswith("Entropy 0.13: 0 is sure")
    assert "Margin 0.50" in said
    assert "Entropy" not in call(page, "scores", "module.sureness({entropy: null, margin: 0.5})")
    assert "Flip stability −0.20" in call(page, "scores", "module.stability({flip_stability: -0.2})")
    assert "Nothing can be said" in call(page, "scores", "module.stability({flip_stability: null})")
    gates = "{class_differs: false, random_head_differs: null}"
    assert call(page, "scores", f"module.proof({{text: 'So.', gates: {gates}}})") == (
        "So. The map of another class is all but the same."
    )
    missing = "{class_differs: 'no_other_class', random_head_differs: 'head_unknown'}"
    gates = f"{{class_differs: null, random_head_differs: null, missing: {missing}}}"
    said = call(page, "scores", f"module.proof({{text: 'So.', gates: {gates}}})")
    assert said.startswith("So. There is no other class")
    assert "not tried with a random last layer" in said
    for reason in get_args(GateMissing):
        gates = f"{{class_differs: null, random_head_differs: null, missing: {{random_head_differs: '{reason}'}}}}"
        said = call(page, "scores", f"module.proof({{text: 'So.', gates: {gates}}})")
        assert (said == "So.") == (reason in {"empty", "nothing_to_hide"}), "the sentence says it"


def test_keys_of_a_model_are_read_as_lines_or_as_json(page: Page) -> None:
    lines = """
        # as in a [[models]] table
        size = 224 # px
        mode = "crop"  # "centre"
        description = 'no. # 3' # a comment
        constructor.x = 1
        interpolation = bilinear
        version = 'a "b"'
        multi_label = true
        mean = [0.5, 0.5, 0.5]
        factory_args.classes = 7
        factory_args.width = 8
        labels.side = sides.txt
    """
    keys = {
        "size": 224, "mode": "crop", "description": "no. # 3", "constructor": {"x": 1},
        "interpolation": "bilinear", "version": 'a "b"', "multi_label": True,
        "mean": [0.5, 0.5, 0.5], "factory_args": {"classes": 7, "width": 8}, "labels": {"side": "sides.txt"},
    }  # fmt: skip
    assert call(page, "model-keys", f"module.parsed({json.dumps(lines)})") == keys
    assert call(page, "model-keys", f"module.parsed({json.dumps(json.dumps(keys))})") == keys
    assert call(page, "model-keys", "module.parsed('  ')") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("size: 224", "Line 1 of the further keys is not of the form key = value: size: 224"),
        ("size = 3\nsize = 4", "Line 2 of the further keys gives size once more."),
        ("mean = 3\nmean.x = 4", "Line 2 of the further keys gives mean.x once more."),
        ("mean = 3\nmean.x.y = 4", "Line 2 of the further keys gives mean.x.y once more."),
        ("mean = [0.5,\n0.5]", "a list stands in one line"),
        ("factory_args = {classes = 7}", "Write tables as JSON."),
        ("size =", "not of the form key = value"),
        ('{"size": }', "begin as a JSON object and are none"),
        ("layer = layer3", "layer stands in its own field and among the further keys"),
    ],
)
def test_keys_that_cannot_be_read_are_named(page: Page, text: str, says: str) -> None:
    asked = f"module.configuration({{layer: 'layer4', labels: ''}}, {json.dumps(text)})"
    said = page.evaluate(
        f"import('/static/page/model-keys.js').then((module) => {asked}).then(() => '', (error) => error.message)"
    )
    assert says in said


def test_empty_fields_are_left_to_the_server(page: Page) -> None:
    configuration = "module.configuration({architecture: 'resnet18', labels: ''}, 'size = 64')"
    assert call(page, "model-keys", configuration) == {"architecture": "resnet18", "size": 64}


@pytest.mark.parametrize(
    ("words", "vocabulary"),
    [
        ("(stage) => module.loadingWords({ stage })", LoadingStage),
        ("module.modelWords", ModelState),
        ("module.versionWords", VersionState),
    ],
)
def test_there_are_words_for_every_state(page: Page, words: str, vocabulary: Any) -> None:
    names = [*get_args(vocabulary), "of a later server"]
    said = call(page, "loading", f"{json.dumps(names)}.map({words})")
    assert len(set(said)) == len(names)


def test_what_is_written_is_read(page: Page) -> None:
    values = {
        "tab": "grid", "sample": "a b&c.png", "model": "m", "head": "h", "layer": "l.0:1", "method": "gradcam++",
        "target": "3", "against": "4", "signed": True, "smooth": 8, "flip": True, "fuse": "max",
        "mode": "swipe", "opacity": 0.25, "threshold": 0.5,
        "regions": True, "colormap": "hot", "samples": True, "by": "classes", "row": ["x", "y"], "column": ["1"],
        "sort": "least", "show": "wrong",
        "compare": ["l.0", "l.1"], "by_method": ["gradcam"], "purpose": ["class"], "evaluation": "e1",
    }  # fmt: skip
    assert call(page, "state", f"module.read(module.write({json.dumps(values)}))") == values
    assert call(page, "state", "module.write(module.read(''))") == "/errors", "nothing but the path"
