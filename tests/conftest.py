from __future__ import annotations

import os

from hypothesis import settings

# No test depends on the clock, least of all on a busy machine. In CI the search is the same at every run, so that a
# change is judged by what it changes; elsewhere it is random and finds new cases.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
