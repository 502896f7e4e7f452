"""The documents, and what can be read out of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--\s*((?:(?!-->).)*?)\s*-->\s*\Z", re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of code, the comment right above it, and the command whose answer it claims to be."""

    file: Path
    line: int
    language: str
    text: str
    comment: str
    command: Block | None = None

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"

    @property
    def not_run(self) -> str | None:
        """The reason that is given for not running it; None where it is to be run."""
        marker, found, reason = self.comment.partition(":")
        return reason.strip() if found and marker == "not run" else None


def blocks(file: Path) -> list[Block]:
    """Read the blocks of a document. A ``json`` block belongs to the ``bash`` block before it in its section."""
    text = file.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in _FENCE.finditer(text):
        above = text[: match.start()]
        comment = _COMMENT.search(above)
        line = above.count("\n") + 1
        command = None
        if match[1] == "json" and found and found[-1].language == "bash":
            between = above.split("\n")[found[-1].line :]
            if not any(row.startswith(("## ", "### ")) for row in between):
                command = found[-1]
        found.append(Block(file, line, match[1], match[2], comment[1] if comment else "", command))
    return found


ALL_BLOCKS = tuple(block for file in DOCUMENTS for block in blocks(file))


def prose(file: Path) -> str:
    """Return a document without its blocks of code."""
    return _FENCE.sub("", file.read_text(encoding="utf-8"))


def headings(file: Path) -> list[str]:
    """Return the headings of a document."""
    return [match[2].strip() for match in _HEADING.finditer(prose(file))]


def anchor(heading: str) -> str:
    """Return a heading's address within its document, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def first_cells(file: Path, heading: str) -> list[str]:
    """Return the first cell of every row of the tables under a heading, backticks taken off."""
    text = prose(file)
    start = next(match for match in _HEADING.finditer(text) if match[2].strip() == heading)
    end = next(
        (match.start() for match in _HEADING.finditer(text, start.end()) if len(match[1]) <= len(start[1])), None
    )
    rows = [line for line in text[start.end() : end].splitlines() if line.startswith("|")]
    return [row.split("|")[1].strip().strip("`") for row in rows if not set(row) <= set("|-: ")]
