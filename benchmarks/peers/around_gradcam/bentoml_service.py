"""``bentoml serve benchmarks.peers.around_gradcam.bentoml_service:ResNet50`` (or ``:SqueezeNet``): BentoML, batching.

After https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html: a batchable API takes and gives lists.
"""

from typing import Any

import bentoml
from PIL.Image import Image

from benchmarks.peers.around_gradcam.explaining import MAX_BATCH, Explaining


class _Explainer:
    architecture: str

    def __init__(self) -> None:
        self._explaining = Explaining(self.architecture)

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def explain(self, image: list[Image]) -> list[dict[str, Any]]:
        return self._explaining.answers([self._explaining.prepared_image(each) for each in image])


@bentoml.service(workers=1)
class ResNet50(_Explainer):
    architecture = "resnet50"


@bentoml.service(workers=1)
class SqueezeNet(_Explainer):
    architecture = "squeezenet1_0"
