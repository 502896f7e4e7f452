"""``camserve serve`` that says which modules it has imported, whenever it is asked.

Run as ``python -m tests.web.listing FILE ARGUMENTS…``. While there is an empty FILE, their names are put into it, one a
line.
"""

from __future__ import annotations

import sys
from pathlib import Path

from service import cli
from service.web.server import Server


def say() -> None:
    """Say it if asked."""
    if FILE.exists() and not FILE.stat().st_size:
        FILE.write_text("\n".join(sorted(sys.modules)) + "\n")


class Listing(Server):
    async def on_tick(self, counter: int) -> bool:
        say()
        return await super().on_tick(counter)


if __name__ == "__main__":
    file, *arguments = sys.argv[1:]
    FILE = Path(file)
    sys.modules["service.web.server"].Server = Listing  # type: ignore[attr-defined]
    sys.exit(cli.main(arguments))
