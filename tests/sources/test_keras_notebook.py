"""docs/from-notebook-to-service.md, the half of Keras: its block is run, and what it saves is served as it says."""

from __future__ import annotations

import io
import shlex
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from PIL import Image

from service.models.sources.keras import import_keras
from tests.docs.documents import ROOT, blocks
from tests.server import running_server
from tests.sources.extras import need
from tests.sources.keras_models import direct_gradcam
from tests.sources.test_keras import as_array, explained

if TYPE_CHECKING:
    from pathlib import Path

need("h5py", "keras")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras on torch, saving
def test_a_notebooks_model_is_served_and_its_map_is_the_notebooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras = import_keras()
    document = blocks(ROOT / "docs" / "from-notebook-to-service.md")
    save = next(block.text for block in document if "model.save" in block.text)
    serve = next(block.text for block in document if block.text.startswith("camserve serve --model vgg="))
    monkeypatch.chdir(tmp_path)
    exec(save, {})
    (tmp_path / "labels.txt").write_text("cat\ndog\nbird\n")
    pixels = np.random.default_rng(0).integers(0, 256, (130, 150, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")

    with running_server(*shlex.split(serve)[2:]) as server:
        result = explained(server, "vgg", pixels, target="dog")
        heatmap = httpx.post(
            f"{server.url}/api/v1/models/vgg/explain",
            files={"image": (tmp_path / "cat.png").read_bytes()},
            headers={"Accept": "image/png"},
            timeout=60,
        )

    model = keras.saving.load_model("vgg16.keras")
    seen = keras.utils.load_img(tmp_path / "cat.png", target_size=(96, 96))
    given = keras.applications.vgg16.preprocess_input(keras.utils.img_to_array(seen))
    expected = direct_gradcam(keras, model, "block5_conv1", given, 1)
    found = as_array(result["explanations"][0]["map"])
    assert result["explanations"][0]["layer"] == "block5_conv1"
    assert np.abs(found - expected).max() <= 1e-5 * expected.max()
    assert Image.open(io.BytesIO(heatmap.content)).size == (150, 130)
