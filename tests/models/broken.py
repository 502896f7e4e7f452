"""A user's module that imports what is not installed."""

from __future__ import annotations

import timm_absent  # type: ignore[import-not-found]

build = timm_absent.create_model
