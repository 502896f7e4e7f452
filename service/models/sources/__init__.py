"""Where models come from: one module per source, one row in ``table.SOURCES``."""
