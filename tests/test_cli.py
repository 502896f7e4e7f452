from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service import __version__, cli
from service.commands import evaluate_there, serve
from service.commands.pictures import images_in
from service.imaging.formats import FORMATS
from service.models.sources.table import SOURCES
from service.protocols.native.examples import ANSWERS
from service.settings import load_settings
from tests.cores import threads
from tests.environment import settings_of_tests
from tests.toys import png

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES = Path(cli.__file__).parent / "demo" / "samples"


@dataclass
class Run:
    """What a command left: exit code, standard output and error."""

    code: int
    out: str
    err: str


def run(*arguments: str | Path) -> Run:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse's own
            code = int(end.code or 0)
    return Run(code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True, scope="module")
def _clean_environment() -> Iterator[None]:
    """No settings from outside; one thread, here and in the workers, as more only wait for each other."""
    with threads(1), settings_of_tests():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more" / "folder.png").mkdir(parents=True)
    (folder / "apart").mkdir()
    (folder / "more" / "a.PNG").write_bytes(png(size=(70, 110), seed=1))
    (folder / "more" / "broken.jpg").write_bytes(b"\xff\xd8\xff but not for long")
    (folder / "more" / "gone.webp").symlink_to(folder / "nowhere.webp")
    (folder / "more" / "notes.txt").write_text("not a picture, and not called one")
    (folder / "apart" / "a.PNG").write_bytes(png(size=(120, 50), seed=2))
    shutil.copy(SAMPLES / "03-star.png", folder / "apart" / "star.png")
    return folder


@pytest.fixture(scope="module")
def ran(folder: Path) -> Run:
    where = [folder / "more", folder / "apart" / "*"]
    return run("explain", *where, "--out", folder / "out", "--layer", "layer3", "--layer", "default", "--top-k", "2")


@pytest.fixture(scope="module")
def results(ran: Run, folder: Path) -> list[dict[str, Any]]:
    assert ran.out, ran.err
    results: list[dict[str, Any]] = json.loads((folder / "out" / "explanations.json").read_text(encoding="utf-8"))
    return results


class TestExplain:
    """One run over a folder and a glob pattern, with a file among them that is no picture and one that is gone."""

    def test_says_what_failed_and_goes_on(self, ran: Run, folder: Path) -> None:
        assert ran.code == 1
        assert f"{folder / 'more' / 'broken.jpg'}: " in ran.err
        assert f"{folder / 'more' / 'gone.webp'}: The file cannot be read: No such file or directory." in ran.err
        assert "Traceback" not in ran.err
        assert ran.out == f"3 explained, 2 failed: {folder / 'out' / 'explanations.json'}\n"

    def test_says_what_it_skipped(self, ran: Run, folder: Path) -> None:
        assert f"{folder / 'more'}: skipped 1, not named as pictures that are read: 1 .txt\n" in ran.err

    def test_every_picture_that_can_be_read_is_in_the_summary(
        self, results: list[dict[str, Any]], folder: Path
    ) -> None:
        assert [(Path(each["file"]), each["model"]) for each in results] == [
            (folder / "more" / "a.PNG", "shapes"),
            (folder / "apart" / "a.PNG", "shapes"),
            (folder / "apart" / "star.png", "shapes"),
        ]
        assert [(each["image"]["width"], each["image"]["height"]) for each in results[:2]] == [(70, 110), (120, 50)]

    def test_the_star_is_seen_and_explained_by_the_star(self, results: list[dict[str, Any]]) -> None:
        star = results[2]
        with Image.open(SAMPLES / "03-star.mask.png") as mask:
            rows, columns = np.nonzero(np.asarray(mask))

        assert star["predictions"][0]["label"] == "star"
        assert len(star["predictions"]) == 2
        assert [each["layer"] for each in star["explanations"]] == ["layer3", "layer4"]
        assert [each["target"]["label"] for each in star["explanations"]] == ["star", "star"]
        assert not star["explanations"][1]["empty"]
        peak = star["explanations"][1]["peak"]
        assert columns.min() <= peak["x"] <= columns.max() + 1
        assert rows.min() <= peak["y"] <= rows.max() + 1
        assert any(
            region["box"]["left"] <= peak["x"] <= region["box"]["right"]
            for region in star["explanations"][1]["regions"]
        )

    def test_overlays_are_pictures_of_their_pictures_size(self, results: list[dict[str, Any]], folder: Path) -> None:
        written = {file.name for file in (folder / "out").iterdir()}
        named = [explanation["overlay"] for result in results for explanation in result["explanations"]]

        assert len(named) == 6
        assert written == {"explanations.json", *named}, "equal names do not overwrite each other"
        for result in results:
            for explanation in result["explanations"]:
                with Image.open(folder / "out" / explanation["overlay"]) as overlay:
                    assert overlay.format == "JPEG"
                    assert overlay.size == (result["image"]["width"], result["image"]["height"])

    def test_an_overlay_shows_the_picture_under_the_map(self, results: list[dict[str, Any]], folder: Path) -> None:
        with (
            Image.open(folder / "out" / results[2]["explanations"][1]["overlay"]) as overlay,
            Image.open(SAMPLES / "03-star.png") as picture,
        ):
            drawn, original = (np.asarray(each.convert("L"), dtype=float).ravel() for each in (overlay, picture))

        assert np.corrcoef(drawn, original)[0, 1] > 0.3
        assert abs(drawn - original).mean() > 10

    def test_names_of_overlays_say_what_they_are(self, results: list[dict[str, Any]]) -> None:
        assert results[2]["explanations"][1]["overlay"] == "0002-star-layer4-gradcam-star.jpg"

    @pytest.mark.parametrize("pattern", ["nowhere.png", "*.nothing", "gone/*.png"])
    def test_unknown_files_are_named(self, pattern: str, tmp_path: Path) -> None:
        ran = run("explain", tmp_path / pattern, "--out", tmp_path / "out")

        assert (ran.code, ran.out) == (1, "")
        assert ran.err == f"camserve: there is no picture {tmp_path / pattern}\n"

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()

        ran = run("explain", SAMPLES / "03-star.png", "--out", tmp_path / "file")

        assert ran.code == 1
        assert ran.err.startswith("camserve: ")
        assert str(tmp_path / "file") in ran.err


