"""Time, faults and keys, with a worker that tests hold by hand."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.engine.messages import ModelLoaded
from service.errors import InternalError, Overloaded
from service.protocols.label_studio import batch, verbs
from service.protocols.label_studio.batch import Finished
from service.settings import KeyConfig, ModelConfig
from service.web.keys import digest_of
from tests.protocols.label_studio.wire import PREFIX, asked, click, config, setup, task, uri
from tests.toys import png
from tests.web.application import PETS, faked, until

if TYPE_CHECKING:
    import httpx


PICTURE = uri(png())
KINDS = config('<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="Dog"/></Choices>')


async def predict(client: httpx.AsyncClient, *tasks: Any, label_config: str = KINDS) -> httpx.Response:
    return await client.post(f"{PREFIX}/predict", json=asked(list(tasks), label_config))


BRUSHES = KINDS.replace("Choices", "BrushLabels").replace("Choice ", "Label ")


def choices(response: httpx.Response) -> list[list[str]]:
    assert response.status_code == 200, response.text
    return [[each["value"]["choices"][0] for each in result["result"]] for result in response.json()["results"]]


class TestTime:
    async def test_what_is_not_ready_in_time_is_asked_for_one_by_one(self) -> None:
        """None is lost, and what was ready is not computed again."""
        async with faked(label_studio_budget_s=3.0, max_batch_size=1) as application, application.client() as client:
            worker, tasks = application.worker, [task(number, uri(png(seed=number))) for number in range(4)]
            worker.held = True
            asking = asyncio.create_task(predict(client, *tasks))
            await until(lambda: worker.running)
            done = len(worker.running)
            worker.finish()
            (one,) = (await asking).json()["results"]
            assert one["result"] == [], "exactly one for four, and nobody keeps it"
            assert (
                application.metric("camserve_labelling_tasks_total", tool="label-studio", result="put_off") == 4 - done
            )
            worker.held = False
            worker.finish()
            sent = len(worker.sent)
            for each in tasks:
                assert choices(await predict(client, each)) == [["Dog"]]
            assert len(worker.sent) - sent == 4 - done
            assert choices(await predict(client, tasks[0])) == [["Dog"]]
            assert len(worker.sent) - sent == 5 - done, "what was fetched is forgotten"

    async def test_very_many_are_asked_for_one_by_one_and_the_first_are_ready_then(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verbs, "_MAX_TASKS", 2)
        async with faked() as application, application.client() as client:
            tasks = [task(number, uri(png(seed=number))) for number in range(3)]
            (one,) = (await predict(client, *tasks)).json()["results"]
            assert one["result"] == []
            sent = len(application.worker.sent)
            assert application.metric("camserve_labelling_tasks_total", tool="label-studio", result="put_off") == 1
            for each in tasks:
                assert choices(await predict(client, each)) == [["Dog"]]
            assert len(application.worker.sent) - sent == 1
            assert choices(await predict(client, *tasks[:2])) == [["Dog"]] * 2

    async def test_the_only_task_is_an_error_that_label_studio_keeps_nothing_of(self) -> None:
        async with faked(label_studio_budget_s=0.1) as application, application.client() as client:
            application.worker.held = True
            response = await predict(client, task(1, PICTURE))
            assert response.status_code in {503, 504}
            await until(lambda: application.explainer.admission.inside == 0)

    async def test_who_goes_away_waits_for_nothing(self) -> None:
        async with faked() as application, application.client() as client:
            application.worker.held = True
            asking = asyncio.create_task(predict(client, task(1, PICTURE), task(2, PICTURE)))
            await until(lambda: application.explainer.admission.inside)
            asking.cancel()
            await until(lambda: application.explainer.admission.inside == 0)

    async def test_what_was_ready_when_they_went_away_is_not_computed_again(self) -> None:
        async with faked(max_batch_size=1) as application, application.client() as client:
            worker, tasks = application.worker, [task(number, uri(png(seed=number))) for number in range(4)]
            worker.held = True
            asking = asyncio.create_task(predict(client, *tasks))
            await until(lambda: worker.running and application.explainer.admission.inside == 4)
            done = len(worker.running)
            worker.finish()
            await until(lambda: len(application.state["label_studio"].backend._finished._kept) == done)
            asking.cancel()
            await until(lambda: application.explainer.admission.inside == 0)
            worker.held = False
            worker.finish()
            sent = len(worker.sent)
            assert choices(await predict(client, *tasks)) == [["Dog"]] * 4
            assert len(worker.sent) - sent == 4 - done

    async def test_a_click_waits_no_longer_than_tasks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def full(_request: Any) -> None:
            raise Overloaded("The queue is full.")

        async with faked(label_studio_budget_s=0.3) as application, application.client() as client:
            monkeypatch.setattr(application.explainer, "answer", full)
            body = asked([task(9, PICTURE)], BRUSHES, {"result": [click(50, 50, "Dog")]})
            response = await client.post(f"{PREFIX}/predict", json=body)
            assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")

    async def test_health_and_setup_do_not_wait_for_the_model(self) -> None:
        async with faked() as application, application.client() as client:
            application.worker.load_outcome = lambda _key, _config: None
            application.worker.lose("pets")
            application.worker.held = True
            before = (await client.get(f"{PREFIX}/health")).json()
            assert before["status"] == "UP"
            assert (await client.post(f"{PREFIX}/setup", json=setup(KINDS))).status_code == 200

    async def test_what_setup_said_while_the_model_was_loading_is_what_predictions_are_known_by(self) -> None:
        """For as long as the model has these weights: all would be predicted once more otherwise."""
        async with faked(management=True) as application, application.client() as client:

            async def told() -> str:
                response = await client.post(f"{PREFIX}/birds/setup", json=setup(KINDS))
                return str(response.json()["model_version"])

            async def predicted() -> set[str]:
                body = asked([task(1, PICTURE), task(2, PICTURE)], KINDS)
                results = (await client.post(f"{PREFIX}/birds/predict", json=body)).json()["results"]
                return {each["model_version"] for each in results}

            async def load(**config: Any) -> None:
                await client.put("/api/v1/models/birds", json={"architecture": "shapes", **config})

            worker = application.worker
            worker.load_outcome = lambda _key, _config: None
            await load()
            before = await told()
            assert before.startswith("birds/loading-")
            assert await told() == before
            [key] = [key for key in worker.loads if key.name == "birds"]
            one = replace(PETS, name="birds", revision=key.revision, digest="1" * 64)
            worker.say(ModelLoaded(key, one))
            assert await predicted() == {before}
            assert await told() == before
            other = {**setup(KINDS), "project": "2.1795246491"}
            new = (await client.post(f"{PREFIX}/birds/setup", json=other)).json()["model_version"]
            assert new == "birds/1-111111111111/conv2/gradcam/t0.5"
            await client.delete("/api/v1/models/birds")
            await load()
            again = await told()
            assert again != before
            [*_, key] = worker.loads
            worker.say(ModelLoaded(key, replace(one, revision=key.revision)))
            assert await predicted() == {again}
            await load(version="2")
            [*_, key] = worker.loads
            worker.say(ModelLoaded(key, replace(one, revision=key.revision, digest="2" * 64)))
            assert await predicted() == {"birds/1+22222222-222222222222/conv2/gradcam/t0.5"} == {await told()}

    async def test_once_the_label_map_says_what_labels_mean_they_are_asked_for_again(self) -> None:
        versions = set()
        for label_map in ({}, {"tame": "cat"}, {"tame": "dog"}):
            models = (ModelConfig(name="pets", architecture="shapes", label_map=label_map),)
            async with faked(models=models) as application, application.client() as client:
                versions.add((await client.post(f"{PREFIX}/setup", json=setup(KINDS))).json()["model_version"])
        assert len(versions) == 3

    async def test_more_tasks_than_the_queue_holds(self) -> None:
        async with faked(max_queue=2) as application, application.client() as client:
            tasks = [task(number, PICTURE) for number in range(20)]
            assert choices(await predict(client, *tasks)) == [["Dog"]] * 20


class TestFaults:
    async def test_a_fault_of_ours_is_no_empty_prediction(self) -> None:
        async with faked() as application, application.client() as client:
            application.worker.outcome = lambda _lane, _question: InternalError("No.")
            assert (await predict(client, task(1, PICTURE))).status_code == 500
            assert (await predict(client, task(1, PICTURE), task(2, PICTURE))).status_code == 500

    async def test_a_model_that_failed(self) -> None:
        async with faked() as application, application.client() as client:
            application.worker.lose("pets", "its file is broken")
            response = await predict(client, task(1, PICTURE))
            assert response.status_code == 503


class TestClasses:
    async def test_classes_of_one_label_are_added_up(self) -> None:
        """Logits 1, 3, 2 of cat, dog and owl: dog is the likeliest class, and what is none of it the likelier label."""
        models = (ModelConfig(name="pets", architecture="shapes", label_map={"wild": ["owl", "dog"], "tame": "cat"}),)
        kinds = config('<Choices name="k" toName="image"><Choice value="tame"/><Choice value="wild"/></Choices>')
        async with faked(models=models) as application, application.client() as client:
            response = await predict(client, task(1, PICTURE), label_config=kinds)
            shares = np.exp([1, 3, 2]) / np.exp([1, 3, 2]).sum()
            assert choices(response) == [["wild"]]
            assert response.json()["results"][0]["score"] == pytest.approx(shares[1] + shares[2])

    async def test_of_classes_that_do_not_exclude_each_other_all_likely_ones_are_drawn(self) -> None:
        info = replace(PETS, activation="sigmoid", multi_label=True)
        labels = '<Label value="cat"/><Label value="dog"/><Label value="owl"/>'
        boxes = config(f'<RectangleLabels name="b" toName="image">{labels}</RectangleLabels>')
        async with faked(known=info) as application, application.client() as client:
            (result,) = (await predict(client, task(1, PICTURE), label_config=boxes)).json()["results"]
            assert [each["value"]["rectanglelabels"] for each in result["result"]] == [["dog"], ["owl"], ["cat"]]
            assert [each["score"] for each in result["result"]] == pytest.approx(
                [1 / (1 + np.exp(-x)) for x in (3, 2, 1)]
            )


class TestScore:
    @pytest.mark.parametrize(
        "label_config", [KINDS, KINDS.replace("Choices", "BrushLabels").replace("Choice ", "Label ")]
    )
    async def test_it_is_what_the_setting_says(self, label_config: str) -> None:
        shares = np.exp([1, 3, 2]) / np.exp([1, 3, 2]).sum()
        expected = {
            "probability": shares[1],
            "margin": shares[1] - shares[2],
            "entropy": -(shares * np.log(shares)).sum() / np.log(3),
            "flip_stability": pytest.approx(-0.8824, abs=1e-3),  # rows of 0 1 2 3 that do not turn with the picture
            "layer_agreement": None,
            "mass_inside": None,
        }
        versions = set()
        for score, value in expected.items():
            async with faked(label_studio_score=score) as application, application.client() as client:
                (result,) = (await predict(client, task(1, PICTURE), label_config=label_config)).json()["results"]
                versions.add(result["model_version"])
                if score == "flip_stability":
                    assert -1 <= result["score"] <= 1
                else:
                    assert result["score"] == (value if value is None else pytest.approx(value, rel=1e-5))
        assert len(versions) == len(expected)

    async def test_mass_inside_what_was_annotated(self) -> None:
        box = {"x": 0, "y": 0, "width": 50, "height": 100, "rotation": 0, "rectanglelabels": ["dog"]}
        result = {
            "type": "rectanglelabels",
            "to_name": "image",
            "original_width": 64,
            "original_height": 48,
            "value": box,
        }
        async with faked(label_studio_score="mass_inside") as application, application.client() as client:
            marked = task(1, PICTURE, annotations=[{"id": 1, "result": [result]}])
            (answer,) = (await predict(client, marked)).json()["results"]
            # Of rows that rise by one per cell, somewhat less than half lies on the left.
            assert 0.4 < answer["score"] < 0.5


class TestKeys:
    @pytest.fixture
    def keys(self) -> tuple[KeyConfig, ...]:
        return (
            KeyConfig(name="labels", sha256=digest_of("labels")),
            KeyConfig(name="watches", sha256=digest_of("watches"), scopes=frozenset({"metrics"})),
        )

    @pytest.mark.parametrize("info", [":labels", "labels:", "anybody:labels", "labels:x"])
    async def test_the_key_comes_in_the_address(self, keys: Any, info: str) -> None:
        basic = {"Authorization": f"Basic {base64.b64encode(info.encode()).decode()}"}
        async with faked(keys=keys) as application, application.client(headers=basic) as client:
            assert (await client.get(f"{PREFIX}/health")).status_code == 200
            assert (await client.post(f"{PREFIX}/setup", json=setup(KINDS))).status_code == 200
            assert choices(await predict(client, task(1, PICTURE))) == [["Dog"]]
            assert (await client.get("/api/v1/models")).status_code == 401, "nowhere else"

    @pytest.mark.parametrize("basic", ["Basic", "Basic %%%", "Basic eDp5", "Basic /w==", "basic Og=="])
    async def test_no_key(self, keys: Any, basic: str) -> None:
        async with faked(keys=keys) as application, application.client(headers={"Authorization": basic}) as client:
            for name in ("health", "versions"):
                assert (await client.get(f"{PREFIX}/{name}")).status_code == 401
            for name in ("setup", "predict"):
                assert (await client.post(f"{PREFIX}/shapes/{name}", json={})).status_code == 401

    async def test_the_scope_counts(self, keys: Any) -> None:
        async with faked(keys=keys) as application, application.client(auth=("", "watches")) as client:
            assert (await client.post(f"{PREFIX}/predict", json={})).status_code == 403

    async def test_the_webhook_needs_none_and_reads_nothing(self, keys: Any) -> None:
        from tests.web.application import Exchange

        async with faked(keys=keys) as application, application.client() as client:
            for place in ("", "/pets", "/pets/conv1", "/pets/conv1/gradcam"):
                assert (await client.post(f"{PREFIX}{place}/webhook", json={"action": "X"})).status_code == 200
            exchange = Exchange(f"{PREFIX}/webhook", b"{", complete=False, content_length="1000")
            await exchange.start(application)
            assert exchange.status == 200


class TestFinished:
    def test_the_oldest_are_dropped(self) -> None:
        kept = Finished(3000)
        for number in range(4):
            kept.keep(str(number), {"result": [{"value": {"rle": [0] * 100}}]})
        assert kept.get("0") is None
        assert kept.get("3") is not None
        kept.forget(["3", "nothing"])
        assert kept.get("3") is None

    def test_what_was_forgotten_leaves_its_room(self) -> None:
        kept = Finished(5000)
        for _ in range(100):
            for _ in range(2):
                kept.keep("a", {"result": ["x" * 1000]})
            kept.forget(["a"])
        assert kept._bytes == 0

    async def test_nothing_to_do(self) -> None:
        assert await batch.run([], 1) == []
