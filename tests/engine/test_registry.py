"""The life of models: what a name points to, while versions are loaded, replaced, drained and lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.registry import Registry
from service.errors import NotReady, UnknownModel, UnknownVersion
from service.models.info import ModelInfo, ModelKey
from service.settings import ModelConfig
from tests.engine.fakes import info


def config(name: str = "m", version: str | None = None) -> ModelConfig:
    return ModelConfig(name=name, architecture="toy", version=version)


def known(key: ModelKey, version: str = "1") -> ModelInfo:
    return replace(info(key.name), version=version, revision=key.revision)


class Drained(list[ModelKey]):
    """A registry with two workers, 0 and 1, and the versions that it dismissed."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(self.append)

    def add(self, name: str = "m", workers: tuple[int, ...] = (0, 1)) -> ModelKey:
        key = self.registry.add(config(name))
        for worker in workers:
            self.registry.told(worker, [key])
        return key

    def ready(self, key: ModelKey, *workers: int, version: str = "1") -> None:
        for worker in workers or (0, 1):
            self.registry.loaded(worker, key, known(key, version))

    def states(self, name: str = "m") -> list[tuple[int, str]]:
        return [(each.key.revision, each.state) for each in self.registry.versions(name)]

    def serves(self, name: str = "m") -> int | None:
        found = self.registry.status(name).info
        return found.revision if found else None


@pytest.fixture
def drained() -> Drained:
    return Drained()


def test_a_model_is_loading_then_ready(drained: Drained) -> None:
    key = drained.add()
    assert drained.states() == [(1, "loading")]
    with pytest.raises(NotReady), drained.registry.lease("m"):
        pass
    drained.ready(key, 1)
    assert drained.states() == [(1, "ready")]
    assert (drained.registry.holds(0, key), drained.registry.holds(1, key)) == (False, True)
    assert drained.registry.missing(0) == [key]


def test_the_first_is_the_default_and_an_unknown_name_has_neighbours(drained: Drained) -> None:
    drained.add("cats")
    drained.add("dogs")
    assert [status.config.name for status in drained.registry.statuses()] == ["cats", "dogs"]
    assert drained.registry.status().config.name == "cats"
    with pytest.raises(UnknownModel) as error:
        drained.registry.status("cat")
    assert error.value.details["suggestions"] == ["cats"]


def test_a_model_that_fails_says_why_and_is_ready_if_any_worker_has_it(drained: Drained) -> None:
    key = drained.add()
    drained.registry.failed(0, key, "no such file")
    assert (drained.registry.status("m").state, drained.registry.status("m").reason) == ("failed", "no such file")
    drained.ready(key, 1)
    assert (drained.registry.status("m").state, drained.registry.status("m").reason) == ("ready", None)


def test_a_name_points_to_a_new_version_once_no_worker_is_still_loading_it(drained: Drained) -> None:
    old = drained.add()
    drained.ready(old)
    new = drained.add()
    drained.ready(new, 0)
    assert (drained.serves(), drained.states()) == (1, [(1, "ready"), (2, "ready")])
    drained.ready(new, 1)
    assert (drained.serves(), drained.states(), drained) == (2, [(1, "draining"), (2, "ready")], [old])
    drained.registry.unloaded(0, old)
    assert drained.states() == [(1, "draining"), (2, "ready")]
    drained.registry.unloaded(1, old)
    assert drained.states() == [(2, "ready")]


@pytest.mark.parametrize("failing_first", [True, False])
def test_a_version_that_one_worker_cannot_load_does_not_take_over_with_what_is_left(
    drained: Drained, failing_first: bool
) -> None:
    drained.ready(drained.add())
    new = drained.add()
    if not failing_first:
        drained.ready(new, 1)
    drained.registry.failed(0, new, "No memory.")
    if failing_first:
        drained.ready(new, 1)
    assert (drained.serves(), drained.states(), drained) == (1, [(1, "ready"), (2, "failed")], [new])
    assert drained.registry.settled(new)
    told = "No memory. Other workers could load it; it answers only where all can."
    assert drained.registry.versions("m")[1].reason == told
    drained.registry.unloaded(0, new)
    drained.registry.unloaded(1, new)
    assert (drained.states()[1], drained.registry.versions("m")[1].reason) == ((2, "failed"), told)
    drained.ready(new, 0)  # late: it was told to drop it meanwhile
    assert (drained.serves(), drained.registry.held_by(0)) == (1, [key for key, _ in drained.registry.wanted()])
    latest = drained.add()
    drained.ready(latest)
    assert drained.serves() == latest.revision


@pytest.mark.parametrize("dies_first", [True, False])
def test_a_replacement_that_one_worker_cannot_load_and_another_dies_of_is_settled(
    drained: Drained, dies_first: bool
) -> None:
    drained.ready(drained.add())
    new = drained.add()
    if dies_first:
        drained.registry.lost(1)
    drained.registry.failed(0, new, "No memory.")
    if not dies_first:
        assert not drained.registry.settled(new)
        drained.registry.lost(1)
    assert new not in dict(drained.registry.wanted())
    assert (drained.states()[1], drained.registry.settled(new)) == ((2, "failed"), True)


