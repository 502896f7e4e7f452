"""Where ``camserve`` begins. Ctrl-C ends it quietly, also while what a command needs is still being imported."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

__all__ = ["main"]


def main() -> int:
    """Run the command; return its exit code, which is 130 after Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # it is ignored in the background of a shell, and stays so
        signal.signal(signal.SIGINT, _end)
    from service.cli import main as run  # noqa: PLC0415  # half a second, in which nothing is to be undone

    try:
        signal.signal(signal.SIGINT, before)
        return run()
    except KeyboardInterrupt:
        _end()


def _end(*_: object) -> NoReturn:
    os._exit(130)


if __name__ == "__main__":
    raise SystemExit(main())
