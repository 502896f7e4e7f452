"""How well maps explain a model, measured: metrics, statistics, the run, its result and its report."""
