"""The recipes of CONTRIBUTING.md: one per kind of change, and every place that they name is there."""

from __future__ import annotations

import re

import pytest

from tests.docs.documents import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## Add an? (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
PLACE = re.compile(r"`((?:service|tests|docs|benchmarks|deploy|openapi|scripts|CHANGELOG|ARCHITECTURE)[\w./*-]*)`")
# "A row of `METHODS` in `service/cam/methods.py`", and the like.
NAMED = re.compile(r"`([A-Za-z_]\w*)`(?: table)? (?:in|of) `(service/[\w/]+\.py)`")


def test_there_is_a_recipe_for_every_kind_of_change() -> None:
    kinds = {"CAM method", "model source", "protocol", "request option", "setting", "error", "metric", "colormap"}
    assert set(RECIPES) == kinds | {"benchmark"}


@pytest.mark.parametrize("kind", RECIPES)
def test_every_place_of_a_recipe_is_there(kind: str) -> None:
    places = PLACE.findall(RECIPES[kind])
    assert len(places) >= 2, "a recipe names places"
    assert [place for place in places if not list(ROOT.glob(place.rstrip("/")))] == []


@pytest.mark.parametrize(("name", "file"), NAMED.findall(TEXT))
def test_what_a_recipe_names_stands_in_the_file_that_it_names(name: str, file: str) -> None:
    definition = re.compile(rf"^(?:class |def |async def )?{name}\b", re.MULTILINE)
    assert definition.search((ROOT / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", RECIPES)
def test_every_recipe_says_what_judges_it(kind: str) -> None:
    (judges,) = re.findall(r"^Judged by: (.+?)(?:\n\n|\Z)", RECIPES[kind], re.MULTILINE | re.DOTALL)
    assert PLACE.findall(judges)
