from __future__ import annotations

import numpy as np
import pytest

from service.cam.methods import METHODS
from service.engine.map_summary import caveat, summarise


@pytest.mark.parametrize(
    ("raw", "signed", "zero_gradient", "reason"),
    [
        ([[0, 1], [2, 3]], False, False, None),
        ([[0, 0], [0, 0]], False, False, "no_positive_evidence"),
        ([[0, 0], [0, 0]], False, True, "zero_gradient"),
        ([[2, 2], [2, 2]], False, False, "constant"),
        ([[2, 2], [2, 2 + 1e-6]], False, False, "constant"),
        ([[5]], False, False, "constant"),
        ([[-1, 0], [0, 0]], True, False, None),
        ([[-1, -1], [-1, -1]], True, False, "constant"),
        ([[0, 0], [0, 0]], True, False, "no_positive_evidence"),
    ],
)
def test_an_empty_map_says_why(raw: list[list[float]], signed: bool, zero_gradient: bool, reason: str | None) -> None:
    assert summarise(np.array(raw, np.float32), signed=signed, zero_gradient=zero_gradient).reason == reason


def test_numbers_of_a_map() -> None:
    summary = summarise(np.array([[-1, 0], [2, 3]], np.float32), signed=True, zero_gradient=False)
    assert (summary.minimum, summary.maximum, summary.sum) == (-1, 3, 4)


def test_notes_say_what_to_keep_in_mind() -> None:
    assert caveat("gradcam", "cat", 0.5) is None
    assert caveat("gradcam", "cat", 0.01) is None
    assert caveat("gradcam", "cat", 0.0001) == (
        "The model gives 'cat' 0.01% only; the map shows what little speaks for it."
    )
    for name, row in METHODS.items():
        note = caveat(name, "cat", 0.9) or ""
        assert ("the layer plays no part" in note) == (not row.uses_layer)
        assert ("knows no classes" in note) == (not row.class_specific)
