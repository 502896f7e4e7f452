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

    @pytest.mark.parametrize(
        "content",
        [
            "0: cat\n1: dog\n2: red fox\n",
            "0,cat\n1,dog\n2,red fox",
            "0\tcat\n2\tred fox\n1\tdog\n",
            "0 = cat\n1 = dog\n2 = red fox\n",
            "0 cat\n2 red fox\n1 dog\n",
            "0) cat\n1) dog\n2) red fox\n",
            "0. cat\n1. dog\n2. red fox\n",
            "1 - dog\n0 - cat\n2 - red fox\n",
            "0 -> cat\n1 -> dog\n2 -> red fox\n",
            "cat: 0\nred fox: 2\ndog: 1\n",
            "dog\t1\ncat\t0\nred fox\t2\n",
        ],
    )
    def test_numbers_beside_them_are_their_indices(self, content: str, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, "labels.txt", content)) == ("cat", "dog", "red fox")

    @pytest.mark.parametrize("content", ["1 cat\n2 dog\n", "0 days\n1 days\n", "0: cat\ndog\n", "type 0\ntype 1\n"])
    def test_other_numbers_belong_to_the_label(self, content: str, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, "labels.txt", content)) == tuple(content.splitlines())

    def test_numbers_from_one_are_refused_as_in_tables(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"numbers its labels 2, 1, …; number them from 0, each once"):
            read_labels(write(tmp_path, "labels.txt", "2: dog\n1: cat\n"))

    @pytest.mark.parametrize("content", ["cat,dog\n", "cat; dog", "cat\tdog\n\n"])
    def test_all_in_one_line_are_refused(self, content: str, tmp_path: Path) -> None:
        """For a model of one output it would be one label: "not cat,dog" and "cat,dog"."""
        with pytest.raises(ModelLoadError, match="is one line; write each label on a line of its own"):
            read_labels(write(tmp_path, "labels.txt", content))

    @pytest.mark.parametrize("name", ["labels.txt", "labels.csv", "labels.json", "labels.yaml"])
    @pytest.mark.parametrize(
        "content", ["cat\ndog\n".encode("utf-16-le"), b"PK\x03\x04\x14\x00\x06\x00"], ids=["UTF-16", "Excel"]
    )
    def test_bytes_that_are_no_text(self, name: str, content: bytes, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match="holds bytes that are no text: is it UTF-16, or a table of Excel"):
            read_labels(write(tmp_path, name, content))

    @pytest.mark.parametrize(
        "content", ["{0: 'cat, house',\n 1: 'dog',\n}", '["cat, house", "dog"]\n', "['cat, house', 'dog']"]
    )
    def test_what_python_or_json_prints(self, content: str, tmp_path: Path) -> None:
        """ImageNet's labels go round as a printed dict in a text file."""
        assert read_labels(write(tmp_path, "labels.txt", content)) == ("cat, house", "dog")


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
        [
            '{"cat": 0, "dog": 1, "red fox": 2}',
            '{"red fox": 2, "cat": 0, "dog": 1}',
            '{"model_type": "vit", "id2label": {"0": "cat", "1": "dog", "2": "red fox"}, "label2id": {"cat": 0}}',
            '{"label2id": {"cat": 0, "dog": 1, "red fox": 2}}',
            '{"class_to_idx": {"cat": 0, "dog": 1, "red fox": 2}}',
            '{"architecture": "resnet18", "label_names": ["cat", "dog", "red fox"]}',
            '{"classes": ["cat", "dog", "red fox"]}',
            '[{"id": 1, "name": "dog"}, {"id": 0, "name": "cat"}, {"id": 2, "name": "red fox"}]',
            '{"images": [], "categories": [{"name": "cat"}, {"name": "dog"}, {"name": "red fox"}]}',
        ],
        ids=[
            "from label to index",
            "out of order",
            "config.json of Hugging Face",
            "label2id",
            "class_to_idx",
            "config.json of timm",
            "classes",
            "objects with ids",
            "COCO",
        ],
    )
    def test_as_trainers_write_them(self, content: str, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, "labels.json", content)) == ("cat", "dog", "red fox")

    def test_digits_as_labels(self, tmp_path: Path) -> None:
        """Numbers without quotes are indices; between quotes they may be labels."""
        assert read_labels(write(tmp_path, "labels.json", '{"7": 0, "8": 1}')) == ("7", "8")
        assert read_labels(write(tmp_path, "labels.json", '{"1": 0, "0": 1}')) == ("1", "0")
        assert read_labels(write(tmp_path, "labels.json", '{"0": "7", "1": "8"}')) == ("7", "8")
        assert read_labels(write(tmp_path, "labels.json", '{"0": "1", "1": "0"}')) == ("1", "0")

    @pytest.mark.parametrize(
        "content",
        [
            '"cat"',
            "7",
            "null",
            '{"1": "cat", "2": "dog"}',
            '{"cat": 1, "dog": 2}',
            '{"cat": 0, "dog": 0}',
            '{"0": []}',
            '{"0": {"cat": 1}}',
            "[true, false]",
            "[null]",
            '{"cat": true}',
        ],
    )
    def test_anything_else_is_refused(self, content: str, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"labels\.json must hold a list of labels, an object from index"):
            read_labels(write(tmp_path, "labels.json", content))

    def test_what_is_no_json_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"labels\.json is not JSON \(Expecting value: line 1"):
            read_labels(write(tmp_path, "labels.json", '["cat", '))


