"""Models change under load, on a real server: nobody is failed, no answer mixes versions, memory stays."""

from __future__ import annotations

import base64
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import service.demo
from tests.server import running_server
from tests.toys import png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.server import Server

SHAPES = Path(service.demo.__file__).parent / "shapes.safetensors"
MODELS = "/api/v1/models"
NETS = """
import torch
from torch import nn

from service.models.shapes_net import ShapesNet

def build():
    return ShapesNet(num_classes=12)

def heavy():
    network = build()
    network.ballast = nn.Parameter(torch.ones(60_000_000))
    return network

def quick():
    # As heavy as the others, and computed in no time, so that fifty of it are loaded in a minute.
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    network = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    network.ballast = nn.Parameter(torch.ones(400_000))
    return network

def deadly(how):
    import ctypes, os, signal, sys
    {
        "exits": lambda: os._exit(1),
        "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "crashes": lambda: ctypes.string_at(0),
        "calls sys.exit": lambda: sys.exit(3),
    }[how]()

def deadly_in_workers():
    # The process that tries models comes first, and leaves a file behind.
    import os, pathlib
    tried = pathlib.Path(__file__).with_name("tried")
    if tried.exists():
        os._exit(5)
    tried.touch()
    return build()

def deadly_later():
    network = build()
    network.register_forward_hook(lambda *_: __import__("os")._exit(4))
    return network
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of weights for one architecture."""
    state = load_file(SHAPES)
    save_file(state, tmp_path / "a.safetensors")
    changed = {name: np.asarray(value * 0.9, value.dtype) for name, value in state.items()}
    save_file(changed, tmp_path / "b.safetensors")
    (tmp_path / "swap_nets.py").write_text(NETS, encoding="utf-8")
    return tmp_path


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = (
        "--device",
        "cpu",
        "--model",
        "shapes",
        "--management",
        "--management-modules",
        "swap_nets",
        "--model-dirs",
        str(folder),
        "--request-timeout-s",
        "300",
    )
    with running_server(*options) as server:
        yield server


def put(client: httpx.Client, weights: str, name: str = "m") -> dict[str, Any]:
    body = {"architecture": "swap_nets.build", "weights": weights, "size": 96}
    response = client.put(f"{MODELS}/{name}", params={"wait": 100}, json=body, timeout=120)
    assert response.status_code == 200, response.text
    entry: dict[str, Any] = response.json()
    return entry


def explained(client: httpx.Client, name: str = "m") -> tuple[str, bytes]:
    response = client.post(f"{MODELS}/{name}/explain", params={"output": "map"}, files={"image": png(size=(96, 96))})
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer["model"]["version"], base64.b64decode(answer["results"][0]["explanations"][0]["map"]["data"])


def same(found: bytes, reference: bytes) -> bool:
    return np.allclose(np.frombuffer(found, "<f4"), np.frombuffer(reference, "<f4"), rtol=1e-3, atol=1e-4)


def refuse(client: httpx.Client, name: str = "m", **body: Any) -> str:
    """Put what cannot be loaded; return why."""
    refused = client.put(f"{MODELS}/{name}", params={"wait": 100}, json=body, timeout=120).json()
    assert refused["code"] == "model_load_failed"
    return str(refused["detail"])


