"""What benchmarks find is kept as it was found, and gets into the documents in no other way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import results
from benchmarks.__main__ import BENCHMARKS
from benchmarks.results import Line, Record, at_least, at_most, run
from docs import make_tables
from tests.docs.documents import ROOT, first_cells

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PEERS = {"library", "servers"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "performance.json"


def found(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))["benchmarks"]


def texts(path: Path) -> dict[str, list[str]]:
    return {name: [line["text"] for line in each["lines"]] for name, each in found(path).items()}


def keep(path: Path, name: str, text: str, *, anew: bool = False) -> None:
    Record(path, anew=anew).keep(name, [Line(text)])


def test_every_benchmark_is_in_the_list_and_what_was_found_is_of_one() -> None:
    listed = first_cells(ROOT / "docs" / "performance.md", "Benchmarks")
    assert sorted(listed) == sorted(["name", *BENCHMARKS, *_PEERS])
    assert set(found(results.RECORD)) <= {*BENCHMARKS, *_PEERS}


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        (at_most(0.78, 0.72, "a"), "a [≤ 0.78 ×: met]"),
        (at_most(0.78, 0.79, "a"), "a [≤ 0.78 ×: missed]"),
        (at_least(4, 3.99, "a"), "a [≥ 4 ×: missed]"),
        (at_least(4, 4.0, "a", "ms"), "a [≥ 4 ms: met]"),
        (Line("a"), "a"),
    ],
)
def test_a_target_stands_beside_what_was_found(line: Line, printed: str) -> None:
    assert str(line) == printed


def test_one_benchmark_takes_the_place_of_its_own_lines_alone(path: Path) -> None:
    keep(path, "a", "first")
    keep(path, "b", "other")
    keep(path, "a", "second")
    assert texts(path) == {"a": ["second"], "b": ["other"]}


def test_a_run_of_everything_begins_anew(path: Path) -> None:
    keep(path, "gone", "first")
    keep(path, "a", "second", anew=True)
    assert texts(path) == {"a": ["second"]}


def test_figures_of_two_machines_do_not_mix(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(path, "a", "here")
    elsewhere = {**results.machine(), "machine": {"processor": "another"}}
    monkeypatch.setattr(results, "machine", lambda: elsewhere)
    with pytest.raises(SystemExit, match=r"performance.json is of another machine .* run all benchmarks first"):
        Record(path)
    keep(path, "b", "there", anew=True)
    assert texts(path) == {"b": ["there"]}


def test_a_note_stays_until_everything_is_measured_anew(path: Path) -> None:
    keep(path, "a", "first")
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "note": "by hand"}), encoding="utf-8")
    keep(path, "b", "second")
    assert json.loads(path.read_text(encoding="utf-8"))["note"] == "by hand"
    keep(path, "a", "third", anew=True)
    assert "note" not in json.loads(path.read_text(encoding="utf-8"))


def test_what_was_found_before_a_benchmark_fails_is_kept(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def good() -> Iterator[str | Line]:
        yield "plain"
        yield at_most(1, 2, "too much")

    def bad() -> Iterator[str]:
        yield "begun"
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        run({"good": good, "bad": bad}, ["good", "bad"], Record(path))
    assert texts(path) == {"good": ["plain", "too much"]}
    assert capsys.readouterr().out.splitlines() == [
        "good         plain",
        "good         too much [≤ 1 ×: missed]",
        "bad          begun",
    ]


def test_the_table_says_where_and_when_and_what_was_missed(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Record(path).keep("a", [at_most(1, 2, "two | three"), Line("plain")])
    monkeypatch.setattr(make_tables, "HERE", tmp_path)
    where, _, *rows = make_tables.performance().splitlines()
    date = found(path)["a"]["date"]
    assert where.startswith(f"Measured on {date} on ")
    assert f"torch {results.machine()['versions']['torch']}" in where
    assert rows[2:] == ["| `a` | two \\| three | ≤ 1 ×: **missed** |", "|  | plain |  |"]
