"""Who else is told what a model computes in: the check, other workers, processes of evaluations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.check.steps import _settled
from service.engine.versions import Version
from service.jobs.computing import _as_served
from service.models.info import ModelKey, PrecisionChoice, SelfCheck
from service.settings import ModelConfig
from tests.web.application import PETS

AUTO = ModelConfig(name="pets", architecture="shapes", precision="auto")
FIGURES = SelfCheck(24, "gradcam", 0.99912, 0.998, 1.0, 1.0, 0.0123)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (PrecisionChoice(), ""),
        (PrecisionChoice("auto", "hardware", "It has not."), " (auto was asked for. It has not.)"),
        (
            PrecisionChoice("bfloat16", check=FIGURES),
            " (bfloat16 was asked for; against float32, maps correlate to 0.9991, logits differ by 1.2% at most)",
        ),
        (
            PrecisionChoice("auto", check=replace(FIGURES, correlation=None)),
            " (auto was asked for; against float32, logits differ by 1.2% at most)",
        ),
    ],
)
def test_the_check_says_how_it_was_settled(choice: PrecisionChoice, words: str) -> None:
    assert _settled(replace(PETS, precision=choice)) == words


def test_workers_that_decide_differently_do_not_both_answer() -> None:
    version = Version(ModelKey("pets", 1), AUTO)
    version.known = version.infos[0] = replace(PETS, dtype="bfloat16", device="cuda:0", digest="a")
    other = replace(PETS, digest="b")

    assert version.contradicts(other)
    assert version.contradiction(other).startswith("It computes in float32 on cpu, and in bfloat16 on cuda:0")
    assert version.contradiction(replace(other, dtype="bfloat16")).startswith("It has other weights")


def test_an_evaluation_computes_in_what_is_served() -> None:
    assert _as_served(AUTO, PETS) == AUTO.model_copy(update={"precision": "float32"})
