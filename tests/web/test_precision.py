"""What a model computes in, as it is told over HTTP and to those who watch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from service.models.info import ModelWarning, PrecisionChoice, SelfCheck
from service.settings import ModelConfig
from tests.toys import png
from tests.web.application import LOAD_TIMEOUT_S, PETS, faked, served, until

if TYPE_CHECKING:
    from service.models.info import ModelInfo

PICTURE, IMAGE = png(), {"Content-Type": "image/png"}

CHECK = SelfCheck(24, "gradcam", 0.9991234567, 0.998, 1.0, 1.0, 0.0123456789)
TAKEN = replace(PETS, dtype="bfloat16", precision=PrecisionChoice("auto", check=CHECK))
REFUSED = replace(
    PETS,
    precision=PrecisionChoice("bfloat16", "check", "The check of bfloat16 failed.", replace(CHECK, correlation=0.5)),
    warnings=(ModelWarning("precision_refused", "It computes in float32."),),
)


@pytest.mark.parametrize(
    ("info", "used", "asked", "reason", "correlation"),
    [
        (TAKEN, "bfloat16", "auto", None, 0.99912),
        (REFUSED, "float32", "bfloat16", "The check of bfloat16 failed.", 0.5),
        (PETS, "float32", "float32", None, None),
    ],
    ids=["taken", "refused", "not asked for"],
)
async def test_a_model_says_what_it_computes_in_and_why(
    info: ModelInfo, used: str, asked: str, reason: str | None, correlation: float | None
) -> None:
    async with faked(known=info) as application, application.client() as client:
        entry = (await client.get("/api/v1/models/pets")).json()
        answers = [
            (await client.post(f"/api/v1/{verb}", content=PICTURE, headers=IMAGE)).json()
            for verb in ("explain", "predict")
        ]
        scrape = (await client.get("/metrics")).text

        assert (entry["precision"], entry["dtype"]) == (used, used)
        assert (entry["precision_asked"], entry["precision_reason"]) == (asked, reason)
        assert (entry["precision_check"] or {}).get("correlation") == correlation
        assert [answer["precision"] for answer in answers] == [used, used]
        assert f'camserve_model_precision{{model="pets",precision="{used}"}} 1.0' in scrape
        refused = application.metric("camserve_precision_refused_total", reason="check")
        assert refused == (1 if info is REFUSED else 0)


async def test_the_figures_are_rounded() -> None:
    async with faked(known=TAKEN) as application, application.client() as client:
        found = (await client.get("/api/v1/models/pets")).json()["precision_check"]

    assert found == {
        "pictures": 24,
        "method": "gradcam",
        "correlation": 0.99912,
        "lowest_correlation": 0.998,
        "same_cell": 1.0,
        "same_class": 1.0,
        "logits_apart": 0.01235,
    }


@pytest.mark.slow
async def test_a_poisoned_fast_path_is_refused_by_two_real_workers_alike() -> None:
    poisoned = ModelConfig(
        name="poisoned", architecture="tests.user_models.spoiled_in_bfloat16", size=32, precision="bfloat16"
    )
    async with served(models=(poisoned,), workers=2) as application, application.client() as client:
        entry = (await client.get("/api/v1/models/poisoned")).json()
        answer = (await client.post("/api/v1/explain", content=PICTURE, headers=IMAGE)).json()

        assert (entry["state"], entry["precision"], answer["precision"]) == ("ready", "float32", "float32")
        assert "logits differ by" in entry["precision_reason"]
        assert [warning["code"] for warning in entry["warnings"] if "precision" in warning["code"]] == [
            "precision_refused"
        ]
        await until(lambda: application.metric("camserve_precision_refused_total", reason="check") == 2, LOAD_TIMEOUT_S)
        assert not application.metric("camserve_model_loads_total", result="failed"), "neither contradicts the other"