class TestExplainOptions:
    def test_a_map_that_is_put_to_the_proof_is_told_in_a_sentence(self, tmp_path: Path) -> None:
        options = ["--verify", "--output", "overlay", "--output", "hidden"]
        ran = run("explain", SAMPLES / "11-gear.png", "--out", tmp_path, *options)
        (result,) = json.loads((tmp_path / "explanations.json").read_text(encoding="utf-8"))
        (explanation,) = result["explanations"]
        sentence, summary = ran.out.splitlines()
        assert sentence == f"{SAMPLES / '11-gear.png'}: layer4, gradcam: {explanation['verification']['text']}"
        assert summary.startswith("1 explained, 0 failed")
        with Image.open(tmp_path / explanation["hidden"]) as hidden:
            assert hidden.size == (256, 192)

    def test_variants_and_methods(self, tmp_path: Path) -> None:
        options = ["--method", "hirescam", "--layer", "layer4", "--layer", "layer2", "--fuse", "mean", "--signed"]
        assert run("explain", SAMPLES / "03-star.png", "--out", tmp_path, *options).code == 0
        (result,) = json.loads((tmp_path / "explanations.json").read_text(encoding="utf-8"))
        (explanation,) = result["explanations"]
        assert (explanation["layer"], explanation["method"]) == ("layer4+layer2", "hirescam")
        assert explanation["minimum"] < 0 < explanation["maximum"]

    def test_what_is_asked_for_is_written(self, tmp_path: Path) -> None:
        options = [
            "--output",
            "heatmap",
            "--output",
            "map",
            "--output",
            "mask",
            "--image-format",
            "webp",
            "--size",
            "layer",
        ]
        assert run("explain", SAMPLES / "03-star.png", "--out", tmp_path, *options).code == 0

        (result,) = json.loads((tmp_path / "explanations.json").read_text(encoding="utf-8"))
        (explanation,) = result["explanations"]
        stem = "0000-03-star-layer4-gradcam-star"
        assert (explanation["overlay"], explanation["regions"]) == (None, None)
        assert explanation["map"] == f"{stem}.npy"
        assert np.load(tmp_path / explanation["map"]).max() == pytest.approx(explanation["maximum"])
        for output in ("heatmap", "mask"):
            assert explanation[output] == f"{stem}-{output}.webp"
            with Image.open(tmp_path / explanation[output]) as drawn:
                assert (drawn.format, drawn.size) == ("WEBP", (12, 12))

    def test_an_option_that_is_wrong_for_every_file_is_said_once(self, folder: Path, tmp_path: Path) -> None:
        ran = run("explain", folder / "apart", "--out", tmp_path, "--method", "legrad")
        assert ran.code == 1
        assert ran.err.count("it needs a transformer") == 1