class TestYaml:
    @pytest.mark.parametrize(
        "content",
        [
            "- cat\n- dog\n- red fox\n",
            "0: cat\n1: dog\n2: red fox\n",
            "cat: 0\ndog: 1\nred fox: 2\n",
            "path: ../data\nnc: 3\nnames: [cat, dog, red fox]\n",
            "names:\n  0: cat\n  1: dog\n  2: red fox\n",
        ],
        ids=["list", "from index", "from label", "data.yaml of YOLO", "data.yaml with indices"],
    )
    @pytest.mark.parametrize("suffix", ["yaml", "yml", "YAML"])
    def test_the_shapes_of_json(self, suffix: str, content: str, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, f"labels.{suffix}", content)) == ("cat", "dog", "red fox")

    def test_labels_stay_text(self, tmp_path: Path) -> None:
        """Norway's is not false."""
        assert read_labels(write(tmp_path, "labels.yaml", "[no, yes, on, 007, 1e3, ~]")) == (
            "no",
            "yes",
            "on",
            "007",
            "1e3",
            "~",
        )

    @pytest.mark.parametrize(
        "content", ["a: [", "plain", "1: cat", "!!python/object/apply:os.system {touch: was-here}"]
    )
    def test_anything_else_is_refused(self, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelLoadError, match=r"labels\.yaml (must hold|is not YAML)"):
            read_labels(write(tmp_path, "labels.yaml", content))
        assert [file.name for file in tmp_path.iterdir()] == ["labels.yaml"]


class TestTables:
    @pytest.mark.parametrize(
        "content",
        [
            "cat\ndog\nred fox\n",
            "label\ncat\ndog\nred fox\n",
            "0,cat\n1,dog\n2,red fox\n",
            "index,label\n0,cat\n1,dog\n2,red fox\n",
            "label,name\n0,cat\n1,dog\n2,red fox\n",
            "cat,0\ndog,1\nred fox,2\n",
            "Class;Id\ncat;0\ndog;1\nred fox;2\n",
            "id,label\n2,red fox\n0,cat\n1,dog\n",
            "id\tname\n0\tcat\n1\tdog\n2\tred fox\n",
            'n,what\n0,"cat"\n1,"dog"\n\n2,"red fox"\n',
            "wnid,index,label\nn02121808,0,cat\nn02084071,1,dog\nn02119022,2,red fox\n",
            "\ufefflabel\r\ncat\r\ndog\r\nred fox\r\n",
        ],
        ids=[
            "a column",
            "a column with its name",
            "two columns",
            "with names",
            "named otherwise",
            "index behind",
            "semicolons",
            "out of order",
            "tabs",
            "quotes and an empty line",
            "three columns",
            "Excel",
        ],
    )
    def test_the_column_of_labels_is_found(self, content: str, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, "labels.csv", content)) == ("cat", "dog", "red fox")

    def test_apart_by_tabs(self, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, "labels.tsv", "0\ta, b\n1\tc\n")) == ("a, b", "c")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("tench, Tinca tinca\ngoldfish\n", "rows of different lengths; put labels that hold a comma into quotes"),
            ("cat,feline\ndog,canine\n", "several columns; call that of the labels 'label'"),
            ("0\n1\n2\n", "no column of labels"),
        ],
    )
    def test_what_is_ambiguous_is_refused(self, content: str, reason: str, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=rf"labels\.csv has {reason}"):
            read_labels(write(tmp_path, "labels.csv", content))


