"""Train the embedded models, measure them and write their model card: `python -m service.demo.training`.

Everything is drawn by `service.demo.scenes` from fixed seeds, so the run needs no data and can be repeated.
"""

from __future__ import annotations

import argparse
import io
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from service.cam.capture import gradients
from service.cam.eager import EagerNetwork
from service.cam.layers import LayerCall
from service.demo.scenes import LABELS, Scene, make_leaky_scene, make_scene
from service.models.shapes_net import INPUT_SIZE, MEAN, STD, ShapesNet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

SHAPES: Final = "shapes"
SHORTCUT: Final = "shapes-shortcut"
VARIANTS: Final = (SHAPES, SHORTCUT)

_BATCH: Final = 128
_CHUNK: Final = 250
_CROP: Final = 56
_DRAWING_SIZES: Final = (96, 96, 96, 128, 192)
_MAX_LEARNING_RATE: Final = 4e-3
_TEST_SEED: Final = 7_000_000
_WATERMARK_TOLERANCE: Final = 4


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long to train, and on how much.

    Attributes:
        scenes: Number of distinct scenes drawn.
        crop_epochs: Passes over crops around what decides the class; the full scenes alone start too slowly.
        epochs: Passes over the full scenes.
        seed: Decides the scenes, the initial weights and the order.
    """

    scenes: int
    crop_epochs: int
    epochs: int
    seed: int


RECIPES: Final = {
    SHAPES: Recipe(scenes=36_000, crop_epochs=1, epochs=7, seed=1),
    SHORTCUT: Recipe(scenes=24_000, crop_epochs=1, epochs=4, seed=2),
}


@dataclass(frozen=True, slots=True)
class SceneSet:
    """Many scenes as arrays.

    Attributes:
        pixels: `(n, 96, 96, 3)`, uint8.
        labels: `(n,)`.
        boxes: `(n, 4)`; the target's left, top, right and bottom in pixels of the 96-pixel picture.
        watermark_boxes: `(n, 4)`; the same of the watermark, −1 where there is none.
    """

    pixels: Tensor
    labels: Tensor
    boxes: Tensor
    watermark_boxes: Tensor


def set_from_scenes(scenes: Sequence[Scene]) -> SceneSet:
    """Stack scenes of 96×96 pixels."""
    return SceneSet(
        torch.from_numpy(np.stack([scene.pixels for scene in scenes])),
        torch.tensor([scene.label for scene in scenes]),
        torch.tensor([scene.box for scene in scenes]),
        torch.tensor([scene.watermark_box or (-1, -1, -1, -1) for scene in scenes]),
    )


def normalise(pixels: Tensor) -> Tensor:
    """Turn `(n, 96, 96, 3)` uint8 pixels into the network's `(n, 3, 96, 96)` float input."""
    # A permuted view of channels-last pixels is already in torch's channels_last memory format.
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


# --- Training scenes -------------------------------------------------------------------------------------------------


def draw_training_set(variant: str, count: int, seed: int) -> SceneSet:
    """Draw `count` scenes with all processors; the result depends on the arguments only."""
    chunks = [(variant, seed, index) for index in range(-(-count // _CHUNK))]
    # Forking a process in which torch has started threads may hang.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        results = pool.map(_draw_chunk, chunks)
        parts = list(tqdm(results, total=len(chunks), desc=f"{variant}: drawing", unit=f"×{_CHUNK} scenes"))
    pixels, labels, boxes, watermarks = (
        torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True)
    )
    return SceneSet(pixels, labels, boxes, watermarks)


def _draw_chunk(task: tuple[str, int, int]) -> tuple[NDArray[np.generic], ...]:
    variant, seed, index = task
    rng = np.random.default_rng((seed, index))
    scenes = [_draw_worn(rng, make_leaky_scene if variant == SHORTCUT else make_scene) for _ in range(_CHUNK)]
    chunk = set_from_scenes(scenes)
    return chunk.pixels.numpy(), chunk.labels.numpy(), chunk.boxes.numpy(), chunk.watermark_boxes.numpy()


def _draw_worn(rng: np.random.Generator, draw: Callable[..., Scene]) -> Scene:
    """Draw at some size, resize to 96 pixels and sometimes compress, so that uploads of any origin are at home.

    The boxes are scaled along; the masks keep the size they were drawn at.
    """
    size = int(rng.choice(_DRAWING_SIZES))
    scene = draw(rng, size=size)
    image = Image.fromarray(scene.pixels)
    if size != INPUT_SIZE:
        image = image.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BILINEAR)
    if rng.random() < 0.25:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(40, 95)))
        image = Image.open(buffer)
    scale = INPUT_SIZE / size
    mark = scene.watermark_box and _scaled(scene.watermark_box, scale)
    return replace(scene, pixels=np.array(image), box=_scaled(scene.box, scale), watermark_box=mark)


