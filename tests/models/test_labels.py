from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from service.errors import ModelLoadError
from service.models.labels import read_labels

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


class TestLines:
    @pytest.mark.parametrize(
        "content",
        [
            "cat\ndog\nred fox\n",
            "cat\ndog\nred fox",
            "cat\r\ndog\r\nred fox\r\n",
            "  cat\ndog\t\nred fox \n\n  \n\n",
            b"\xef\xbb\xbfcat\ndog\nred fox\n",
        ],
        ids=["Unix", "no last line end", "Windows", "blanks around and after", "byte order mark"],
    )
    def test_one_label_per_line(self, content: str | bytes, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, "labels.txt", content)) == ("cat", "dog", "red fox")

    def test_any_language(self, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, "labels.txt", "Kätzchen\n猫\n")) == ("Kätzchen", "猫")

    def test_equal_labels_are_kept_apart(self, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, "labels.txt", "crane\nboat\ncrane\n")) == ("crane", "boat", "crane")


class TestJson:
    @pytest.mark.parametrize(
        "content",
        [
            '["cat", "dog", "red fox"]',
            '{"0": "cat", "1": "dog", "2": "red fox"}',
            '{"2": "red fox", "0": "cat", "1": "dog"}',
            '{"0": ["n02121808", "cat"], "1": ["n02084071", "dog"], "2": ["n02119022", "red fox"]}',
            b'\xef\xbb\xbf["cat", "dog", "red fox"]',
        ],
        ids=["list", "object", "object out of order", "imagenet_class_index.json", "byte order mark"],
    )
    def test_lists_and_objects(self, content: str | bytes, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, "labels.json", content)) == ("cat", "dog", "red fox")

    def test_ten_comes_after_nine(self, tmp_path: Path) -> None:
        labels = {str(index): f"digit {index}" for index in range(12)}

        read = read_labels(write(tmp_path, "labels.json", json.dumps(labels, sort_keys=True)))

        assert read == tuple(f"digit {index}" for index in range(12))

    def test_numbers_become_text(self, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, "labels.json", "[7, 8.5]")) == ("7", "8.5")

    @pytest.mark.parametrize(
        "content",
        ['["cat", ', '"cat"', "7", "null", '{"1": "cat", "2": "dog"}', '{"cat": 0, "dog": 1}', '{"0": []}'],
        ids=["cut off", "a string", "a number", "null", "from 1", "from label to index", "an empty entry"],
    )
    def test_anything_else_is_refused(self, content: str, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"labels\.json must hold a JSON list, or an object from index"):
            read_labels(write(tmp_path, "labels.json", content))


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("labels.txt", ""),
            ("labels.txt", "\n \n"),
            ("labels.txt", "cat\n\ndog\n"),
            ("labels.json", "[]"),
            ("labels.json", "{}"),
            ("labels.json", '["cat", "", "dog"]'),
        ],
        ids=["empty", "blank", "a gap", "empty list", "empty object", "an empty label"],
    )
    def test_no_label_may_be_empty(self, name: str, content: str, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=f"{name} must hold one label per line, none of them empty"):
            read_labels(write(tmp_path, name, content))

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"nowhere\.txt cannot be read"):
            read_labels(tmp_path / "nowhere.txt")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match="cannot be read"):
            read_labels(tmp_path)

    def test_not_text(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"labels\.txt cannot be read: 'utf-8' codec"):
            read_labels(write(tmp_path, "labels.txt", b"K\xe4tzchen\n"))