class TestErrors:
    @pytest.mark.parametrize("name", ["labels.xlsx", "labels.pbtxt", "labels.md", "labels.pth", "labels.txt.bak"])
    def test_another_suffix_is_never_read_as_lines(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(
            ModelLoadError, match=rf"{name} is of no kind that holds labels\. Labels are read from \.txt"
        ):
            read_labels(write(tmp_path, name, "cat\ndog\n"))

    @pytest.mark.parametrize("name", ["labels", "coco.names", "LABELS.TXT"])
    def test_lines_under_other_names(self, name: str, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, name, "cat\ndog\n")) == ("cat", "dog")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("labels.txt", ""),
            ("labels.txt", "\n \n"),
            ("labels.txt", "cat\n\ndog\n"),
            ("labels.json", "[]"),
            ("labels.json", "{}"),
            ("labels.json", '["cat", "", "dog"]'),
            ("labels.csv", ""),
            ("labels.csv", "0,cat\n1,\n2,dog\n"),
            ("labels.yaml", "[]"),
        ],
    )
    def test_no_label_may_be_empty(self, name: str, content: str, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=f"{name} must hold a label for every class, none of them empty"):
            read_labels(write(tmp_path, name, content))

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"nowhere\.txt cannot be read"):
            read_labels(tmp_path / "nowhere.txt")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match="cannot be read"):
            read_labels(tmp_path)

    def test_not_text(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"labels\.txt is not UTF-8 text\. Save it as UTF-8\."):
            read_labels(write(tmp_path, "labels.txt", b"K\xe4tzchen\n"))


@pytest.mark.parametrize(
    "content",
    [
        "id,name\n3,fish\n1,cat\n2,dog\n",
        "0,cat\n2,dog\n1,eel\n2,fish\n",
        "0,cat\n2,dog\n3,eel\n",
        "index;label\n1;cat\n2;dog\n",
    ],
    ids=["from 1", "one twice", "a gap", "from 1, semicolons"],
)
def test_a_column_of_other_numbers_is_refused(content: str, tmp_path: Path) -> None:
    """The order of lines would name the classes wrongly, and nobody would see it."""
    with pytest.raises(ModelLoadError, match=r"labels\.csv numbers its labels .* from 0, each once"):
        read_labels(write(tmp_path, "labels.csv", content))


def test_numbers_that_are_no_indices_do_not_matter(tmp_path: Path) -> None:
    assert read_labels(write(tmp_path, "labels.csv", "label,count\ncat,12\ndog,12\n")) == ("cat", "dog")


@pytest.mark.parametrize("content", ["sep=;\n0;cat\n1;great, white\n", '0, cat\n1, "great, white"\n'])
def test_as_spreadsheets_write_them(content: str, tmp_path: Path) -> None:
    assert read_labels(write(tmp_path, "labels.csv", content)) == ("cat", "great, white")


def test_cocos_categories_are_in_the_order_of_their_ids(tmp_path: Path) -> None:
    content = '{"categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}, {"id": 90, "name": "eel"}]}'

    assert read_labels(write(tmp_path, "labels.json", content)) == ("cat", "dog", "eel")


@pytest.mark.parametrize(
    "content", ['[["cat", 0], ["dog", 1]]', '[[1, "dog"], [0, "cat"]]', '[["n1", "cat"], ["n2", "dog"]]']
)
def test_pairs_in_a_list(content: str, tmp_path: Path) -> None:
    assert read_labels(write(tmp_path, "labels.json", content)) == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "message"),
    [('0,"cat\n1,dog\n', "is no table: unexpected end of data"), ("-1,background\n0,cat\n", "has several columns")],
    ids=["a quotation mark that is not closed", "a class before the first"],
)
def test_tables_that_are_none(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=message):
        read_labels(write(tmp_path, "labels.csv", content))
