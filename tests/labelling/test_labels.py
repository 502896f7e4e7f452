"""Which classes the labels of a project mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from service.labelling.labels import ProjectLabel, meanings
from service.model_config import ModelConfig
from tests.web.application import PETS

INFO = replace(PETS, labels=("tabby", "Siamese_cat", "guinea pig", "crane", "crane", "7"))


def classes(*names: str, mapping: Any = None) -> tuple[int, ...]:
    config = ModelConfig(architecture="shapes", label_map=mapping or {})
    (meaning,) = meanings([ProjectLabel(names[0], names)], INFO, config.label_map)
    return meaning.classes


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("tabby",), (0,)),
        (("TABBY",), (0,)),
        (("siamese cat",), (1,)),
        (("Siamese-Cat",), (1,)),
        (("guinea_pig",), (2,)),
        (("  Guinea   Pig ",), (2,)),
        (("ｔａｂｂｙ",), (0,)),
        (("meerschweinchen", "guinea pig"), (2,)),
        (("x", "y", "tabby"), (0,)),
        (("crane",), (3, 4)),
        (("7",), (5,)),
        (("0",), ()),
        (("cat",), ()),
        (("",), ()),
    ],
)
def test_names(names: tuple[str, ...], found: tuple[int, ...]) -> None:
    assert classes(*names) == found


def test_what_is_written_counts_before_what_is_alike() -> None:
    info = replace(PETS, labels=("CAT", "cat", "dog"))
    (meaning,) = meanings([ProjectLabel("cat", ("cat",))], info, {})
    assert meaning.classes == (1,)


class TestMapping:
    @pytest.mark.parametrize("mapping", [{"cat": ["tabby", "siamese_cat"]}, {"CAT": ["#0", 1]}, {"Cat": [0, 1, 1]}])
    def test_a_label_may_mean_several_classes(self, mapping: Any) -> None:
        assert classes("cat", mapping=mapping) == (0, 1)

    def test_it_counts_before_names(self) -> None:
        assert classes("tabby", mapping={"tabby": "guinea pig"}) == (2,)

    def test_an_alias_may_be_mapped(self) -> None:
        assert classes("c", "cat", mapping={"cat": 0}) == (0,)

    def test_a_class_that_the_model_does_not_have_is_left_out(self) -> None:
        assert classes("cat", mapping={"cat": ["lynx", "tabby", 99]}) == (0,)

    @pytest.mark.parametrize("text", ["shapes,label_map.cat=tabby", 'shapes,label_map={"cat": ["tabby"]}'])
    def test_in_one_line(self, text: str) -> None:
        assert ModelConfig.model_validate(text).label_map == {"cat": ("tabby",)}
