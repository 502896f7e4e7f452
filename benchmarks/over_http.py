"""What the service adds around the model, over a real socket. Needs no data but the embedded scenes."""

from __future__ import annotations

import asyncio
import io
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import numpy as np
from PIL import Image

from benchmarks.timing import medians
from service.demo.scenes import make_scene
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODEL = "--model=squeezenet1_0:random"
_ROUNDS = 60


def scene_jpeg(width: int = 500, height: int = 375) -> bytes:
    scene = make_scene(np.random.default_rng(0), size=(width, height))
    stream = io.BytesIO()
    Image.fromarray(scene.pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def start_of_the_front() -> Iterator[str]:
    """From the start of the process to the first answer of /livez, and to the first model."""
    for _ in range(3):
        began = time.perf_counter()
        with running_server("--log-level=warning", wait=False) as server:
            httpx.get(f"{server.url}/livez").raise_for_status()
            alive = time.perf_counter() - began
            while httpx.get(f"{server.url}/readyz").status_code != 200:
                time.sleep(0.02)
            ready = time.perf_counter() - began
        yield f"/livez answers {alive:.2f} s after the start, the first model {ready:.2f} s"
    code = "import sys; import service.web.app; print('torch' in sys.modules)"
    loads = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    yield f"import service.web.app loads torch: {loads}"


def time_outside_the_model() -> Iterator[str]:
    """A 500×375 JPEG, SqueezeNet 1.0: the server's total less the model's share."""
    picture = scene_jpeg()
    with running_server(_MODEL, "--log-level=warning") as server, httpx.Client(base_url=server.url) as client:
        for output in ("heatmap", "overlay"):
            outside, compute = [], []
            for _ in range(_ROUNDS):
                files = {"image": ("scene.jpg", picture, "image/jpeg")}
                answer = client.post("/api/v1/explain", files=files, data={"output": output}).raise_for_status()
                timing = answer.json()["timing"]
                outside.append(timing["total_ms"] - timing["compute_ms"])
                compute.append(timing["compute_ms"])
            yield (
                f"500×375 JPEG, SqueezeNet 1.0, {output}: {statistics.median(outside):.1f} ms outside the model, "
                f"{statistics.median(compute):.1f} ms in it"
            )


def batched_against_one_by_one() -> Iterator[str]:
    """24 pictures posted at once against the same 24 one after the other."""
    picture = scene_jpeg()
    with running_server(_MODEL, "--log-level=warning") as server:

        def lone() -> None:
            with httpx.Client(base_url=server.url) as client:
                for _ in range(24):
                    _post(client)

        def _post(client: httpx.Client) -> None:
            client.post("/api/v1/explain", files={"image": picture}).raise_for_status()

        async def together() -> None:
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
                posts = [client.post("/api/v1/explain", files={"image": picture}) for _ in range(24)]
                for answer in await asyncio.gather(*posts):
                    answer.raise_for_status()

        times = medians({"lone": lone, "together": lambda: asyncio.run(together())}, rounds=7)
        yield (
            f"24 pictures, SqueezeNet 1.0: at once {times['together'] * 1000:.0f} ms, "
            f"{times['together'] / times['lone']:.2f} × one by one"
        )
