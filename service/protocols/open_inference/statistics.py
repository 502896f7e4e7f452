"""Triton's statistics: what models did since the start, in its words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.engine.explainer import Explainer
    from service.engine.tally import Tally, Took

__all__ = ["statistics"]


def statistics(engine: Explainer, model: str | None = None, version: str | None = None) -> dict[str, Any]:
    """Count what a model did, or all that have been loaded.

    Raises:
        UnknownModel, UnknownVersion, NotReady: as :meth:`Explainer.ready_info`.
    """
    if model is not None:
        info = engine.ready_info(model, version)
        return {"model_stats": [_of(model, info.version, engine.tally(info.name, info.version))]}
    loaded = [(each.config.name, each.known.version) for each in engine.models() if each.known is not None]
    return {"model_stats": [_of(name, label, engine.tally(name, label)) for name, label in loaded]}


def _of(name: str, version: str, tally: Tally) -> dict[str, Any]:
    """Word a tally. Triton's inference is an image here, its execution a batch."""
    nothing = {"count": 0, "ns": 0}
    return {
        "name": name,
        "version": version,
        "last_inference": int(tally.last_s * 1000),
        "inference_count": tally.images,
        "execution_count": round(sum(took.count for took in tally.batches.values())),
        "inference_stats": {
            "success": _took(tally.success),
            "fail": _took(tally.failure),
            "queue": _took(tally.queue),
            "compute_input": _took(tally.decode),
            "compute_infer": _took(tally.compute),
            "compute_output": _took(tally.render),
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {"batch_size": size, "compute_input": nothing, "compute_infer": _took(took), "compute_output": nothing}
            for size, took in sorted(tally.batches.items())
        ],
    }


def _took(took: Took) -> dict[str, int]:
    return {"count": round(took.count), "ns": round(took.seconds * 1e9)}
