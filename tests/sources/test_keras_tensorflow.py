"""Files that TensorFlow saved have TensorFlow's own Grad-CAM. ``scripts/test-sources`` makes its environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.docs.documents import ROOT
from tests.server import running_server
from tests.sources.extras import need
from tests.sources.test_keras import as_array, explained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server import Server

need("h5py", "keras")

PYTHON = ROOT / ".venv-tensorflow" / "bin" / "python"
NETWORKS = {"vgg16": "caffe", "resnet50": "caffe", "mobilenet_v2": "tf", "own": None}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.exists() and not os.environ.get("CAMSERVE_TESTS_REQUIRE_SOURCES"),
        reason="TensorFlow has no environment: scripts/test-sources",
    ),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorflow")
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "KERAS_HOME": str(folder / "home")}
    subprocess.run(
        [PYTHON, Path(__file__).with_name("tensorflow_oracle.py"), folder], check=True, env=environment, timeout=600
    )
    return folder


@pytest.fixture(scope="module")
def server(made: Path) -> Iterator[Server]:
    models = [
        argument
        for name, preset in NETWORKS.items()
        for argument in ("--model", f"{name}={made / name}.keras{f',preset={preset}' if preset else ''}")
    ]
    with running_server(*models) as server:
        yield server


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_and_probabilities_are_tensorflows(name: str, made: Path, server: Server) -> None:
    oracle = np.load(made / f"{name}.npz")
    asked = [key for key in oracle if "|" in key]
    layers = list(dict.fromkeys(key.partition("|")[0] for key in asked))

    result = explained(
        server,
        name,
        oracle["pixels"],
        layer=[layer.replace(".", "_") for layer in layers],
        target=["#0", "#1", "#2"],
        top_k=4,
    )

    found = {
        (explanation["layer"], explanation["target"]["index"]): as_array(explanation["map"])
        for explanation in result["explanations"]
    }
    assert len(found) == len(asked) == 9
    for key in asked:
        layer, _, target = key.partition("|")
        # Of a map that is negative nearly everywhere, the ReLU leaves next to nothing: rounding is of the whole.
        whole = oracle[key]
        differs = np.abs(found[layer.replace(".", "_"), int(target)] - np.maximum(whole, 0)).max()
        assert differs <= 1e-5 * np.abs(whole).max()
    for row in result["predictions"]:
        # Two frameworks sum in two orders; over the fifty layers of a ResNet, a logit is some 1e-5 apart.
        assert row["probability"] == pytest.approx(oracle["probabilities"][row["index"]], abs=1e-5)
