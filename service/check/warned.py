"""Which step of a check each warning of a model belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.check.report import Row

if TYPE_CHECKING:
    from service.check.report import Result, Step
    from service.models.info import ModelInfo

__all__ = ["STEP_OF", "row_with_warnings"]

STEP_OF: dict[str, Step] = {
    **dict.fromkeys(
        (
            "constant",
            "equal_labels",
            "labels_assumed",
            "log_probabilities",
            "no_probabilities",
            "probabilities",
            "regression",
            "squashed",
            "unlabelled_head",
            "unusable_head",
        ),
        "labels",
    ),
    **dict.fromkeys(
        (
            "assumed_normalisation",
            "bgr_suspected",
            "normalisation_set_aside",
            "order_suspected",
            "positions_resampled",
            "preprocessing_assumed",
            "preprocessing_differs",
            "transform_input_assumed",
        ),
        "preprocessing",
    ),
    **dict.fromkeys(("precision_emulated", "precision_refused"), "model"),
    "random_numbers": "determinism",
    "default_layer_covers_part": "layers",
    **dict.fromkeys(("not_differentiable", "partly_differentiable", "zero_gradient"), "gradient"),
}
"""By a warning's code; what is not listed is about what was read."""


def row_with_warnings(info: ModelInfo, step: Step, found: str, result: Result = "ok") -> Row:
    """Make a step's row with the model's warnings that belong to it; any makes a warning of what is ok."""
    notes = tuple(warning.text for warning in info.warnings if STEP_OF.get(warning.code, "model") == step)
    return Row(step, "warning" if notes and result == "ok" else result, found, notes)
