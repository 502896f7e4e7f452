"""``camserve openapi``: the document of the API."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.commands.flags import add_command
from service.settings import Settings

if TYPE_CHECKING:
    import argparse

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    openapi = add_command(commands, "openapi", _openapi, "print the OpenAPI document")
    openapi.add_argument("--output", type=Path, help="write it to this file")
    openapi.add_argument("--check", type=Path, help="compare it with this file; exit 1 if they differ")


def _openapi(options: argparse.Namespace) -> int:
    from service.web.app import create_app  # noqa: PLC0415

    text = json.dumps(create_app(Settings()).openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if options.check is not None:
        return _compare(options.check, text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


def _compare(file: Path, text: str) -> int:
    import difflib  # noqa: PLC0415

    committed = file.read_text(encoding="utf-8")
    if committed == text:
        return 0
    difference = difflib.unified_diff(
        committed.splitlines(), text.splitlines(), str(file), "the code", lineterm="", n=2
    )
    print("\n".join(difference))
    print(f"camserve: {file} is not what the code says; run scripts/openapi", file=sys.stderr)
    return 1