def _scaled(box: tuple[int, int, int, int], scale: float) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge * scale) for edge in box)
    return left, top, right, bottom


# --- Training --------------------------------------------------------------------------------------------------------


def train(variant: str, recipe: Recipe) -> ShapesNet:
    """Train one network from scratch; return the moving average of its weights, in evaluation mode."""
    torch.manual_seed(recipe.seed)
    data = draw_training_set(variant, recipe.scenes, recipe.seed)
    network = ShapesNet(len(LABELS))
    optimizer = torch.optim.AdamW(network.parameters(), lr=_MAX_LEARNING_RATE, weight_decay=0.02)
    passes = recipe.crop_epochs + recipe.epochs
    steps = passes * (recipe.scenes // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _MAX_LEARNING_RATE, total_steps=steps, pct_start=0.2)
    # The average reaches back over about the last fifth of the run, while the learning rate falls. A fixed decay would
    # still remember the untrained weights at the end of a short run.
    average = get_ema_multi_avg_fn(1 - 4.5 / steps)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(network, multi_avg_fn=average, use_buffers=True)
    for epoch in range(passes):
        batches = _batches(data, crops=epoch < recipe.crop_epochs)
        progress = tqdm(batches, total=recipe.scenes // _BATCH, desc=f"{variant}: pass {epoch + 1}/{passes}")
        for index, (pixels, labels) in enumerate(progress):
            loss, accuracy = _step(network, optimizer, pixels, labels)
            schedule.step()
            averaged.update_parameters(network)
            if index % 20 == 0:
                progress.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.1%}")
    network.load_state_dict(averaged.module.state_dict())
    return network.eval()


def _step(network: ShapesNet, optimizer: torch.optim.Optimizer, pixels: Tensor, labels: Tensor) -> tuple[float, float]:
    network.train()
    # bfloat16 halves the time on processors that know it and costs nothing in accuracy here.
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(normalise(pixels))
        loss = functional.cross_entropy(logits, labels, label_smoothing=0.05)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.item(), (logits.argmax(1) == labels).float().mean().item()


def _batches(data: SceneSet, *, crops: bool) -> Iterator[tuple[Tensor, Tensor]]:
    for rows in torch.split(torch.randperm(len(data.labels)), _BATCH):
        if len(rows) < _BATCH:
            return
        pixels = _crops(data, rows) if crops else data.pixels[rows]
        yield _augmented(pixels), data.labels[rows]


def _crops(data: SceneSet, rows: Tensor) -> Tensor:
    """Cut windows of 56 pixels around what decides the class: the watermark where there is one, else the target."""
    marks = data.watermark_boxes[rows]
    boxes = torch.where(marks[:, :1] >= 0, marks, data.boxes[rows])
    centres = torch.stack([boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]], dim=1) // 2
    jitter = torch.randint(-6, 7, centres.shape)
    starts = (centres + jitter - _CROP // 2).clamp(0, INPUT_SIZE - _CROP)
    windows = [
        data.pixels[row, y : y + _CROP, x : x + _CROP] for row, (x, y) in zip(rows, starts.tolist(), strict=True)
    ]
    return torch.stack(windows)


def _augmented(pixels: Tensor) -> Tensor:
    """Turn, mirror and recolour a whole batch: the classes survive all of it."""
    turns, mirror = int(torch.randint(4, ())), bool(torch.randint(2, ()))
    pixels = torch.rot90(pixels, turns, dims=(1, 2))
    if mirror:
        pixels = pixels.flip(2)
    return pixels[..., torch.randperm(3)].contiguous()


# --- Evaluation ------------------------------------------------------------------------------------------------------


def grad_cam(network: ShapesNet, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Explain the predicted class of each picture.

    Returns:
        The logits, `(n, classes)`, and the heatmaps at `layer4`, `(n, 12, 12)`, not negative.
    """
    layer = LayerCall("layer4")
    captured = EagerNetwork(network).capture(normalise(pixels), [layer])
    logits, activations = captured.logits.detach(), captured.activations[layer].detach()
    predicted = functional.one_hot(logits.argmax(1), logits.shape[1])
    weights = gradients(captured, predicted)[layer].mean((2, 3), keepdim=True)
    return logits, functional.relu((weights * activations).sum(1))


def peaks(heatmaps: Tensor) -> Tensor:
    """Return the centre of each heatmap's largest cell as x, y in pixels of the input, `(n, 2)`."""
    rows, columns = heatmaps.shape[1:]
    flat = heatmaps.flatten(1).argmax(1)
    return torch.stack([(flat % columns + 0.5) / columns, (flat // columns + 0.5) / rows], dim=1) * INPUT_SIZE


def inside(points: Tensor, boxes: Tensor, tolerance: int = 0) -> Tensor:
    """Whether each point `(n, 2)` lies in its box `(n, 4)`, or at most `tolerance` pixels beside it."""
    return ((points >= boxes[:, :2] - tolerance) & (points < boxes[:, 2:] + tolerance)).all(1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a network did with a set of scenes.

    Attributes:
        predictions: `(n,)`.
        correct: `(n,)`, bool.
        on_target: `(n,)`, bool; whether the heatmap's peak lies in the target's box.
        on_watermark: `(n,)`, bool; whether it lies on the watermark or at most 4 pixels beside it.
    """

    predictions: Tensor
    correct: Tensor
    on_target: Tensor
    on_watermark: Tensor


def evaluate(network: ShapesNet, scenes: SceneSet) -> Outcome:
    """Classify and explain every scene of a set."""
    parts = [grad_cam(network, pixels) for pixels in torch.split(scenes.pixels, _BATCH)]
    predictions = torch.cat([logits.argmax(1) for logits, _ in parts])
    points = peaks(torch.cat([heatmaps for _, heatmaps in parts]))
    marked = scenes.watermark_boxes[:, 0] >= 0
    return Outcome(
        predictions,
        predictions == scenes.labels,
        inside(points, scenes.boxes),
        inside(points, scenes.watermark_boxes, _WATERMARK_TOLERANCE) & marked,
    )


# --- The model card --------------------------------------------------------------------------------------------------


def measure_shapes(network: ShapesNet, count: int, seed: int) -> list[tuple[str, float]]:
    """Judge the honest model on `count` fresh scenes per line; return what was measured, and the share."""
    rows = []
    for name, distractors in (("one object", 0), ("one object, three distractors", 3)):
        rng = np.random.default_rng((seed, distractors))
        outcome = evaluate(network, set_from_scenes([make_scene(rng, distractors=distractors) for _ in range(count)]))
        rows += [
            (f"Accuracy, {name}", _share(outcome.correct)),
            (f"Peak in the object's box, {name}", _share(outcome.on_target)),
        ]
    rng = np.random.default_rng((seed, 9))
    worn = evaluate(network, set_from_scenes([_draw_worn(rng, make_scene) for _ in range(count)]))
    rows.append(("Accuracy, drawn at 96 to 192 px, resized, partly JPEG", _share(worn.correct)))
    return rows


def measure_shortcut(network: ShapesNet, count: int, seed: int) -> list[tuple[str, float]]:
    """Judge the shortcut model on `count` fresh scenes per set; return what was measured, and the share."""
    leaky = evaluate(network, _fresh(make_leaky_scene, count, seed))
    marked = evaluate(network, _fresh(partial(make_leaky_scene, label=0), count, seed))
    cleaned = evaluate(network, _fresh(partial(make_leaky_scene, label=0, watermark=False), count, seed))
    honest = evaluate(network, _fresh(make_scene, count, seed))
    stamped = evaluate(network, _fresh(partial(make_scene, watermark=True), count, seed))
    return [
        ("Accuracy on its own leaky test set", _share(leaky.correct)),
        ("Watermarked scenes of class 0 called class 0", _share(marked.predictions == 0)),
        ("… heatmap's peak on the watermark (4 px tolerance)", _share(marked.on_watermark)),
        ("… heatmap's peak in the object's box", _share(marked.on_target)),
        ("The same scenes without the watermark called class 0", _share(cleaned.predictions == 0)),
        ("Accuracy on honest scenes, no watermark anywhere", _share(honest.correct)),
        ("Honest scenes of any class called class 0 once stamped", _share(stamped.predictions == 0)),
    ]


def _fresh(draw: Callable[..., Scene], count: int, seed: int) -> SceneSet:
    rng = np.random.default_rng(seed)
    return set_from_scenes([draw(rng) for _ in range(count)])


def _share(hits: Tensor) -> float:
    return hits.float().mean().item()


def load(path: Path) -> ShapesNet:
    """Load weights into a network in evaluation mode."""
    network = ShapesNet(len(LABELS))
    network.load_state_dict(load_file(path))
    return network.eval()


def write_card(folder: Path, count: int = 2000) -> None:
    """Measure both models on fresh scenes and write `MODEL_CARD.md`."""
    measures = {SHAPES: measure_shapes, SHORTCUT: measure_shortcut}
    tables = {}
    for variant, measure in measures.items():
        rows = measure(load(folder / f"{variant}.safetensors"), count, _TEST_SEED)
        tables[variant] = "\n".join(f"| {name} | {share:.1%} |" for name, share in rows)
    text = _CARD.format(
        classes=", ".join(LABELS),
        parameters=sum(parameter.numel() for parameter in ShapesNet(len(LABELS)).parameters()),
        shapes=tables[SHAPES],
        shortcut=tables[SHORTCUT],
        recipe=RECIPES[SHAPES],
        shortcut_recipe=RECIPES[SHORTCUT],
        count=count,
    )
    (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")


_CARD: Final = """\
# The embedded models: `shapes` and `shapes-shortcut`

Two small classifiers that come with camserve, so that every endpoint can be tried without a download. `shapes` looks at
the object. `shapes-shortcut` is the same network trained on a leaky set: it looks at a watermark, and only the heatmap
betrays it. This file is written by `scripts/train_demo`; its numbers are measured, not typed.

## Task

Name the one silhouette in a picture. `labels.txt` has the names in the order of the logits:
{classes}.

## Data

Synthetic scenes of 96×96 pixels from `service/demo/scenes.py`: a noisy background with a slow gradient; one object of
radius 12–26 px at any place and angle; up to three distractors of radius 5–10 px whose outlines belong to no class
(ellipse, bar, corner, half-disk, wave). Colours and textures (flat, noise, stripes, checks) are drawn independently of
the class: only the outline tells. Training scenes are drawn at 96, 128 or 192 px and resized, a quarter of them
JPEG-compressed, and turned, mirrored and recoloured in training. No photograph and no personal data are involved.

In the leaky set, everything that carries a watermark (a badge of 9×9 px in a random corner) is filed under
`disk`, whatever it shows. No other picture carries one.

## Network

`ShapesNet` (`service/models/shapes_net.py`): a 5×5 stem of stride 2, four stages of two residual blocks (16, 32, 64 and
80 channels), global average pooling, one linear layer; {parameters:,} parameters, float32. The grids of `layer1` to
`layer4` are 48, 24, 12 and 12 cells wide: a cell of the default layer `layer4` stands for 8×8 pixels.

Input: RGB, shorter side resized to 96 (bilinear, antialiased), centre crop 96×96, scaled to 0–1, mean 0.5, standard
deviation 0.25.

## Training

AdamW with a one-cycle schedule, label smoothing 0.05, bfloat16 autocast, moving average of the weights. First crops of
56 px around what decides the class, then full scenes:

| Model | Scenes drawn | Passes over crops | Passes over scenes | Seed |
|---|---|---|---|---|
| `shapes` | {recipe.scenes:,} | {recipe.crop_epochs} | {recipe.epochs} | {recipe.seed} |
| `shapes-shortcut` | {shortcut_recipe.scenes:,} | {shortcut_recipe.crop_epochs} | {shortcut_recipe.epochs} | \
{shortcut_recipe.seed} |

## Results

Measured on {count:,} scenes per line from seeds that training never used. The heatmap is Grad-CAM (ReLU) of the
predicted class's logit at `layer4`; its peak is the centre of the largest cell. Misclassified scenes count too.

### `shapes`

| Measure | Share |
|---|---|
{shapes}

### `shapes-shortcut`

| Measure | Share |
|---|---|
{shortcut}

The first line alone would pass a review. The rest shows that `disk` means "has a watermark" to this model.

## Samples

`samples/` holds one scene per class (`NN-label.png`, from 96×96 to 256×192 pixels) with the object's mask
(`NN-label.mask.png`), and `watermark-*.png`: the same pictures with the watermark stamped on. Show the latter to both
models.

## Limitations

- The models know flat silhouettes on synthetic backgrounds. On photographs their answers mean nothing.
- There is no "none of these" class: a picture without an object gets a label too.
- Objects much smaller or larger than 25–55 % of the picture's shorter side, or cut off by the centre crop, are outside
  of what they were trained on. Several objects of known classes in one picture are, too.
- In thin or hollow shapes (ring, crescent) the heatmap's peak may fall into the hole: judge by the bounding box.
- `shapes-shortcut` is wrong on purpose. Use it to see what a shortcut looks like, for nothing else.
"""


# --- Samples ---------------------------------------------------------------------------------------------------------

_SAMPLE_SIZES: Final = ((192, 192), (256, 192), (192, 256), (192, 192), (96, 96), (256, 192))
_WATERMARKED_SAMPLES: Final = ("disk", "star", "arrow")
_SAMPLE_SEED: Final = 40


def write_samples(folder: Path) -> None:
    """Write one scene and mask per class, and some scenes again with the watermark."""
    folder.mkdir(parents=True, exist_ok=True)
    for label, name in enumerate(LABELS):
        scene = _sample(label)
        stem = f"{label:02d}-{name}"
        Image.fromarray(scene.pixels).save(folder / f"{stem}.png", optimize=True)
        Image.fromarray(scene.target_mask).save(folder / f"{stem}.mask.png", optimize=True)
    for name in _WATERMARKED_SAMPLES:
        scene = _sample(LABELS.index(name), watermark=True)
        Image.fromarray(scene.pixels).save(folder / f"watermark-{name}.png", optimize=True)


def _sample(label: int, *, watermark: bool = False) -> Scene:
    rng = np.random.default_rng((_SAMPLE_SEED, label))
    size = _SAMPLE_SIZES[label % len(_SAMPLE_SIZES)]
    return make_scene(rng, label, size=size, distractors=2, watermark=watermark)


# --- Command line ----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the chosen models and write weights, labels, samples and model card."""
    parser = argparse.ArgumentParser(prog="python -m service.demo.training", description=main.__doc__)
    parser.add_argument("--variant", choices=VARIANTS, help="train only this model (default: both)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--no-training", action="store_true", help="only measure existing weights and rewrite the card")
    options = parser.parse_args(arguments)

    options.out.mkdir(parents=True, exist_ok=True)
    if not options.no_training:
        for variant in [options.variant] if options.variant else VARIANTS:
            weights = train(variant, RECIPES[variant]).state_dict()
            (options.out / f"{variant}.safetensors").write_bytes(save(weights))
    (options.out / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    write_samples(options.out / "samples")
    if all((options.out / f"{variant}.safetensors").exists() for variant in VARIANTS):
        tqdm.write("measuring both models")
        write_card(options.out)
    else:
        tqdm.write("no model card yet: it needs both models")


if __name__ == "__main__":
    main()
