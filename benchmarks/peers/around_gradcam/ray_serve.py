"""``python -m benchmarks.peers.around_gradcam.ray_serve ARCHITECTURE PORT``: Ray Serve, with its batches.

After https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html. A batch is computed in a thread, so that
the replica takes requests meanwhile, and as many may be under way as two batches hold.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any

import ray
from ray import serve

from benchmarks.peers.around_gradcam.explaining import MAX_BATCH, Explaining

if TYPE_CHECKING:
    from starlette.requests import Request


class Explainer:
    def __init__(self, architecture: str) -> None:
        self._explaining = Explaining(architecture)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.01)  # type: ignore[untyped-decorator]
    async def explain(self, contents: list[bytes]) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._explained, contents)

    def _explained(self, contents: list[bytes]) -> list[dict[str, Any]]:
        return self._explaining.answers([self._explaining.prepared(content) for content in contents])

    async def __call__(self, request: Request) -> dict[str, Any]:
        form = await request.form()
        found: dict[str, Any] = await self.explain(await form["image"].read())  # type: ignore[union-attr]
        return found


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, logging_level="warning")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])}, logging_config={"log_level": "WARNING"})
    deployed = serve.deployment(ray_actor_options={"num_cpus": 2}, max_ongoing_requests=4 * MAX_BATCH)(Explainer)
    serve.run(deployed.bind(sys.argv[1]), route_prefix="/explain")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        signal.pause()
    finally:
        serve.shutdown()
        ray.shutdown()