def test_a_worker_that_ends_while_others_still_load_has_to_load_it_again(drained: Drained) -> None:
    old = drained.add()
    drained.ready(old)
    new = drained.add()
    drained.ready(new, 0)
    drained.registry.lost(0)
    drained.ready(new, 1)
    assert (drained.serves(), drained.registry.settled(new)) == (1, False)
    drained.registry.told(0, [old, new])
    drained.registry.failed(0, new, "No memory.")
    assert (drained.serves(), drained) == (1, [new])


def test_a_worker_that_ends_before_it_drops_what_was_given_up_holds_it_no_more(drained: Drained) -> None:
    drained.ready(drained.add())
    new = drained.add()
    drained.ready(new, 0)
    drained.registry.failed(1, new, "No memory.")
    drained.registry.lost(0)
    assert (drained.registry.held_by(0), drained.states()[1]) == ([], (2, "failed"))


@pytest.mark.parametrize("works", [True, False])
def test_what_is_about_to_be_replaced_is_not_put_out(drained: Drained, works: bool) -> None:
    old = drained.add()
    drained.ready(old)
    drained.registry.point("kept", "m", "1")
    assert drained.registry.held()[old].idle
    new = drained.add()
    assert not drained.registry.held()[old].idle, "its place would be taken by what is loaded from the old file"
    if works:
        drained.ready(new, version="2")
    else:
        drained.registry.failed(0, new, "No memory.")
        drained.registry.failed(1, new, "No memory.")
    assert drained.registry.held()[old].idle


def test_whoever_began_with_a_version_that_is_given_up_is_answered(drained: Drained) -> None:
    drained.ready(drained.add())
    new = drained.add()
    drained.ready(new, 1, version="2")
    with drained.registry.lease("m", "2"):
        drained.registry.failed(0, new, "No memory.")
        assert (drained, drained.registry.held_by(1)[-1]) == ([], new)
        with pytest.raises(UnknownVersion):
            drained.registry.find("m", "2")
    assert drained == [new]


def test_with_no_older_version_that_answers_those_that_can_load_it_do(drained: Drained) -> None:
    first = drained.add()
    drained.registry.failed(0, first, "no memory")
    drained.registry.failed(1, first, "no memory")
    new = drained.add()
    drained.registry.failed(0, new, "no memory")
    drained.ready(new, 1)
    assert drained.serves() == 2


def test_a_version_that_a_worker_was_loading_when_it_died_waits_for_its_replacement(drained: Drained) -> None:
    drained.ready(drained.add())
    new = drained.add()
    drained.ready(new, 1)
    drained.registry.lost(0)
    assert (drained.serves(), drained.registry.settled(new), drained.registry.is_loading("m")) == (1, False, True)
    assert drained.registry.versions("m")[1].progress < 1
    drained.registry.told(0, [key for key, _ in drained.registry.wanted()])
    drained.ready(new, 0)
    assert (drained.serves(), drained.registry.settled(new), drained.registry.is_loading("m")) == (2, True, False)


def test_a_version_that_fails_leaves_the_old_one_serving_and_is_not_tried_again(drained: Drained) -> None:
    old = drained.add()
    drained.ready(old)
    new = drained.add()
    for worker in (0, 1):
        drained.registry.failed(worker, new, "other classes")
    assert (drained.serves(), drained.states()) == (1, [(1, "ready"), (2, "failed")])
    assert [key for key, _ in drained.registry.wanted()] == [old]
    assert drained.registry.versions("m")[1].reason == "other classes"
    for worker in (0, 1):
        drained.registry.lost(worker)
        assert [key for key, _ in drained.registry.wanted()] == [old]
    assert drained.states() == [(1, "loading"), (2, "failed")]


def test_a_version_that_one_worker_still_loads_is_not_given_up(drained: Drained) -> None:
    drained.ready(drained.add())
    new = drained.add()
    drained.registry.failed(0, new, "no memory")
    assert new in dict(drained.registry.wanted())
    drained.registry.lost(0)
    drained.registry.told(0, [new])
    drained.ready(new)
    assert drained.serves() == 2


def test_a_version_serves_what_began_with_it_and_goes_after(drained: Drained) -> None:
    old = drained.add()
    drained.ready(old)
    with drained.registry.lease("m") as first, drained.registry.lease("m"):
        new = drained.add()
        drained.ready(new)
        assert (first.revision, drained.serves(), drained) == (1, 2, [])
        # A worker that is started meanwhile needs it, too.
        assert [key for key, _ in drained.registry.wanted()] == [old, new]
        with drained.registry.lease("m") as second:
            assert second.revision == 2
    assert drained == [old]
    assert [key for key, _ in drained.registry.wanted()] == [new]


