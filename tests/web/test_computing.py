"""What makes a model quicker, and why it is not done, as it is told over HTTP and to those who watch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.engine.messages import ModelComputes
from service.models.info import Computing
from service.settings import ModelConfig
from tests.web.application import PETS, faked, served

FIELDS = ("folded", "folded_reason", "parts", "parts_reason")


@pytest.mark.parametrize(
    "computing",
    [
        Computing(folded=True),
        Computing(folded=True, parts=2),
        Computing(unfolded="It has several outputs.", whole="It is not folded."),
    ],
)
async def test_a_model_says_how_it_is_computed(computing: Computing) -> None:
    async with faked(known=replace(PETS, computing=computing)) as application, application.client() as client:
        entry = (await client.get("/api/v1/models/pets")).json()
        scrape = (await client.get("/metrics")).text

    assert tuple(entry[field] for field in FIELDS) == (
        computing.folded,
        computing.unfolded,
        computing.parts,
        computing.whole,
    )
    assert f'camserve_model_folded{{model="pets"}} {float(computing.folded)}' in scrape
    assert f'camserve_model_parts{{model="pets"}} {float(computing.parts)}' in scrape


async def test_what_a_worker_finds_out_later_is_told_from_then_on() -> None:
    async with (
        faked(known=replace(PETS, computing=Computing(folded=True))) as application,
        application.client() as client,
    ):
        key = application.worker.key("pets")
        strayed = Computing(unfolded="Its code did something else.", parts=2)
        application.worker.say(ModelComputes(key, strayed))
        application.worker.say(ModelComputes(replace(key, revision=99), Computing()))  # one that is gone
        entry = (await client.get("/api/v1/models/pets")).json()

    assert tuple(entry[field] for field in FIELDS) == (False, "Its code did something else.", 2, None)


async def test_nothing_is_told_of_a_model_that_is_not_loaded() -> None:
    async with faked() as application, application.client() as client:
        application.worker.lose("pets", "It is broken.")
        entry = (await client.get("/api/v1/models/pets")).json()
        scrape = (await client.get("/metrics")).text

    assert [entry[field] for field in FIELDS] == [None] * 4
    assert "camserve_model_folded{" not in scrape


async def test_a_real_worker_says_why_not() -> None:
    config = ModelConfig(name="mine", architecture="tests.user_models.two_heads", size=32)
    async with served(models=(config,)) as application, application.client() as client:
        entry = (await client.get("/api/v1/models/mine")).json()

    assert (entry["folded"], entry["folded_reason"]) == (False, "It has several outputs.")
