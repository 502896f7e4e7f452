"""Whether a model can be served: loaded and tried in a process of its own, and what was found row by row."""
