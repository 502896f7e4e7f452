"""A batch in parts has the answers that it has whole, whoever computes beside it, and only where parts pay."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.cam.explain import explain
from service.cam.folding import FoldedNetwork
from service.cam.targets import Targets, Top
from service.errors import InternalError
from service.evaluation.asked import Arm
from service.evaluation.in_process import InProcess
from service.models import side_by_side
from service.models.fair_lock import FairLock
from service.models.host import HowTo
from service.models.info import Computing
from service.models.side_by_side import SideBySide, Whole
from tests.cam.models import images, layers_of
from tests.cam.test_folding import Net, quick
from tests.cores import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from service.cam.network import Network
    from tests.models.conftest import LoadToy

ROWS = 7
BATCH = images(ROWS)
PIXELS = np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8, 3), dtype=np.uint8)
HOW, TARGETS = HowTo(("relu",), ("gradcam",)), [Targets((Top(1),))] * ROWS


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    with threads(3):
        yield


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let parts pay, however quick this machine and the network are."""
    monkeypatch.setattr(side_by_side, "_QUICK_S", 0.0)
    monkeypatch.setattr(side_by_side, "_ratio", lambda *_: 0.5)


def beside(network: FoldedNetwork) -> SideBySide:
    return SideBySide.where_it_pays(network, BATCH, FairLock())


def why_not() -> str:
    with pytest.raises(Whole) as told:
        beside(quick(Net()))
    return str(told.value)


# -- twins ------------------------------------------------------------------------------------------------------------


def test_a_twin_has_the_same_weights_in_modules_of_its_own() -> None:
    network = quick(Net())
    network.predict(BATCH)  # which lays weights out
    twin = network.twin(BATCH[:1])
    assert twin is not None
    assert twin.own_module is not network.own_module
    for one, other in zip(network.own_module.parameters(), twin.own_module.parameters(), strict=True):
        assert one is other
    (fold,), (twins,) = network._folds, twin._folds
    assert fold is not twins
    assert twins.convolution is twin.own_module.get_submodule("conv")
    assert {id(each) for each in fold.tensors} == {id(each) for each in twins.tensors}
    assert torch.equal(twin.predict(BATCH), network.predict(BATCH))


def test_twins_compute_at_once_as_one_alone() -> None:
    network = quick(Net())
    twin = network.twin(BATCH[:1])
    assert twin is not None
    layers = layers_of(network.own_module, "conv", "relu")
    batches = [images(3) * scale for scale in (1, 2)]

    def of(network: Network, batch: Tensor) -> list[Tensor]:
        answers = explain(network, batch, [Targets((1, 2))] * 3, layers, ["gradcam", "activation"])
        return [raw.values for answer in answers for raw in answer.maps]

    expected = [of(network, batch) for batch in batches]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(40):
            begun = [threads.submit(of, *each) for each in zip((network, twin), batches, strict=True)]
            for found, wanted in zip(begun, expected, strict=True):
                torch.testing.assert_close(found.result(), wanted, rtol=0, atol=0)