def test_the_latest_of_several_replacements_counts(drained: Drained) -> None:
    drained.ready(drained.add())
    second, third = drained.add(), drained.add()
    assert drained == [second]
    drained.ready(third)
    drained.ready(second)
    assert drained.serves() == 3
    for worker in (0, 1):
        for key in drained:
            drained.registry.unloaded(worker, key)
    assert drained.states() == [(3, "ready")]


def test_a_model_that_is_removed_is_unknown_at_once_and_goes_when_its_requests_have(drained: Drained) -> None:
    key = drained.add()
    drained.ready(key)
    with drained.registry.lease("m"):
        drained.registry.remove("m")
        with pytest.raises(UnknownModel):
            drained.registry.status("m")
        assert (drained, drained.states()) == ([], [(1, "draining")])
    assert drained == [key]
    drained.registry.lost(0)
    drained.registry.lost(1)
    assert drained.states() == []
    again = drained.add()
    drained.ready(again)
    assert drained.serves() == 2


def test_what_a_lost_worker_held_is_held_no_more(drained: Drained) -> None:
    key = drained.add()
    drained.ready(key)
    drained.registry.lost(0)
    assert drained.serves() == 1
    drained.registry.lost(1)
    assert drained.registry.status("m").state == "loading"
    assert drained.registry.missing(1) == []


def test_a_label_is_that_of_the_weights_and_until_then_the_configured_one(drained: Drained) -> None:
    key = drained.registry.add(config(version="mine"))
    drained.registry.told(0, [key])
    assert [each.version for each in drained.registry.versions("m")] == ["mine"]
    drained.ready(key, 0, version="IMAGENET1K_V2")
    assert [each.version for each in drained.registry.versions("m")] == ["IMAGENET1K_V2"]


def test_workers_load_in_the_order_in_which_they_were_told(drained: Drained) -> None:
    keys = [drained.registry.add(config(name)) for name in ("a", "b", "c")]
    drained.registry.told(0, reversed(keys))
    assert [key.name for key in drained.registry.missing(0)] == ["c", "b", "a"]
    drained.ready(keys[2], 0)
    drained.registry.failed(0, keys[0], "no")
    assert [key.name for key in drained.registry.missing(0)] == ["b"]


STEPS = st.lists(st.tuples(st.sampled_from(["add", "ready", "failed", "lost", "lease", "return"]), st.integers(0, 9)))


@given(STEPS)
def test_whatever_happens_a_leased_version_is_kept_and_a_name_never_points_backwards(
    steps: list[tuple[str, int]],
) -> None:
    drained = Drained()
    drained.ready(drained.add())
    leases, latest = [], 1
    for step, n in steps:
        versions = drained.registry.versions("m")
        key, worker = versions[n % len(versions)].key, n % 2
        if step == "add":
            drained.add()
        elif step == "ready" and worker in drained.registry.involved(key):
            drained.ready(key, worker)
        elif step == "failed" and key in drained.registry.missing(worker):
            drained.registry.failed(worker, key, "no")
        elif step == "lost":
            drained.registry.lost(worker)
            drained.registry.told(worker, [wanted for wanted, _ in drained.registry.wanted()])
        elif step == "lease" and drained.serves():
            lease = drained.registry.lease("m")
            leases.append((lease.__enter__().key, lease))
        elif step == "return" and leases:
            leases.pop(n % len(leases))[1].__exit__(None, None, None)
        assert not {key for key, _ in leases} & set(drained)
        assert {key for key, _ in leases} <= {each.key for each in drained.registry.versions("m")}
        serves = drained.serves() or latest
        assert serves >= latest
        latest = serves
    assert len(set(drained)) == len(drained), "nothing is dismissed twice"


def test_another_digest_under_the_same_label_is_told_apart(drained: Drained) -> None:
    for digest, label in (("a" * 64, "1"), ("b" * 64, "1+bbbbbbbb"), ("a" * 64, "1"), ("b" * 64, "1+bbbbbbbb")):
        key = drained.add()
        for worker in (0, 1):
            drained.registry.loaded(worker, key, replace(known(key), digest=digest))
        found = drained.registry.status("m").info
        assert found is not None
        assert found.version == label


def test_workers_that_found_different_weights_do_not_answer_as_one_version(drained: Drained) -> None:
    key = drained.add()
    for worker, digest in enumerate(("a", "b")):
        drained.registry.loaded(worker, key, replace(known(key), digest=digest))
    assert (drained.registry.holds(0, key), drained.registry.holds(1, key)) == (True, False)
    drained.registry.lost(0)
    drained.registry.told(0, [key])
    drained.registry.loaded(0, key, replace(known(key), digest="b"))
    assert drained.registry.holds(0, key), "nobody answers with the others any more"