class Crowd:
    """Clients that ask one after the other, and what became of it."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, bytes]] = []
        self.failed: list[BaseException] = []
        self.stop = threading.Event()

    def ask(self, url: str) -> None:
        with httpx.Client(base_url=url, timeout=400) as client:
            while not self.stop.is_set():
                try:
                    self.answers.append(explained(client))
                except BaseException as error:  # noqa: BLE001  # whatever it is, the test names it
                    self.failed.append(error)

    def go_on(self) -> None:
        """Wait for some more answers."""
        before = len(self.answers)
        while len(self.answers) < before + 8 and not self.failed:
            time.sleep(0.01)


@contextmanager
def asked(server: Server) -> Iterator[Crowd]:
    """Ask a server from four threads for as long as the block takes."""
    crowd = Crowd()
    threads = [threading.Thread(target=crowd.ask, args=(server.url,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield crowd
    finally:
        crowd.stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
@pytest.mark.alone
def test_a_swap_under_load_fails_nobody_and_mixes_nothing(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        references: dict[str, bytes] = {}
        for weights in ("b.safetensors", "a.safetensors"):
            put(client, weights)
            version, reference = explained(client)
            references[version] = reference
        one, two = references.values()
        assert not same(one, two), "the versions can be told apart"
        with asked(server) as crowd:
            for weights in ("b.safetensors", "missing.safetensors", "a.safetensors", "b.safetensors"):
                if weights.startswith("missing"):
                    refuse(client, architecture="swap_nets.build", weights=weights)
                else:
                    put(client, weights)
                crowd.go_on()
    assert crowd.failed == []
    assert {version for version, _ in crowd.answers} == set(references)
    assert [version for version, found in crowd.answers if not same(found, references[version])] == []


@pytest.mark.slow
@pytest.mark.alone
def test_a_version_that_kills_whoever_loads_it_fails_nobody_and_says_how(server: Server) -> None:
    """Code of a model that ends its process when it is loaded, or when it first computes: the old version answers."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        put(client, "a.safetensors")
        version, _ = explained(client)
        pids = _workers(client)
        with asked(server) as crowd:
            reasons = {}
            for how in ("exits", "is killed", "crashes", "calls sys.exit"):
                reasons[how] = refuse(client, architecture="swap_nets.deadly", factory_args={"how": how})
                crowd.go_on()
            reasons["later"] = refuse(client, architecture="swap_nets.deadly_later", size=96)
            crowd.go_on()
            reasons["new"] = refuse(client, "another", architecture="swap_nets.deadly", factory_args={"how": "exits"})
            crowd.go_on()
        states = {name: client.get(f"{MODELS}/{name}").json()["versions"][-1]["state"] for name in ("m", "another")}
        assert _workers(client) == pids, "no worker was replaced"
    assert crowd.failed == []
    assert {found for found, _ in crowd.answers} == {version}
    assert states == {"m": "failed", "another": "failed"}
    for how, said in {
        "exits": "exited with code 1",
        "is killed": "killed by SIGKILL",
        "crashes": "killed by SIGSEGV",
        "calls sys.exit": "SystemExit: 3",
        "later": "exited with code 4",
        "new": "exited with code 1",
    }.items():
        assert said in reasons[how]


