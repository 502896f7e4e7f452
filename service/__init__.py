"""camserve: predictions and class activation maps over HTTP. Importing this package loads nothing heavy."""

__version__ = "0.1.0"
