"""Labelling configurations, of all kinds and of people who mean harm."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidOption
from service.imaging.comparison import marked_area
from service.protocols.label_studio.config import parse_config
from service.protocols.label_studio.tasks import marked_region, value_of_task
from tests.protocols.label_studio.wire import EVERYTHING, config


def test_everything_that_can_be_filled_in() -> None:
    found = parse_config(EVERYTHING)
    assert [(control.type, control.name) for control in found.controls] == [
        ("choices", "kind"),
        ("rectanglelabels", "box"),
        ("polygonlabels", "outline"),
        ("brushlabels", "brush"),
        ("bitmasklabels", "soft"),
        ("keypointlabels", "peak"),
        ("textarea", "words"),
    ]
    assert [label.value for label in found.controls[1].labels] == ["star", "gear"]
    assert found.images["image"].value == "$image"
    assert found.threshold == 0.5


@pytest.mark.parametrize(
    "control",
    [
        '<Choices name="c" toName="image" perRegion="true"><Choice value="a"/></Choices>',
        '<Choices name="c" toName="text"><Choice value="a"/></Choices>',
        '<Choices toName="image"><Choice value="a"/></Choices>',
        '<Choices name="c_{{idx}}" toName="image"><Choice value="a"/></Choices>',
        '<Rating name="r" toName="image"/>',
        '<Video name="v" value="$video"/>',
    ],
)
def test_what_is_left_alone(control: str) -> None:
    assert parse_config(config(control)).controls == ()


def test_labels_have_several_names_and_stand_at_any_depth() -> None:
    inner = '<View><Label value="a" alias="b" html="&lt;b&gt;c&lt;/b&gt;"/></View><Label value=" d "/><Label/>'
    (control,) = parse_config(config(f'<BrushLabels name="x" toName="image">{inner}</BrushLabels>')).controls
    assert [(label.value, label.names) for label in control.labels] == [("b", ("a", "b", "<b>c</b>")), ("d", ("d",))]


@pytest.mark.parametrize(
    ("text", "threshold"), [("0.3", 0.3), ("1", 1), ("2", 0.5), ("x", 0.5), ("nan", 0.5), ("", 0.5)]
)
def test_thresholds(text: str, threshold: float) -> None:
    on_image = config(image=f'value="$image" threshold="{text}"')
    on_control = config(f'<BrushLabels name="x" toName="image" threshold="{text}"/>')
    assert parse_config(on_image).threshold == parse_config(on_control).threshold == threshold


def test_a_threshold_of_choices_is_a_probability() -> None:
    found = parse_config(config('<Choices name="c" toName="image" threshold="0.2"><Choice value="a"/></Choices>'))
    assert (found.threshold, found.controls[0].threshold) == (0.5, 0.2)


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
)
HOSTILE = {
    "entities": f'{BOMB}]><View><Image name="i" value="&j;"/></View>',
    "a file": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>',
    "a document type": '<!DOCTYPE View SYSTEM "http://127.0.0.1/x.dtd"><View/>',
    "an entity that nobody declared": "<View>&a;</View>",
    "not closed": "<View>",
    "no XML": "{}",
    "two roots": "<View/><View/>",
    "half a surrogate": "<View x='\ud800'/>",
    "zero": "<View>\0</View>",
    "deep": "<a>" * 100_000,
    "long": f"<View>{' ' * 1_000_000}</View>",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile(text: str) -> None:
    with pytest.raises(InvalidOption, match="labelling configuration"):
        parse_config(text)


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    try:
        parse_config(text)
    except InvalidOption:
        return


def test_labels_of_controls_in_controls_are_counted_once() -> None:
    """Of as many controls and labels as fit, each label would otherwise be there for each control around it."""
    deep = '<Choices name="c" toName="image">' * 190 + '<Choice value="a"/>' * 40_000 + "</Choices>" * 190
    controls = parse_config(f'<View><Image name="image" value="$image"/>{deep}</View>').controls
    assert [len(each.labels) for each in controls] == [*[0] * 189, 40_000]


class TestTasks:
    @pytest.mark.parametrize(
        ("value", "found"),
        [
            ("$image", "a.png"),
            ("$page.url", "b.png"),
            ("$pages[1]", "c.png"),
            ("$pages[9]", None),
            ("$pages.x", None),
            ("$x.y", "d.png"),
            ("$nothing", None),
            ("https://host/e.png", "https://host/e.png"),
        ],
    )
    def test_where_a_picture_is(self, value: str, found: object) -> None:
        data = {"image": "a.png", "page": {"url": "b.png"}, "pages": ["", "c.png"], "x.y": "d.png"}
        tag = parse_config(f'<View><Image name="image" value="{value}"/></View>').images["image"]
        assert value_of_task(tag, {"id": 1, "data": data}) == found

    @pytest.mark.parametrize("data", [None, 1, [], "x"])
    def test_a_task_without_data(self, data: object) -> None:
        tag = parse_config(config()).images["image"]
        assert value_of_task(tag, {"data": data}) is None

    @pytest.mark.parametrize(
        ("value", "region"),
        [
            ({"x": 10, "y": 20, "width": 30, "height": 40}, [20, 20, 80, 60]),
            ({"points": [[0, 0], [50, 0], [0, 50]]}, [[0, 0], [100, 0], [0, 50]]),
            ({"points": [[0, 0], [50, 0]]}, None),
            ({"points": [[0], [1], [2]]}, None),
            ({"points": [[0, 0], [50, 0], [25, 0]]}, None),
            ({"points": [[0, 0], [1e5, 0], [0, 1e5]]}, [[0, 0], [2e5, 0], [0, 1e5]]),
            ({"points": [[0, 0], [9e5, 0], [0, 1e5]]}, None),
            ({"x": 10, "y": 20, "width": 0, "height": 40}, None),
            ({"x": "a", "y": 20, "width": 1, "height": 40}, None),
            ({"choices": ["a"]}, None),
            (None, None),
        ],
    )
    def test_what_was_annotated(self, value: object, region: object) -> None:
        result = {"to_name": "image", "original_width": 200, "original_height": 100, "value": value}
        other = {**result, "to_name": "other"}
        assert marked_region({"annotations": [{"result": [other, result]}]}, "image") == region

    def test_an_outline_of_many_points_is_thinned(self) -> None:
        points = [[50 + 40 * math.cos(i / 500), 50 + 40 * math.sin(i / 500)] for i in range(3142)]
        result = {"to_name": "image", "original_width": 100, "original_height": 100, "value": {"points": points}}
        region = marked_region({"annotations": [{"result": [result]}]}, "image")
        assert region is not None
        assert len(region) <= 1000
        assert marked_area(region).shape.area == pytest.approx(math.pi * 40**2, rel=1e-3)

    @pytest.mark.parametrize("annotations", [None, 1, [1], [{"result": 1}], [{"result": [1]}], [{}]])
    def test_annotations_of_other_kinds(self, annotations: object) -> None:
        assert marked_region({"annotations": annotations}, "image") is None
