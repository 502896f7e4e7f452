"""``python -m benchmarks.peers.around_gradcam.plain_fastapi ARCHITECTURE PORT``: what most write first.

A ``def`` route runs in FastAPI's threads. Hooks are the model's, not the thread's, so a lock lets one compute; the
others decode meanwhile.
"""

from __future__ import annotations

import sys
from threading import Lock
from typing import Any

import uvicorn
from fastapi import FastAPI, UploadFile

from benchmarks.peers.around_gradcam.explaining import Explaining


def make_app(architecture: str) -> FastAPI:
    app, explaining, computing = FastAPI(), Explaining(architecture), Lock()

    @app.post("/explain")
    def explain(image: UploadFile) -> dict[str, Any]:
        inputs = explaining.prepared(image.file.read())
        with computing:
            [answer] = explaining.answers([inputs])
        return answer

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]), log_level="warning")
