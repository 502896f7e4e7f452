"""What is published: the wheel has everything that is needed, and the version is said once."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import service

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "service"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


@pytest.fixture(scope="module")
def wheel(project: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the tree, so that nothing is left in it."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    shutil.copytree(PACKAGE, tree / "service", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", project["readme"], *project["license-files"]):
        shutil.copy(ROOT / name, tree)
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(tree)]
    done = subprocess.run([sys.executable, "-m", *build], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


class TestWheel:
    def test_has_every_file_of_the_package(self, wheel: zipfile.ZipFile) -> None:
        packed = {name for name in wheel.namelist() if name.startswith("service/")}
        there = {
            path.relative_to(ROOT).as_posix()
            for path in PACKAGE.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

        assert there - packed == set()
        assert packed - there == set()

    @pytest.mark.parametrize(
        "name",
        [
            "service/py.typed",
            "service/demo/shapes.safetensors",
            "service/demo/shapes-shortcut.safetensors",
            "service/demo/labels.txt",
            "service/demo/samples/03-star.png",
            "service/demo/samples/03-star.mask.png",
            "service/web/static/index.html",
        ],
    )
    def test_has_what_is_no_python(self, name: str, wheel: zipfile.ZipFile) -> None:
        assert wheel.read(name) == (ROOT / name).read_bytes()

    def test_has_the_package_alone(self, wheel: zipfile.ZipFile) -> None:
        tops = {name.partition("/")[0] for name in wheel.namelist()}

        assert tops == {"service", f"camserve-{service.__version__}.dist-info"}

    def test_has_the_command_and_the_licence(self, wheel: zipfile.ZipFile) -> None:
        info = f"camserve-{service.__version__}.dist-info"

        assert b"camserve = service.entry:main" in wheel.read(f"{info}/entry_points.txt")
        assert b"Apache License" in wheel.read(f"{info}/licenses/LICENSE")
        assert b"License-Expression: Apache-2.0" in wheel.read(f"{info}/METADATA")

    def test_is_small(self, wheel: zipfile.ZipFile) -> None:
        assert sum(entry.compress_size for entry in wheel.infolist()) < 8_000_000


class TestVersion:
    def test_is_the_same_in_the_package_and_the_project(self, project: dict[str, Any]) -> None:
        assert service.__version__ == project["version"]

    def test_is_the_changelogs_newest(self) -> None:
        changelog = ROOT / "CHANGELOG.md"
        if not changelog.is_file():
            pytest.skip("there is no changelog")
        headings = re.findall(r"^## \[?v?(\d+\.\d+\.\d+[^\]\s]*)", changelog.read_text(encoding="utf-8"), re.MULTILINE)

        assert headings[:1] == [service.__version__]
