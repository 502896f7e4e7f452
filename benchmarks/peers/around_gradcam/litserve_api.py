"""``python -m benchmarks.peers.around_gradcam.litserve_api ARCHITECTURE PORT``: LitServe, with its batches.

After https://lightning.ai/docs/litserve/features/batching: ``decode_request`` for each, ``predict`` for a batch.
"""

import sys
from typing import Any

import litserve
from fastapi import Request
from torch import Tensor

from benchmarks.peers.around_gradcam.explaining import MAX_BATCH, Explaining


class ExplainAPI(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, architecture: str) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=0.01)
        self._architecture = architecture

    def setup(self, device: str) -> None:  # noqa: ARG002  # there is but the CPU
        self._explaining = Explaining(self._architecture)

    def decode_request(self, request: Request) -> Tensor:
        return self._explaining.prepared(request["image"].file.read())  # a form is given as what it holds

    def batch(self, inputs: list[Tensor]) -> list[Tensor]:
        return inputs

    def predict(self, batch: list[Tensor]) -> list[dict[str, Any]]:
        return self._explaining.answers(batch)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(ExplainAPI(sys.argv[1]), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
