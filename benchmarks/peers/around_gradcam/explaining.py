"""What all peers serve: a torchvision classifier, explained by pytorch-grad-cam as its README shows."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM

from service.models.torchvision_adapter import torchvision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Of requests that wait together: what the servers that can make batches put into one.
MAX_BATCH = 8
TOP_K = 5


class Explaining:
    """Top-k classes and a heatmap of the best, for batches of pictures.

    Random weights: speed does not depend on their values. The forward pass that pytorch-grad-cam makes serves for the
    classes, too, and the heatmap stays at the model's 224×224: a camserve answer has it at the picture's size.
    """

    def __init__(self, architecture: str) -> None:
        model = torchvision.models.get_model(architecture, weights=None).eval()
        layer = model.layer4[-1] if architecture.startswith("resnet") else model.features[-1]
        self._cam = GradCAM(model=model, target_layers=[layer])
        self._prepare = torchvision.transforms._presets.ImageClassification(crop_size=224)

    def prepared(self, content: bytes) -> Tensor:
        """Return the model's input (3, 224, 224) for the bytes of a picture."""
        return self.prepared_image(Image.open(io.BytesIO(content)))

    def prepared_image(self, image: Image.Image) -> Tensor:
        """Return the model's input (3, 224, 224) for a picture."""
        found: Tensor = self._prepare(image.convert("RGB"))
        return found

    def answers(self, inputs: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Explain a batch."""
        maps = self._cam(input_tensor=torch.stack(list(inputs)), targets=None)  # (N, 224, 224) in 0…1, of the best
        best = self._cam.outputs.detach().softmax(dim=1).topk(TOP_K)
        return [
            {"predictions": _predictions(*row), "heatmap": _heatmap(values)}
            for row, values in zip(zip(best.indices.tolist(), best.values.tolist(), strict=True), maps, strict=True)
        ]


def _predictions(indices: list[int], probabilities: list[float]) -> list[dict[str, Any]]:
    rows = zip(indices, probabilities, strict=True)
    return [{"index": index, "probability": probability} for index, probability in rows]


def _heatmap(values: Any) -> str:
    drawn = cv2.applyColorMap(np.uint8(255 * values), cv2.COLORMAP_JET)  # as show_cam_on_image has it
    return base64.b64encode(cv2.imencode(".png", drawn)[1].tobytes()).decode()
