"""Write the page's module of options from their table: ``page_options.py [--check]``; with --check, only compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.options import Option

_KINDS: dict[object, str] = {int: "number", float: "number", str: "text", bool: "switch", int | str: "class"}
MODULE = Path(__file__).parents[1] / "service" / "web" / "static" / "shared" / "request.js"


def text_of(options: Iterable[Option]) -> str:
    """Return the module: one line per option."""
    rows = "".join(f"  {option.name}: {{ {_members(option)} }},\n" for option in options)
    return (
        "// Written by scripts/page_options.py from service/options.py; `make lint` writes it again.\n\n"
        "/**\n"
        " * The options of an `explain` request by name, each {kind, standard, least, most, choices}. The kinds are\n"
        " * text, class (a label or an index), number, switch, choice; `standard` counts where none is given.\n"
        " */\n"
        f"export const REQUEST = {{\n{rows}}};\n"
    )


def _members(option: Option) -> str:
    standard = next(iter(option.default), None) if option.repeatable else option.default
    members: dict[str, Any] = {
        "kind": "choice" if option.choices else _KINDS.get(option.type, "text"),
        "standard": standard,
        "least": option.about.low,
        "most": option.about.high,
        "choices": option.choices or None,
    }
    return ", ".join(f"{name}: {json.dumps(value)}" for name, value in members.items() if value is not None)


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
