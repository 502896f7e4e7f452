"""``camserve check``: what is wrong with a model is said in the row that it is about, and ends nothing but that."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from service.check.report import STEPS
from service.check.warned import STEP_OF
from tests.docs.documents import first_cells
from tests.environment import settings_of_tests
from tests.test_cli import Run, run

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULTY = "tests.check.faulty"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with settings_of_tests(device="cpu", cache_dir=tmp_path_factory.mktemp("cache")):
        yield


def check(*models: str, arguments: tuple[str | Path, ...] = ()) -> tuple[int, list[dict[str, Any]]]:
    """Check models, of ``tests.check.faulty`` where they have no dot; return the exit code and what was found."""
    named = [model if "=" in model else f"{model}={FAULTY}.{model},size=32" for model in models]
    flags = [part for model in named for part in ("--model", model)]
    ran = run("check", "--json", *flags, *arguments)
    told = json.loads(ran.out)
    assert told["passed"] == (ran.code == 0)
    return ran.code, told["models"]


def rows_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    assert [row["step"] for row in report["steps"]] == list(STEPS)
    return {row["step"]: row for row in report["steps"]}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("out") / "deep"
    code, (report,) = check("good", arguments=("--out", out))
    return code, report, out


def test_a_good_model_passes_every_step_with_a_figure(good: tuple[int, dict[str, Any], Path]) -> None:
    code, report, _ = good
    rows = rows_of(report)

    assert code == 0
    assert {row["result"] for step, row in rows.items() if step != "reference"} == {"ok"}
    assert report["result"] == "ok"
    assert all(row["found"] for row in rows.values())
    assert rows["model"]["found"].startswith(f"python: {FAULTY}.good, version code, digest ")
    assert rows["labels"]["found"] == "3 classes (class 0, class 1, class 2), softmax"
    assert "size 32" not in rows["preprocessing"]["found"]
    assert "height 32 for 224" in rows["preprocessing"]["found"]
    assert "default body, 8×8 cells, measured (" in rows["layers"]["found"]
    assert "a batch of 1 in " in rows["time"]["found"]
    assert "a batch of 8 in " in rows["time"]["found"]
    assert " MiB in the process" in rows["time"]["found"]


def test_one_picture_is_explained_and_its_overlay_kept(good: tuple[int, dict[str, Any], Path]) -> None:
    _, report, out = good
    found = rows_of(report)["picture"]["found"]

    assert found.startswith("03-star.png: class ")
    assert found.endswith(f"; overlay in {out / 'good.png'}")
    assert Image.open(io.BytesIO((out / "good.png").read_bytes())).format == "PNG"


SLOW = pytest.mark.slow  # a process each: some tell of all in every run


@pytest.mark.parametrize(
    ("model", "step", "words"),
    [
        ("mixes_rows", "batch", "changes with the other pictures in the batch"),
        pytest.param(
            "flips_coins", "determinism", "another answer every time, because it draws random numbers", marks=SLOW
        ),
        pytest.param("mixes_rows_of_pictures", "batch", "Noise did not show it", marks=SLOW),
        ("without_gradients", "gradient", "The default method and others are refused: no gradient reaches layer"),
        pytest.param("fails_on_pictures", "batch", "It raised ValueError: eight are too many.", marks=SLOW),
        pytest.param("grey", "preprocessing", "set channels=1", marks=SLOW),
        ("exits", "model", "it exited with code 0. The model's code must not end the process"),
        pytest.param("ends_python", "model", "SystemExit", marks=SLOW),
        ("raises_what_cannot_be_written", "model", "RuntimeError: \\ud83d \\x1b[31mxxx"),
        pytest.param("crashes", "model", "it was killed by SIGSEGV.", marks=SLOW),
        pytest.param(
            "is_killed_later", "batch", "it was killed by SIGKILL. Too little memory, most likely.", marks=SLOW
        ),
        pytest.param("needs_timm", "model", "No module named 'timm_absent'", marks=SLOW),
        pytest.param(
            "gone=tests.check.faulty.good:gone.pth,size=32", "model", "There is no weights file gone.pth", marks=SLOW
        ),
        pytest.param(
            "extra=timm/resnet18", "model", "timm is not installed: pip install 'camserve[timm]'.", marks=SLOW
        ),
    ],
)
def test_what_is_wrong_is_said_in_its_row(model: str, step: str, words: str) -> None:
    if model.startswith("extra") and importlib.util.find_spec("timm"):
        pytest.skip("timm is installed here")
    code, (report,) = check(model)
    rows = rows_of(report)

    assert (code, report["result"]) == (1, "failed")
    assert next(iter(STEPS)) == "model"
    first = next(row for row in rows.values() if row["result"] == "failed")
    assert first["step"] == step
    assert words in " ".join(first["notes"])


@pytest.mark.slow
def test_what_a_model_writes_into_what_it_did_not_open_is_no_result() -> None:
    code, (report,) = check("writes_into_what_it_did_not_open")

    assert (code, report["result"]) == (0, "ok")
    assert rows_of(report)["labels"]["found"] == "3 classes (class 0, class 1, class 2), softmax"


def test_what_was_passed_before_a_failure_is_said_and_what_comes_after_was_not_reached() -> None:
    _, (report,) = check("mixes_rows")

    results = {step: row["result"] for step, row in rows_of(report).items()}
    passed = [step for step, result in results.items() if result == "ok"]
    assert passed == ["model", "preprocessing", "determinism"]
    assert [step for step, result in results.items() if result == "failed"] == ["batch"]
    assert [step for step, result in results.items() if result == "skipped"] == [
        step for step in STEPS if step not in {*passed, "batch"}
    ]


@SLOW
def test_labels_of_another_number(tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    code, (report,) = check(f"pets={FAULTY}.good,size=32,labels={tmp_path}/two.txt")
    rows = rows_of(report)

    assert code == 1
    assert rows["labels"]["notes"] == ["Model 'pets' has 3 classes, but two.txt names 2."]
    assert rows["batch"]["result"] == "ok"


@pytest.mark.parametrize(
    "model",
    ["hangs", "hangs_with_a_child", "closes_what_it_did_not_open"],
)
@SLOW
def test_one_that_hangs_is_killed_with_all_that_it_started_and_the_next_is_checked(model: str) -> None:
    code, reports = check(model, "exits", arguments=("--timeout", "25"))
    hung, next_one = map(rows_of, reports)

    assert code == 1
    assert hung["model"]["notes"][0].startswith("It had not ended after 25 s, at this step, and was killed.")
    assert "it exited with code 0" in next_one["model"]["notes"][0]
    if model == "hangs_with_a_child":
        running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert "import time; time.sleep(600)" not in running


@SLOW
def test_a_warning_fails_only_where_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "equal.txt").write_text("cat\ncat\ndog\n")
    model = f"pets={FAULTY}.good,size=32,labels={tmp_path}/equal.txt"
    code, (report,) = check(model)
    strict, _ = check(model, arguments=("--strict",))

    assert (code, strict) == (0, 1)
    assert rows_of(report)["labels"]["result"] == report["result"] == "warning"
    assert "calls several classes 'cat'" in rows_of(report)["labels"]["notes"][0]


@SLOW
def test_a_picture_that_cannot_be_given(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    code, (report,) = check("good", arguments=("--image", tmp_path / "notes.png"))
    rows = rows_of(report)

    assert code == 0
    assert rows["picture"]["result"] == "warning"
    assert rows["picture"]["notes"][0].endswith("Give it one of its own: --image FILE.")
    assert rows["batch"]["result"] == "ok", "it is tried with noise"


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("config")
    (folder / "camserve.toml").write_text(
        f'[[models]]\nname = "one"\narchitecture = "{FAULTY}.prints"\nsize = 32\n'
        f'[[models]]\nname = "two"\narchitecture = "{FAULTY}.exits"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "check", "--config", folder / "camserve.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


class TestTable:
    def test_every_model_of_a_settings_file_has_one_and_the_last_line_sums_up(self, printed: Run) -> None:
        tables = printed.out.split("\n\n")

        assert printed.code == 1
        assert tables[0].startswith(f"one ({FAULTY}.prints): ok in ")
        assert tables[1].startswith(f"two ({FAULTY}.exits): failed in ")
        assert tables[2] == "2 models checked, 1 failed: two\n"
        assert "  failed   found and read           → The process that checks it ended here" in tables[1]

    def test_lines_are_aligned_plain_and_not_too_long(self, printed: Run) -> None:
        lines = printed.out.split("\n\n")[0].splitlines()[1:]

        assert max(map(len, lines)) <= 120
        assert "\033" not in printed.out
        for line in lines:
            assert line[35:36] == " " != line[36:37], line

    def test_what_a_models_code_prints_is_no_part_of_it(self, printed: Run) -> None:
        assert "loading" not in printed.out
        assert "descriptor" not in printed.out
        assert "loading the weights" in printed.err
        assert "and on its descriptor" in printed.err

    @SLOW
    @pytest.mark.skipif(sys.platform == "win32", reason="no terminals like these")
    def test_on_a_terminal_results_have_colours(self) -> None:
        reading, writing = os.openpty()
        command = [sys.executable, "-m", "service.cli", "check", "--model", f"x={FAULTY}.exits"]
        with subprocess.Popen(command, cwd=ROOT, stdout=writing, stderr=subprocess.DEVNULL) as process:
            os.close(writing)
            shown = b""
            while True:
                try:
                    chunk = os.read(reading, 4096)
                except OSError:  # the other end is closed
                    break
                if not chunk:
                    break
                shown += chunk
        os.close(reading)
        assert process.returncode == 1
        assert b"\033[31mfailed\033[0m" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("--timeout", "0"),
        ("--timeout", "soon"),
        ("--image", "nowhere.png"),
        ("--model", "a b=shapes"),
        ("--config", "x", "y"),
    ],
)
def test_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert run("check", *arguments).code == 2


def test_the_document_lists_every_step() -> None:
    assert first_cells(ROOT / "docs" / "models.md", "Checking a model")[1:] == list(STEPS.values())


def test_every_warning_has_its_row() -> None:
    """Those that are not listed are about what was read; a new one has to be put somewhere on purpose."""
    about_what_was_read = {
        "conversion_unchecked",
        "ema_weights",
        "weights_chosen",
        "weights_joined",
        "weights_set_aside",
    }
    files = (ROOT / "service" / "models").rglob("*.py")
    made = re.findall(r'(?:ModelWarning\(|yield \(?)\s*"([a-z_]+)"', "".join(file.read_text("utf-8") for file in files))

    assert set(made) == {*STEP_OF, *about_what_was_read}
