"""A user's script, which does what it does when it is imported."""

from __future__ import annotations

import sys

build = sys.exit
if __name__ != "__main__":
    sys.exit(0)