class TestKey:
    def test_the_settings_that_it_prints_take_the_key_that_it_prints(self, tmp_path: Path) -> None:
        ran = run("key", "web")
        assert ran.code == 0
        (key,) = (line.strip() for line in ran.out.splitlines() if line.startswith("  "))
        digest = hashlib.sha256(key.encode()).hexdigest()
        table, line = ran.out[ran.out.index("[[keys]]") :].split("\n\n", 1)[0], ran.out.splitlines()[-1]
        assert key not in table + line
        (tmp_path / "camserve.toml").write_text(table)
        in_file = load_settings(tmp_path / "camserve.toml").keys
        assert [(each.name, each.sha256) for each in in_file] == [("web", digest)]
        assert load_settings(keys=line.removeprefix("CAMSERVE_KEYS=")).keys == in_file

    def test_another_time_another_key(self) -> None:
        assert run("key", "web").out != run("key", "web").out

    def test_a_name_is_short_and_plain(self) -> None:
        ran = run("key", "a b")
        assert (ran.code, ran.out) == (2, "")
        assert "name" in ran.err

    def test_a_server_that_strangers_reach_does_not_start_without(self) -> None:
        ran = run("serve", "--host", "0.0.0.0")
        assert (ran.code, ran.out) == (2, "")
        assert "camserve key NAME" in ran.err


