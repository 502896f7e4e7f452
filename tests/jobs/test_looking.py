"""What is sent for an evaluation, looked at before it is taken: whatever it is, it is used, left out or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from service.errors import InvalidOption, NoImage, ServiceError
from service.imaging.decode import DecodeLimits
from service.jobs.looking import look_at
from service.jobs.material import ANNOTATIONS, MATERIAL, Image, Material, Skipped
from service.jobs.reading import pictures_of
from tests.evaluation.fakes import INFO
from tests.hostile.bombs import png_header

LIMITS = DecodeLimits(100_000, 10_000, 10)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def picture(name: str, file: str, width: int = 20, height: int = 10) -> Image:
    Pillow.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, "PNG")
    return Image(file=file, name=name)


def coco(**content: Any) -> str:
    return json.dumps({
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}],
        **content,
    })  # fmt: skip


def looked(*images: Image, masks: tuple[Image, ...] = (), annotations: str | None = None) -> Material:
    if annotations is not None:
        Path(ANNOTATIONS).write_text(annotations, encoding="utf-8")
    return look_at(Path.cwd(), Material(images=images, masks=masks, annotations=annotations is not None), LIMITS)


class TestPictures:
    def test_those_that_can_be_read_are_used(self) -> None:
        found = looked(picture("a.png", "0"), picture("cats/b.png", "1"))
        assert [image.name for image in found.images] == ["a.png", "cats/b.png"]
        assert found.skipped == ()

    def test_others_are_left_out_with_words(self) -> None:
        Path("1").write_bytes(b"")
        Path("2").write_bytes(b"no picture")
        Path("3").write_bytes(b"\xff\xd8" + bytes(LIMITS.max_bytes))
        Path("4").write_bytes(png_header(50_000, 50_000))
        names = {"1": "empty.png", "2": "text.txt", "3": "long.jpg", "4": "bomb.png"}
        found = looked(picture("a.png", "0"), *(Image(file=file, name=name) for file, name in names.items()))
        assert [image.name for image in found.images] == ["a.png"]
        assert [(each.name, each.code) for each in found.skipped] == [
            ("empty.png", "invalid_image"),
            ("text.txt", "invalid_image"),
            ("long.jpg", "image_too_large"),
            ("bomb.png", "image_too_large"),
        ]
        assert all(each.text.endswith(".") for each in found.skipped)

    def test_there_must_be_one(self) -> None:
        Path("0").write_bytes(b"no picture")
        with pytest.raises(NoImage, match=r"no picture that can be used. notes.txt: "):
            looked(Image(file="0", name="notes.txt"))

    def test_of_one_name_they_get_further_ones(self) -> None:
        found = looked(*(picture("cats/a.png", str(number)) for number in range(3)))
        assert [image.name for image in found.images] == ["cats/a.png", "cats/a (2).png", "cats/a (3).png"]

    def test_a_further_name_is_no_other_pictures(self) -> None:
        names = ["a.png", "a.png", "a (2).png", "a.png"]
        found = looked(*(picture(name, str(number)) for number, name in enumerate(names)))
        assert [image.name for image in found.images] == ["a.png", "a (3).png", "a (2).png", "a (4).png"]

    @pytest.mark.parametrize("name", [".mask.png", "..mask", "...", "cats/.mask.png", ".png"])
    def test_names_that_are_hardly_any(self, name: str) -> None:
        assert looked(picture(name, "0"), picture("b.png", "1")).images[0].name == name

    def test_of_one_name_nobody_knows_which_is_marked(self) -> None:
        found = looked(picture("a.png", "0"), picture("a.png", "1"), annotations=coco())
        assert [image.file for image in found.images] == ["0"]
        assert [each.code for each in found.skipped] == ["name_taken"]


class TestMasks:
    def test_each_goes_to_the_picture_of_its_name(self) -> None:
        images = picture("a.jpg", "0"), picture("cats/b.png", "1"), picture("c.png", "2")
        masks = picture("cats/b.png", "3"), picture("a.mask.png", "4")
        found = looked(*images, masks=masks)
        assert [image.mask for image in found.images] == ["4", "3", None]
        assert found.marked == 2

    def test_one_of_no_picture_is_named(self) -> None:
        found = looked(picture("a.png", "0"), masks=(picture("a.png", "1"), picture("b.png", "2")))
        assert [(each.name, each.code) for each in found.skipped] == [("b.png", "mask_of_nothing")]

    def test_without_a_folder_it_is_of_the_one_picture_of_that_name(self) -> None:
        images = picture("cats/a.jpg", "0"), picture("cats/b.jpg", "1"), picture("dogs/b.jpg", "2")
        found = looked(*images, masks=(picture("a.png", "3"), picture("b.png", "4")))
        assert [image.mask for image in found.images] == ["3", None, None]
        (unclear,) = found.skipped
        assert (unclear.name, unclear.code) == ("b.png", "mask_of_nothing")
        assert "of cats/b.jpg or of dogs/b.jpg" in unclear.text

    def test_the_whole_name_counts_before_one_of_another_ending(self) -> None:
        images = picture("a.jpg", "0"), picture("a.png", "1"), picture("x/a.png", "2")
        found = looked(*images, masks=(picture("a.png", "3"), picture("a.jpg", "4"), picture("a.mask.png", "5")))
        assert [image.mask for image in found.images] == ["4", "3", None]
        assert [each.name for each in found.skipped] == ["a.mask.png"]

    def test_of_one_picture_the_first_counts(self) -> None:
        found = looked(picture("a.jpg", "0"), masks=(picture("a.png", "1"), picture("a.mask.png", "2")))
        assert [image.mask for image in found.images] == ["1"]
        assert [(each.name, each.code) for each in found.skipped] == [("a.mask.png", "name_taken")]

    def test_a_turned_picture_is_marked_as_it_is_shown(self) -> None:
        turned = Pillow.Exif()
        turned[0x112] = 6
        Pillow.new("RGB", (20, 10)).save("0", "JPEG", exif=turned)
        image = Image(file="0", name="a.jpg")
        assert looked(image, masks=(picture("a.png", "1", 10, 20),)).marked == 1
        with pytest.raises(InvalidOption, match="its picture 10×20"):
            looked(image, masks=(picture("a.png", "2", 20, 10),))

    def test_all_of_no_picture_are_refused(self) -> None:
        with pytest.raises(InvalidOption, match=r"file names must be the same, such as a\.png"):
            looked(picture("a.png", "0"), masks=(picture("b.png", "1"),))

    def test_of_another_size(self) -> None:
        with pytest.raises(InvalidOption, match=r"a\.png has 10×10 pixels, its picture 20×10"):
            looked(picture("a.png", "0"), masks=(picture("a.png", "1", 10, 10),))

    def test_none_at_all(self) -> None:
        Path("1").write_bytes(b"no picture")
        with pytest.raises(InvalidOption, match=r"The mask a\.png cannot be read: "):
            looked(picture("a.png", "0"), masks=(Image(file="1", name="a.png"),))


class TestAnnotations:
    def test_they_are_counted(self) -> None:
        assert looked(picture("cats/a.png", "0"), picture("b.png", "1"), annotations=coco()).marked == 1

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "[]",
            "{}",
            '{"images": 3, "annotations": 4}',
            coco(annotations=[{"image_id": 1, "bbox": [1, 2, 3]}]),
            coco(annotations=[{"image_id": 1, "bbox": [float("nan"), 2, 3, 4]}]),
            coco(annotations=[{"image_id": 1, "bbox": [1, 2, float("inf"), 4]}]),
            coco(annotations=[{"image_id": 1, "bbox": [1, 2, 10**400, 4]}]),
            coco(annotations=[{"image_id": 1, "bbox": [1, 2, "much", 4]}]),
            coco(annotations=[{"image_id": 2, "bbox": [1, 2, 3, 4]}]),
            coco(annotations=[{"image_id": 1, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, float("nan"), 4]]}]),
            coco(annotations=[{"image_id": 1, "bbox": [1, 2, 3, 4], "segmentation": [[1]]}]),
            coco(annotations=[7]),
            coco(images=[{"id": []}]),
            "[" * 100_000,
        ],
    )
    def test_what_is_no_file_of_coco(self, content: str) -> None:
        with pytest.raises(
            InvalidOption, match=r"'annotations'(: annotation 1 of 1 cannot be read| is no COCO file)"
        ) as raised:
            looked(picture("a.png", "0"), annotations=content)
        assert "/" not in raised.value.message  # no path of this machine

    def test_about_other_pictures(self) -> None:
        with pytest.raises(InvalidOption, match=r"such as b\.png"):
            looked(picture("b.png", "0"), annotations=coco())

    def test_too_many_on_a_picture(self) -> None:
        many = [{"image_id": 1, "bbox": [1, 2, 3, 4]}] * 1001
        with pytest.raises(InvalidOption, match=r"On a\.png there are 1,001 boxes"):
            looked(picture("a.png", "0"), annotations=coco(annotations=many))

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["images", "annotations", "id", "bbox", "image_id"]), inner, max_size=4
                )
            ),
        )
    )
    def test_whatever_json_it_is(self, content: Any) -> None:
        """Nothing but our errors comes of it."""
        with pytest.raises(ServiceError):
            looked(picture("a.png", "0"), annotations=json.dumps(content))


class TestMarksOfAnotherKind:
    """What only the process that computes can see of marks leaves out a picture, in words that name it."""

    @staticmethod
    def read(material: Material) -> list[tuple[str, str]]:
        Path(MATERIAL).write_text(material.model_dump_json(), encoding="utf-8")
        found = pictures_of(Path.cwd(), INFO, LIMITS)
        return [(each.name, each.text) if isinstance(each, Skipped) else (each.name, "") for each in found]

    def test_a_mask_of_ones(self) -> None:
        Pillow.fromarray(np.ones((10, 20), np.uint8)).save("m", "PNG")
        image = picture("cats/a.png", "0").model_copy(update={"mask": "m"})
        ((name, text),) = self.read(Material(images=(image,)))
        assert name == "cats/a.png"
        assert text.startswith("The mask of cats/a.png has nothing that is at least half white")

    def test_boxes_of_another_size(self) -> None:
        images = [{"id": 1, "file_name": "a.png", "width": 10, "height": 20}]
        Path(ANNOTATIONS).write_text(coco(images=images), encoding="utf-8")
        found = self.read(Material(images=(picture("a.png", "0"), picture("b.png", "1")), annotations=True))
        assert [name for name, _ in found] == ["a.png", "b.png"]
        assert "in pixels of 10×20; the picture has 20×10" in found[0][1]
        assert found[1][1] == ""
