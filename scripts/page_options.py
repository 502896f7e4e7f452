"""Write the page's module of options from their table: ``page_options.py [--check]``; with --check, only compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from service.options import OPTIONS, SIGNED_COLORMAP

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.options import Option

MODULE = Path(__file__).parents[1] / "service" / "web" / "static" / "page" / "options.js"
_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def text_of(options: Iterable[Option]) -> str:
    """Return the module: one line per option."""
    rows = "".join(f"  {option.name}: {{ {_members(option)} }},\n" for option in options)
    return (
        "// Written by scripts/page_options.py from service/options.py; `make lint` writes it again.\n\n"
        "/** The options of a request by name, in the words of the OpenAPI document. `values` is the whole list. */\n"
        f"export const OPTIONS = {{\n{rows}}};\n\n"
        "/** What the server colours a map with a sign by, unless told otherwise. */\n"
        f"export const SIGNED_COLORMAP = {json.dumps(SIGNED_COLORMAP)};\n"
    )


def _members(option: Option) -> str:
    about = option.about
    types = [_TYPES[kind] for kind in get_args(option.type) or [option.type]] if not option.choices else ["string"]
    members: dict[str, Any] = {
        "types": types,
        "default": option.default,
        "minimum": about.low,
        "maximum": about.high,
        "values": option.choices or None,
        "repeatable": option.repeatable or None,
        "predict": about.predict or None,
    }
    said = {name: value for name, value in members.items() if value is not None or name == "default"}
    return ", ".join(f"{name}: {json.dumps(value)}" for name, value in said.items())


def main(arguments: list[str]) -> int:
    """Write or compare; return the exit code."""
    text = text_of(OPTIONS.values())
    if MODULE.is_file() and MODULE.read_text(encoding="utf-8") == text:
        return 0
    if "--check" in arguments:
        sys.stdout.write(f"stale: {MODULE}; run .venv/bin/python scripts/page_options.py\n")
        return 1
    MODULE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