class TestServe:
    @pytest.mark.parametrize(
        ("host", "shown"),
        [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("127.0.0.1", "127.0.0.1"), ("camserve.test", "camserve.test")],
    )
    def test_the_address_that_it_shows_can_be_opened(
        self, host: str, shown: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        serve._announce(load_settings(host=host), 8123)

        assert f"http://{shown}:8123/docs" in capsys.readouterr().out


class TestPredict:
    def test_one_line_per_picture(self) -> None:
        ran = run("predict", SAMPLES / "03-star.png", SAMPLES / "08-heart.png", "--top-k", "2", "--model", "shapes")

        assert ran.code == 0
        first, second = ran.out.splitlines()
        assert first.startswith(f"{SAMPLES / '03-star.png'}: star 9")
        assert second.startswith(f"{SAMPLES / '08-heart.png'}: heart 9")
        assert first.count("%") == second.count("%") == 2

    def test_a_folder_gives_every_suffix_that_can_be_read_and_says_what_not(self, tmp_path: Path) -> None:
        with Image.open(SAMPLES / "03-star.png") as star:
            for name, kind in [("a.JFIF", "JPEG"), ("b.jpe", "JPEG"), ("c.apng", "PNG"), ("d.dib", "BMP")]:
                star.convert("RGB").save(tmp_path / name, kind)
            if FORMATS["AVIF"].is_there:
                star.convert("RGB").save(tmp_path / "e.avif")
        for name in ("x.dng", "y.dng", "README", ".hidden"):
            (tmp_path / name).write_bytes(b"no picture")
        os.mkfifo(tmp_path / "pipe.png")  # nobody writes into it

        ran = run("predict", tmp_path, "--model", "shapes", "--top-k", "1")

        assert ran.code == 0
        names = [Path(line.partition(": ")[0]).name for line in ran.out.splitlines()]
        assert names == ["a.JFIF", "b.jpe", "c.apng", "d.dib", *(["e.avif"] if FORMATS["AVIF"].is_there else [])]
        assert all(": star " in line for line in ran.out.splitlines())
        skipped = "skipped 4, not named as pictures that are read: 2 without a suffix, 2 .dng"
        assert f"{tmp_path}: {skipped}\n" in ran.err

    def test_json_lines_for_programs(self) -> None:
        ran = run("predict", SAMPLES / "00-disk.png", "--json", "--top-k", "12", "--model", "shapes")

        (line,) = ran.out.splitlines()
        answer = json.loads(line)
        assert ran.code == 0
        assert answer["file"] == str(SAMPLES / "00-disk.png")
        assert [each["rank"] for each in answer["predictions"]] == list(range(1, 13))
        assert answer["predictions"][0]["label"] == "disk"
        assert sum(each["probability"] for each in answer["predictions"]) == pytest.approx(1)

    def test_how_sure_it_is(self) -> None:
        file = SAMPLES / "00-disk.png"
        told = run("predict", file, "--scores", "--top-k", "1", "--model", "shapes")
        listed = run("predict", file, "--scores", "--json", "--model", "shapes")

        scores = json.loads(listed.out)["scores"]
        assert f", entropy {scores['entropy']:.3f}, margin {scores['margin']:.3f}\n" in told.out
        assert 0 <= scores["entropy"] < 0.5 < scores["margin"] <= 1

    def test_every_picture_has_its_line_however_many_are_computed_at_once(self) -> None:
        files = sorted(SAMPLES.glob("*.png"))[:5]

        ran = run("predict", *files, "--top-k", "1", "--model", "shapes", "--max-batch-size", "2")

        assert ran.code == 0
        assert [line.partition(":")[0] for line in ran.out.splitlines()] == [str(file) for file in files]

    def test_of_the_head_that_is_asked_for(self) -> None:
        options = ["--head", "fine", "--top-k", "7", "--model", "heads=tests.user_models.two_heads,size=32"]

        ran = run("predict", SAMPLES / "00-disk.png", *options)

        assert (ran.code, ran.out.count("%")) == (0, 7)

    def test_a_model_that_cannot_be_loaded_says_why(self, tmp_path: Path) -> None:
        ran = run("predict", SAMPLES / "00-disk.png", "--model", f"resnet18:{tmp_path / 'gone.pth'}")

        assert (ran.code, ran.out) == (1, "")
        assert "camserve: Model 'resnet18' cannot be loaded: There is no weights file" in ran.err


class TestLists:
    def test_models_of_every_source(self) -> None:
        ran = run("models")

        expected = [
            line
            for source in SOURCES.values()
            for line in (f"{source.title}:", *(f"  {name}" for name in source.architectures()))
        ]
        assert ran.code == 0
        assert ran.out.splitlines() == expected
        assert {"  shapes", "  resnet50"} <= set(expected)

    def test_layers_that_can_be_explained(self) -> None:
        ran = run("layers", "--model", "shapes")

        names = [line[2:].split()[0] for line in ran.out.splitlines()[:-2]]
        assert ran.code == 0
        assert names[0] == "stem.0"
        assert {"layer1", "layer2", "layer3", "layer4"} <= set(names)
        assert "avgpool" not in names
        assert [line.split()[1:4] for line in ran.out.splitlines() if line.startswith("* layer")] == [
            ["layer4", "Sequential", "80×12×12"]
        ]
        assert ran.out.endswith("\n* the default layer of shapes\n")

    def test_all_layers_with_the_reason_for_a_refusal(self) -> None:
        (line,) = [line for line in run("layers", "--all").out.splitlines() if line.startswith("  avgpool")]

        assert line.endswith("1×1 output: no position is left to show")

    def test_the_default_layer_can_be_chosen(self) -> None:
        assert "\n* layer2 " in run("layers", "--model", "shapes,layer=layer2").out

    @pytest.mark.parametrize("command", [["layers"], ["predict", str(SAMPLES / "00-disk.png")]])
    def test_your_own_code_is_found_in_the_working_directory(
        self, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "nets_beside_me.py").write_text(
            "from torch import nn\n\n"
            "def build(classes):\n"
            "    return nn.Sequential(nn.Conv2d(3, classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))

        ran = run(*command, "--model", "mine=nets_beside_me:build,factory_args.classes=3,size=32")

        assert (ran.code, ran.err) == (0, "")

    def test_an_unknown_architecture_comes_with_the_closest(self) -> None:
        ran = run("layers", "--model", "resnet_50")

        assert ran.code == 1
        assert ran.err.startswith("camserve: There is no architecture 'resnet_50'. Did you mean resnet50")

    def test_an_unknown_layer_comes_with_the_closest(self) -> None:
        ran = run("layers", "--model", "shapes,layer=layer5")

        assert ran.code == 1
        assert ran.err.startswith("camserve: There is no layer 'layer5'. Did you mean 'layer")
        assert ran.err.endswith("`camserve layers` lists those that can be explained.\n")
        assert "GET" not in ran.err


class TestSettings:
    @pytest.mark.parametrize(
        ("arguments", "place"),
        [
            (["serve", "--port", "70000"], "port"),
            (["layers", "--max-batch-size", "0"], "max_batch_size"),
            (["layers", "--workers", "many"], "workers"),
            (["layers", "--model", "a b=shapes"], "models.0"),
            (["layers", "--model", "shapes", "--model", "shapes"], "models"),
            (["layers", "--model", "shapes,colour=red"], "models.0.colour"),
            (["explain", "a.png", "--alpha", "3"], "alpha"),
            (["predict", "a.png", "--top-k", "0"], "top_k"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_a_bad_value_is_placed(self, arguments: list[str], place: str) -> None:
        ran = run(*arguments)

        assert (ran.code, ran.out) == (2, "")
        (line,) = ran.err.splitlines()
        assert line.startswith(f"camserve: {place}: ")

    def test_a_file_of_settings(self, tmp_path: Path) -> None:
        (tmp_path / "camserve.toml").write_text('models = ["mine=shapes,layer=layer3"]')

        assert run("layers", "--config", tmp_path / "camserve.toml").out.endswith("\n* the default layer of mine\n")

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        ran = run("layers", "--config", tmp_path / "gone.toml")

        assert (ran.code, ran.err) == (1, f"camserve: there is no settings file {tmp_path / 'gone.toml'}\n")

    @pytest.mark.parametrize("content", [b"port: 8000\n", b"[models\n", b"\xff\xfe\x00"], ids=["YAML", "cut", "binary"])
    def test_a_file_that_is_not_toml(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "camserve.toml").write_bytes(content)

        ran = run("layers", "--config", tmp_path / "camserve.toml")

        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("camserve: the settings file is not TOML: ")


def test_folders_that_are_not_looked_into_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"")
    (tmp_path / "round").symlink_to(tmp_path)
    monkeypatch.setattr("os.access", lambda path, _: path.name != "closed")  # root may read anything

    images_in(tmp_path)

    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path / 'closed'}: skipped, you lack the permission to read this folder",
        f"{tmp_path / 'round'}: skipped, a link to a folder; name that folder itself",
    ]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("openapi") / "openapi.json"
    assert run("openapi", "--output", file).code == 0
    return file


class TestOpenApi:
    def test_is_printed_as_it_is_written(self, document: Path) -> None:
        printed = run("openapi").out

        assert printed == document.read_text(encoding="utf-8")
        assert "/api/v1/explain" in json.loads(printed)["paths"]

    def test_check_is_silent_where_nothing_changed(self, document: Path) -> None:
        assert run("openapi", "--check", document) == Run(0, "", "")

    def test_check_shows_the_drift(self, document: Path, tmp_path: Path) -> None:
        committed = tmp_path / "committed.json"
        text = document.read_text(encoding="utf-8")
        committed.write_text(text.replace('"/api/v1/methods"', '"/api/v1/ways"'), encoding="utf-8")

        ran = run("openapi", "--check", committed)

        assert ran.code == 1
        changed = {line.strip() for line in ran.out.splitlines() if line.startswith(("- ", "+ "))}
        assert any('"/api/v1/ways"' in line and line.startswith("-") for line in changed)
        assert any('"/api/v1/methods"' in line and line.startswith("+") for line in changed)
        assert "is not what the code says; run scripts/openapi" in ran.err

    def test_check_of_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        ran = run("openapi", "--check", tmp_path / "gone.json")

        assert ran.code == 1
        assert "gone.json" in ran.err


class TestNamesOfFiles:
    """They may hold what terminals obey."""

    @pytest.mark.parametrize("command", ["explain", "predict"])
    def test_are_printed_without_control_characters(self, command: str, tmp_path: Path) -> None:
        shutil.copy(SAMPLES / "03-star.png", tmp_path / "a\x1b[2J\nb.png")
        (tmp_path / "c\x1b]0;title\x07.png").write_bytes(b"no picture")
        (tmp_path / "notes.\x9b31m").touch()
        out: list[str | Path] = ["--out", tmp_path / "o\x1bc"] if command == "explain" else []
        ran = run(command, tmp_path, *out)

        assert ran.code == 1
        assert not [each for each in ran.out + ran.err if not each.isprintable() and each not in "\n\r"]
        assert r"c\x1b]0;title\x07.png: " in ran.err
        assert r"1 .\x9b31m" in ran.err
        assert (r"a\x1b[2J\nb.png: star" in ran.out) == (command == "predict")
        assert (r"o\x1bc/explanations.json" in ran.out) == (command == "explain")

    def test_that_is_not_there_too(self) -> None:
        assert run("predict", "no\x1b[31mwhere.png").err == "camserve: there is no picture no\\x1b[31mwhere.png\n"


class TestUsage:
    @pytest.mark.parametrize("output", ["openapi", "models"], ids=["long", "so short that it is written at the end"])
    def test_a_reader_that_has_seen_enough_is_no_error(self, output: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        reading, writing = os.pipe()
        os.close(reading)
        try:
            command = [sys.executable, "-m", "service.cli", output]
            done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=environment, check=False)
        finally:
            os.close(writing)

        assert (done.returncode, done.stderr) == (141, b"")

    def test_what_the_terminal_has_no_letter_for_is_no_error(self) -> None:
        code = "from service import cli; print(cli._open_standard_streams(), 'é \U0001f408')"
        environment = os.environ | {"PYTHONIOENCODING": "ascii"}

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)

        assert (done.returncode, done.stdout.strip()) == (0, rb"True \xe9 \U0001f408"), done.stderr

    @pytest.mark.parametrize(
        "comes",
        [
            "os.kill(os.getpid(), signal.SIGINT)",
            "signal.pthread_kill(threading.get_ident(), signal.SIGINT)",  # as one that the sleeping loop has missed
        ],
        ids=["wherever it falls", "in another thread"],
    )
    def test_ctrl_c_ends_it_whatever_a_thread_does(self, comes: str, tmp_path: Path) -> None:
        code = (
            f"import os, signal, threading, time\ndef make():\n    time.sleep(0.3)\n    {comes}\n    time.sleep(300)\n"
        )
        (tmp_path / "slow_to_load.py").write_text(code)
        arguments = ["explain", "--model", "m=slow_to_load.make", "--device", "cpu", str(SAMPLES / "03-star.png")]
        environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}

        # Tests that run in the background of a shell have this signal ignored, and so have their children.
        ran = subprocess.run(
            ["env", "--default-signal=INT", sys.executable, "-m", "service.cli", *arguments],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            timeout=150,
            check=False,
        )

        assert (ran.returncode, ran.stderr) == (130, b"")

    def test_ctrl_c_ends_it_quietly_while_its_parts_are_imported(self) -> None:
        code = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
        script = (
            "import sys, types\n"
            "class Comes:\n"
            "    def find_spec(self, name, *_):\n"
            f"        if name == 'service.commands.golden': exec({code!r})\n"
            "sys.meta_path.insert(0, Comes())\n"
            "from service.entry import main\n"
            "sys.exit(main())"
        )

        ran = subprocess.run(
            ["env", "--default-signal=INT", sys.executable, "-c", script, "openapi"],
            capture_output=True,
            timeout=60,
            check=False,
        )

        assert (ran.returncode, ran.stdout, ran.stderr) == (130, b"", b"")

    def test_ctrl_c_of_somebody_who_ignores_it_does_nothing(self) -> None:
        code = "import os, signal; from service.entry import main; main(); print(signal.getsignal(signal.SIGINT).name)"
        script = ["bash", "-c", "trap '' INT; exec \"$@\"", "bash", sys.executable, "-c", code, "key", "ada"]

        ran = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)

        assert ran.stdout.endswith("SIG_IGN\n"), ran.stderr

    def test_version(self) -> None:
        assert run("--version") == Run(0, f"camserve {__version__}\n", "")

    @pytest.mark.parametrize("arguments", [[], ["explode"], ["explain"], ["serve", "--log-level", "loud"]])
    def test_mistakes_show_the_usage(self, arguments: list[str]) -> None:
        ran = run(*arguments)

        assert ran.code == 2
        assert ran.err.startswith("usage: camserve")

    @pytest.mark.parametrize("url", ["nonsense", "localhost:8000", "http://", "http://[::1", "http://a:b"])
    @pytest.mark.parametrize("command", [["evaluate", "x"], ["manage"]])
    def test_an_address_that_is_none(self, command: list[str], url: str) -> None:
        ran = run(*command, "--server", url)

        assert ran.code == 2
        assert f"{url!r} is no address of a server, such as http://127.0.0.1:8000" in ran.err

    @pytest.mark.parametrize("command", ["serve", "explain", "predict", "models", "layers", "check", "openapi"])
    def test_every_command_has_help(self, command: str) -> None:
        ran = run(command, "--help")

        assert ran.code == 0
        assert f"usage: camserve {command}" in ran.out