@pytest.mark.slow
@pytest.mark.alone
def test_a_version_that_ends_the_only_worker_fails_nobody(server: Server) -> None:
    """It could be loaded aside: the old version goes with the worker and comes back, and whoever asks waits."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        put(client, "a.safetensors")
        version, _ = explained(client)
        pids = _workers(client)
        with asked(server) as crowd:
            crowd.go_on()
            reason = refuse(client, architecture="swap_nets.deadly_in_workers", size=96)
            crowd.go_on()
        assert _workers(client) != pids
    assert "exited with code 5" in reason
    assert crowd.failed == []
    assert {found for found, _ in crowd.answers} == {version}


@pytest.mark.slow
@pytest.mark.alone
def test_a_watched_folder_is_followed_under_load(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file that comes, is written slowly, is exchanged at once, is damaged, and goes, on a real server."""
    watched = tmp_path_factory.mktemp("watched")
    (watched / "m.toml").write_text('architecture = "swap_nets.build"\nsize = 96')
    shutil.copy(folder / "a.safetensors", watched / "m.safetensors")
    patched = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    options = ("--device", "cpu", "--model", "shapes", "--management-modules", "swap_nets", "--watch", str(watched))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in patched.items():
            patch.setenv(name, value)
        with running_server(*options) as server, httpx.Client(base_url=server.url, timeout=60) as client:
            one, first = explained(client)
            with asked(server) as crowd:
                content = (folder / "b.safetensors").read_bytes()
                with (watched / "m.safetensors").open("wb") as stream:
                    for at in range(0, len(content), len(content) // 6 + 1):  # a moment more than it is looked at
                        stream.write(content[at : at + len(content) // 6 + 1])
                        stream.flush()
                        time.sleep(0.5)
                two = until_version(client, lambda version: version != one)
                states = {each["state"] for each in client.get(f"{MODELS}/m").json()["versions"]}
                crowd.go_on()
                (watched / "m.safetensors").write_bytes(content[:1000])
                until_failed(client)
                crowd.go_on()
                shutil.copy(folder / "a.safetensors", watched / ".m.safetensors.part")
                (watched / ".m.safetensors.part").rename(watched / "m.safetensors")
                assert until_version(client, lambda version: version != two) == one
                crowd.go_on()
            references = {one: first}
            assert crowd.failed == []
            references[two] = next(found for version, found in crowd.answers if version == two)
            assert not same(references[one], references[two])
            assert [version for version, found in crowd.answers if not same(found, references[version])] == []
            assert "failed" not in states, "what was half written was waited for"
            for file in ("m.toml", "m.safetensors"):
                (watched / file).unlink()
            gone = time.monotonic() + 30
            while client.get(f"{MODELS}/m").status_code != 404:
                assert time.monotonic() < gone
                time.sleep(0.2)


def until_version(client: httpx.Client, wanted: Callable[[str], bool]) -> str:
    """Wait for a model to answer with another version; return which."""
    end = time.monotonic() + 60
    while not wanted(version := explained(client)[0]):
        assert time.monotonic() < end
        time.sleep(0.2)
    return version


def until_failed(client: httpx.Client) -> None:
    end = time.monotonic() + 60
    while (last := client.get(f"{MODELS}/m").json()["versions"][-1])["state"] != "failed":
        assert time.monotonic() < end
        time.sleep(0.2)
    assert "m.safetensors" in last["reason"]


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * 4096


def _workers(client: httpx.Client) -> list[int]:
    return [worker["pid"] for worker in client.get("/readyz").json()["workers"]]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1200)
def test_fifty_reloads_leave_memory_as_it_is(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        body = {"architecture": "swap_nets.quick", "size": 32}
        assert client.put(f"{MODELS}/m", params={"wait": 60}, json=body, timeout=90).status_code == 200
        pids = [*_workers(client), server.process.pid]
        held: list[list[int]] = []
        for count in range(50):
            response = client.post(f"{MODELS}/m/reload", params={"wait": 60}, timeout=90)
            assert response.status_code == 200, response.text
            explained(client)
            if count >= 19:
                held.append([_resident(pid) for pid in pids])
        assert _workers(client) == pids[:-1], "no worker was replaced"
        assert len(client.get(f"{MODELS}/m").json()["versions"]) == 1
    for early, late in zip(held[0], held[-1], strict=True):
        assert late - early < 16 * 2**20, f"30 reloads took {(late - early) / 2**20:.1f} MiB"


@pytest.mark.slow
@pytest.mark.alone
def test_what_is_put_out_gives_its_memory_back_and_comes_again(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        [pid] = _workers(client)
        body = {"architecture": "swap_nets.heavy", "size": 96}
        loaded = client.put(f"{MODELS}/large", params={"wait": 110}, json=body)
        assert loaded.status_code == 200, loaded.text
        weights = loaded.json()["parameters"] * 4
        with_it = _resident(pid)
        assert client.post(f"{MODELS}/large/unload").json()["state"] == "unloaded"
        assert with_it - _resident(pid) > 0.8 * weights
        response = client.post(f"{MODELS}/large/predict", files={"image": png(size=(96, 96))})
        assert response.status_code == 200, response.text
