"""Write docs/which-layer.md: ``.venv/bin/python docs/make_which_layer.py``. Takes some minutes.

What ``camserve evaluate`` says of the embedded models, on scenes that training never saw.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from service.demo.scenes import make_leaky_scene, make_scene
from service.evaluation.asked import METRICS, Asked
from service.evaluation.baselines import BASELINES
from service.evaluation.candidates import arms_of, default_layers
from service.evaluation.in_process import InProcess
from service.evaluation.outcome import outcome_of
from service.evaluation.pictures import Picture, truth_of_mask
from service.evaluation.run import Run
from service.imaging.preprocess import geometry_for
from service.models.loading import load_model
from service.models.sources.source import Downloads
from service.settings import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.evaluation.outcome import Outcome
    from service.evaluation.pictures import Truth
    from service.models.info import ModelInfo

HERE = Path(__file__).parent
SCENES, SEED = 40, 20_360
METHODS = ("gradcam", "hirescam")
MODELS = ("shapes", "shapes-shortcut")

INTRODUCTION = f"""# Which layer for the embedded models

Written by `docs/make_which_layer.py`: what [`camserve evaluate`](evaluate.md) says of the embedded models, with the
masks of {SCENES} scenes that training never saw (seed {SEED:,}), the layers that it compares if none are named, and the
methods {", ".join(METHODS)}.
"""


def scenes(name: str, info: ModelInfo) -> list[Picture]:
    """Draw the scenes that a model is measured on; of the leaky set for the model that was trained on it."""
    rng = np.random.default_rng(SEED)
    make = make_leaky_scene if name == "shapes-shortcut" else make_scene
    found = []
    for number in range(SCENES):
        scene = make(rng)
        geometry = geometry_for(info.preprocess, scene.pixels.shape[1], scene.pixels.shape[0])
        truth = truth_of_mask(scene.target_mask, geometry)
        truths: dict[int | None, Truth] = {} if truth is None else {None: truth}
        found.append(Picture(f"{number}.png", scene.pixels, geometry, scene.label, truths))
    return found


def evaluated(name: str) -> Outcome:
    """Evaluate an embedded model."""
    with tempfile.TemporaryDirectory() as cache:
        host = load_model(ModelConfig(name=name, architecture=name), "cpu", Downloads(Path(cache), allowed=False))
    arms = arms_of(host.info, default_layers(host.info), METHODS)
    run = Run(InProcess(host), scenes(name, host.info), Asked(arms))
    for _ in run.steps():
        pass
    return outcome_of(run)


def section(name: str, outcome: Outcome) -> Iterator[str]:
    """Yield the lines of a model's section."""
    run, metrics = outcome.run, [metric for metric in METRICS if metric in outcome.scores.metrics]
    yield f"## {name}\n"
    yield from (f"- {each.text}" for each in outcome.recommendations)
    yield from (f"- Warning. {each.text}" for each in outcome.findings)
    yield ""
    yield f"| candidate | {' | '.join(f'`{metric}`' for metric in metrics)} |"
    yield f"|---|{'---|' * len(metrics)}"
    rows = {f"{arm.layer}, {arm.method}": f"a{run.maps.twins[n]}" for n, arm in enumerate(run.asked.arms)}
    for words, who in {**rows, **{f"*{each}*": each for each in BASELINES}}.items():
        found = [outcome.scores.interval(metric, who) for metric in metrics]
        yield f"| {words} | {' | '.join(f'{each.mean:.2f}' if each.n else '–' for each in found)} |"
    yield ""


def main() -> None:
    """Write the document."""
    parts = [INTRODUCTION, *("\n".join(section(name, evaluated(name))) for name in MODELS)]
    (HERE / "which-layer.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
