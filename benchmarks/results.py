"""What benchmarks find, line by line, and the file that keeps it for the docs, ``docs/performance.json``.

A benchmark yields lines: plain text, or what ``at_most`` and ``at_least`` make of it where there is a target.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from service.engine.cores import available_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    # What a benchmark is.
    Benchmark = Callable[[], Iterator["str | Line"]]

RECORD = Path(__file__).parents[1] / "docs" / "performance.json"

# Instructions that decide how fast a CPU multiplies matrices.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class Line:
    """One figure in words.

    Attributes:
        text: what was found, and beside what.
        target: what it should be, such as "≤ 0.78"; None where nothing is asked.
        met: whether it is.
    """

    text: str
    target: str | None = None
    met: bool | None = None

    def __str__(self) -> str:
        return self.text if self.target is None else f"{self.text} [{self.target}: {'met' if self.met else 'missed'}]"


def at_most(limit: float, found: float, text: str, unit: str = "×") -> Line:
    """Say ``text`` of a figure that should be ``limit`` at most."""
    return Line(text, f"≤ {limit:g} {unit}", found <= limit)


def at_least(limit: float, found: float, text: str, unit: str = "×") -> Line:
    """Say ``text`` of a figure that should be ``limit`` at least."""
    return Line(text, f"≥ {limit:g} {unit}", found >= limit)


def run(benchmarks: Mapping[str, Benchmark], names: Iterable[str], record: Record | None) -> None:
    """Run those of ``names``, print what they find, and keep it after each, so that an end midway loses one."""
    for name in names:
        lines = []
        for found in benchmarks[name]():
            lines.append(found if isinstance(found, Line) else Line(found))
            print(f"{name:12} {lines[-1]}", flush=True)
        if record is not None:
            record.keep(name, lines)


class Record:
    """The file: a machine with its versions, and by the name of a benchmark its lines and when they were found."""

    def __init__(self, path: Path = RECORD, *, anew: bool = False) -> None:
        """Go on with what is there, or begin ``anew``.

        Raises:
            SystemExit: what is there is of another machine, or of other versions.
        """
        here = machine()
        found = {} if anew or not path.is_file() else json.loads(path.read_text(encoding="utf-8"))
        if found and {key: found[key] for key in here} != here:
            raise SystemExit(f"{path.name} is of another machine or of other versions: run all benchmarks first.")
        self._path, self._here = path, here
        self._note = {"note": found["note"]} if "note" in found else {}  # said by hand of what is there
        self._benchmarks: dict[str, Any] = found.get("benchmarks", {})

    def keep(self, name: str, lines: Iterable[Line]) -> None:
        """Put a benchmark's lines in place of those that it had."""
        today = datetime.now(UTC).date().isoformat()
        self._benchmarks[name] = {"date": today, "lines": [asdict(line) for line in lines]}
        written = json.dumps({**self._here, **self._note, "benchmarks": self._benchmarks}, indent=1, ensure_ascii=False)
        self._path.write_text(f"{written}\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Say on what is measured, and with which versions."""
    cpu = _cpu(Path("/proc/cpuinfo"))
    flags = [flag for flag in _FLAGS if flag in cpu.get("flags", "").split()]
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    versions = {name: version(name) for name in ("camserve", "torch", "torchvision", "pillow", "uvicorn")}
    return {
        "machine": {
            "processor": cpu.get("model name", platform.processor()),
            "cores": available_cores(),
            "flags": flags,
            "gpus": gpus,
        },
        "versions": {"python": platform.python_version(), **versions},
    }


def _cpu(file: Path) -> dict[str, str]:
    """Read what Linux says of the first core; nothing elsewhere."""
    lines = file.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if file.is_file() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