def test_what_cannot_be_read_is_not_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "b.png").symlink_to("nowhere")
    assert evaluate_there._pictures(tmp_path, None) == ({"a.png": tmp_path / "a.png"}, {})
    assert capsys.readouterr().err == f"{tmp_path / 'b.png'}: The file cannot be read: No such file or directory.\n"


class TestManage:
    """``camserve manage``, against a server whose answers are made here."""

    @pytest.fixture
    def sent(self, monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
        requests: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            requests.append(request)
            return httpx.Response(200, json=ANSWERS["put_alias" if "aliases" in request.url.path else "model"])

        monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _transport, request: answer(request))
        return requests

    def test_a_model_is_named_as_everywhere(self, sent: list[httpx.Request], tmp_path: Path) -> None:
        (tmp_path / "key").write_text("secret\n")
        ran = run("manage", "--api-key-file", str(tmp_path / "key"), "put", "birds=resnet18:b.pth,labels=b.txt")
        assert (ran.code, ran.out) == (0, "resnet50: ready, version IMAGENET1K_V2\n")
        assert (sent[0].method, sent[0].url.path) == ("PUT", "/api/v1/models/birds")
        assert json.loads(sent[0].content) == {"architecture": "resnet18", "weights": "b.pth", "labels": "b.txt"}
        assert sent[0].headers["Authorization"] == "Bearer secret"

    @pytest.mark.parametrize(
        ("arguments", "path", "says"),
        [
            (("reload", "birds"), "POST /api/v1/models/birds/reload", "resnet50: ready"),
            (("reload", "birds", "--layer", "b.1"), "POST /api/v1/models/birds/reload?layer=b.1", "resnet50: ready"),
            (("unload", "birds"), "POST /api/v1/models/birds/unload", "resnet50: ready"),
            (("remove", "birds"), "DELETE /api/v1/models/birds", "birds: removed"),
            (
                ("alias", "stable", "birds", "1"),
                "PUT /api/v1/aliases/stable",
                "stable: resnet50, version IMAGENET1K_V2",
            ),
        ],
    )
    def test_each_verb(self, sent: list[httpx.Request], arguments: tuple[str, ...], path: str, says: str) -> None:
        ran = run("manage", *arguments)
        assert (ran.code, ran.out.startswith(says)) == (0, True)
        layer = sent[0].url.params.get("layer")
        assert f"{sent[0].method} {sent[0].url.path}" + (f"?layer={layer}" if layer else "") == path

    def test_what_is_being_loaded_is_told_beside_what_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def version(**fields: Any) -> dict[str, Any]:
            return {"version": None, "state": "ready", "reason": None, "progress": 1.0, "current": False, **fields}

        versions = [
            version(version="one", current=True),
            version(version="old", aliases=["stable"], state="loading", progress=0.5),
            version(version="bad", state="failed", reason="its file is damaged"),
            version(version="gone", state="draining"),
            version(state="loading", progress=0.4, stage="checking"),
            version(version="two", progress=0.5),
        ]
        answer = {**ANSWERS["model"], "versions": versions}
        monkeypatch.setattr(
            httpx.HTTPTransport, "handle_request", lambda _transport, _request: httpx.Response(202, json=answer)
        )
        ran = run("manage", "--wait", "0", "reload", "resnet50")
        assert ran.out.splitlines()[:3] == [
            "resnet50: ready, version IMAGENET1K_V2",
            "resnet50: another version is being loaded (40%, checking), and takes over once it is ready",
            "resnet50: version two is being loaded (50%), and takes over once it is ready",
        ]
        assert ran.out.count("being loaded") == 2

    @pytest.mark.parametrize("code", ["unknown_layer", "layer_not_explainable"])
    def test_the_layers_are_those_of_the_server(self, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
        said = "There is no layer 'nosuch'. GET /api/v1/models/birds/layers lists them."
        problem = {"type": "/errors", "title": "", "status": 422, "code": code, "detail": said, "request_id": "1"}
        monkeypatch.setattr(
            httpx.HTTPTransport, "handle_request", lambda _transport, _request: httpx.Response(422, json=problem)
        )
        ran = run("manage", "reload", "birds", "--layer", "nosuch")
        assert (ran.code, ran.err) == (1, f"camserve: {said}\n")

    def test_no_server(self) -> None:
        ran = run("manage", "--server", "http://127.0.0.1:1", "reload", "birds")
        assert ran.code == 1
        assert "No connection" in ran.err
