from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from service.errors import ModelLoadError
from service.models.sources.libraries import library

if TYPE_CHECKING:
    from pathlib import Path


def test_one_that_is_there_is_imported() -> None:
    assert library("json", "json").loads("1") == 1


def test_one_that_is_missing_says_what_installs_it() -> None:
    with pytest.raises(ModelLoadError, match=r"^camserve_absent is not installed: pip install 'camserve\[timm\]'\.$"):
        library("camserve_absent.data", "timm")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import camserve_absent", "broken_library does not work here: No module named 'camserve_absent'. Install"),
        ("raise RuntimeError('no such operator')", "broken_library does not work here: RuntimeError: no such operator"),
    ],
)
def test_one_that_is_broken_is_not_called_missing(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_library.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModelLoadError, match=reason):
        library("broken_library", "timm")