class Uncopied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Kept(Net):
    """It keeps a table that is no parameter, larger than all of these."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = table


class Buffered(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(10_000))


class Itself(nn.ReLU):
    """Whoever copies it gets it itself."""

    def __deepcopy__(self, memo: object) -> Itself:
        return self


class Sharing(Net):
    def __init__(self) -> None:
        super().__init__()
        self.relu = Itself()


class Closing(Net):
    """Its code calls the modules that were there when it was made."""

    def __init__(self) -> None:
        super().__init__()
        bn, conv = self.bn, self.conv

        def features(x: Tensor) -> Tensor:
            found: Tensor = bn(conv(x))
            return found

        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.features(x))


class Handle:
    def __init__(self) -> None:
        self.is_open = True

    def __del__(self) -> None:
        self.is_open = False


def test_what_is_listened_to_has_no_twin() -> None:
    net = Net()
    net.head.register_forward_hook(lambda *_: None)
    assert quick(net).twin(BATCH[:1]) is None


@pytest.mark.parametrize(
    "make",
    [
        Uncopied,
        Buffered,
        lambda: Kept(torch.zeros(10_000)),
        lambda: Kept(np.zeros(10_000)),
        lambda: Kept(Handle()),
        lambda: Kept({"file": Handle()}),
        Sharing,
        Closing,
    ],
)
def test_what_cannot_be_copied_or_stays_with_the_original_has_no_twin(make: Callable[[], nn.Module]) -> None:
    network = quick(make())
    assert network.twin(BATCH[:1]) is None
    assert torch.equal(network.predict(BATCH), network.predict(BATCH))


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("always")
def test_parts_have_a_network_and_a_thread_each_and_all_rows_in_order() -> None:
    network = quick(Net())
    parts = beside(network)
    seen: list[tuple[Network, int, int]] = []

    def compute(own: Network, rows: slice) -> list[int]:
        all_here.wait(60)  # all at once, or this fails
        seen.append((own, threading.get_ident(), torch.get_num_threads()))
        return list(range(rows.start, rows.stop))

    all_here = threading.Barrier(3)
    assert parts.compute(ROWS, compute) == list(range(ROWS))
    networks, threads, cores = zip(*seen, strict=True)
    assert network in networks
    assert len(set(map(id, networks))) == len(set(threads)) == 3
    assert cores == (1, 1, 1)


@pytest.mark.usefixtures("always")
def test_other_threads_keep_their_cores() -> None:
    beside(quick(Net()))
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 3


@pytest.mark.usefixtures("always")
def test_what_a_part_raises_is_raised_when_all_have_ended() -> None:
    ended = []

    def compute(_own: Network, rows: slice) -> Sequence[int]:
        if not rows.start:
            raise InternalError("the first one failed")
        ended.append(rows.stop)
        return [0]

    with pytest.raises(InternalError, match="the first one failed"):
        beside(quick(Net())).compute(ROWS, compute)
    assert sorted(ended) == [4, ROWS]


# -- where they pay ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("always")
def test_what_is_slower_in_parts_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "_ratio", lambda *_: 1.2)
    assert why_not() == "In 3 parts, 7 pictures take 1.20 × as long."


def test_what_is_quick_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "_QUICK_S", 100.0)
    monkeypatch.setattr(FoldedNetwork, "twin", None)
    assert re.fullmatch(r"7 pictures take \d+ ms together, which is quick enough\.", why_not())


@pytest.mark.usefixtures("always")
def test_what_cannot_be_copied_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FoldedNetwork, "twin", lambda *_: None)
    assert why_not() == "Its modules cannot be copied so that two threads could compute with them."


@pytest.mark.parametrize(("count", "why"), [(1, "There is one thread."), (9, "There are more than 8 threads.")])
@pytest.mark.usefixtures("always")
def test_one_core_or_very_many_compute_whole_batches(count: int, why: str) -> None:
    with threads(count):
        assert why_not() == why


@pytest.mark.usefixtures("always")
def test_a_twin_that_computes_something_else_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = Net()
    other.head.bias.data += 1
    monkeypatch.setattr(FoldedNetwork, "twin", lambda _self, _image: quick(other))
    assert why_not() == "In parts, its logits would be others."
    assert "not computed in parts" in caplog.text


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ValueError("no more than one of me."), "In parts, it raises an error. ValueError: no more than one of me."),
        (SystemExit(2), "In parts, it raises an error. SystemExit: 2."),
    ],
)
@pytest.mark.usefixtures("always")
def test_what_raises_in_parts_stays_whole(error: BaseException, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(_self: SideBySide, _inputs: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(SideBySide, "predict", raises)
    assert why_not() == why


@pytest.mark.usefixtures("always")
def test_others_compute_between_the_passes_that_are_measured(
    load_toy: LoadToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = load_toy(Net())
    between, answered = threading.Event(), threading.Event()

    def ratio(*_: object) -> float:
        between.set()
        assert answered.wait(30)
        return 0.5

    monkeypatch.setattr(side_by_side, "_ratio", ratio)
    with ThreadPoolExecutor(1) as beside_it:
        trying = beside_it.submit(host.compute_in_parts)
        assert between.wait(30)
        host.predict(PIXELS)
        answered.set()
        trying.result(30)
    assert host._parts is not None


def test_rounds_take_a_second_and_the_quickest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, clock = iter([4.0, 2.0, 3.0, 1.0, 9.0, 5.0]), iter([0.0, 0.3, 0.9, 1.1])
    monkeypatch.setattr(side_by_side, "_seconds", lambda *_: next(seconds))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert side_by_side._ratio(lambda: None, lambda: None, FairLock()) == 3.0
    assert next(seconds, None) is None


# -- a model ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("always")
def test_a_model_answers_in_parts_as_whole(load_toy: LoadToy, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, host = load_toy(Net()), load_toy(Net())
    host.compute_in_parts()
    sizes: list[int] = []
    compute = SideBySide.compute

    def noted(self: SideBySide, rows: int, *args: Any) -> Any:
        sizes.append(rows)
        return compute(self, rows, *args)

    monkeypatch.setattr(SideBySide, "compute", noted)
    (maps,) = InProcess(host).maps(PIXELS, [[1]] * ROWS, [Arm("relu", "gradcam")])
    assert sizes.pop() == len(maps) == ROWS
    torch.testing.assert_close(host.predict(PIXELS), whole.predict(PIXELS))
    expected, found = (each.explain(PIXELS, TARGETS, HOW, gives_way=False) for each in (whole, host))
    assert sizes == [ROWS, ROWS]
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other.logits, one.logits)
        torch.testing.assert_close(other.maps[0].values, one.maps[0].values)


@pytest.mark.usefixtures("always")
def test_what_is_small_or_large_or_of_another_network_is_computed_whole(
    load_toy: LoadToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = load_toy(Net())
    host.compute_in_parts()
    monkeypatch.setattr(SideBySide, "compute", None)
    host.predict(PIXELS[:5])
    host.explain(PIXELS[:5], TARGETS[:5], HOW, gives_way=False)
    host.explain(PIXELS, TARGETS, HOW)
    host.explain(PIXELS, TARGETS, HowTo(("relu",), ("gradcam",), random_head=1), gives_way=False)


def test_a_network_that_is_not_folded_is_computed_whole(load_toy: LoadToy) -> None:
    host = load_toy(nn.Sequential(nn.AvgPool2d(1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert host.info.computing == Computing(unfolded="It has no plain convolution that would be computed sooner.")
    host.compute_in_parts()
    assert host._parts is None
    assert (host.info.computing.parts, host.info.computing.whole) == (1, "It is not folded.")


class Moody(Net):
    """Normalises bright pictures otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        features = self.bn(features) if x.mean() < 1 else features + self.bn(features)
        logits: Tensor = self.head(self.relu(features).mean((2, 3)))
        return logits


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("rows", [1, ROWS])
def test_a_model_says_how_it_is_computed_and_when_that_changes(load_toy: LoadToy, rows: int) -> None:
    host = load_toy(Moody())
    assert host.info.computing == Computing(folded=True)
    host.compute_in_parts()
    assert host.info.computing == Computing(folded=True, parts=3)
    bright = np.full((rows, 8, 8, 3), 255, np.uint8)
    host.predict(bright // 9)
    assert not host.note_straying()
    host.predict(bright)
    assert host.note_straying()
    why = "Its code did something else for a picture than when it was loaded."
    assert host.info.computing == Computing(folded=False, unfolded=why, parts=3)
    assert not host.note_straying(), "it is told once"


class Single(Net):
    """Computes the same of several pictures in another way."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        features = self.bn(features) + features * 0 if len(x) > 1 else self.bn(features)
        logits: Tensor = self.head(self.relu(features).mean((2, 3)))
        return logits


def test_a_model_that_strays_while_it_is_loaded_is_not_called_folded(load_toy: LoadToy) -> None:
    computing = load_toy(Single()).info.computing
    assert (computing.folded, bool(computing.unfolded)) == (False, True)


class Wrapped(Net):
    """Puts its only output into a dict."""

    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x)}


def test_one_output_in_a_dict_is_not_called_several(load_toy: LoadToy) -> None:
    assert load_toy(Wrapped()).info.computing == Computing(unfolded="Its output is no plain tensor.")


class Binary(Net):
    """Has one logit."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 1)


@pytest.mark.usefixtures("always")
def test_a_network_of_one_logit_is_computed_in_parts_too(load_toy: LoadToy) -> None:
    torch.manual_seed(0)
    net = Binary()
    whole, host = load_toy(net), load_toy(net)
    host.compute_in_parts()
    assert host.info.computing == Computing(folded=True, parts=3)
    torch.testing.assert_close(host.predict(PIXELS), whole.predict(PIXELS))
    expected, found = (each.explain(PIXELS, TARGETS, HOW, gives_way=False) for each in (whole, host))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other.logits, one.logits)
        torch.testing.assert_close(other.maps[0].values, one.maps[0].values)
