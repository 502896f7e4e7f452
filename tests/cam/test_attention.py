"""Attention is read whoever computes it, and where it cannot be read one is told why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.cam.binary import BinaryNetwork
from service.cam.eager import EagerNetwork
from service.cam.explain import explain
from service.cam.layers import Layout
from service.cam.methods import METHODS
from service.cam.targets import Targets
from service.errors import MethodNotApplicable
from tests.cam.models import Plain, frozen, images, layers_of, vit
from tests.direct_attention import direct_legrad, direct_rollout

if TYPE_CHECKING:
    from service.cam.layers import Layer

HEADS, WIDTH, CLASSES = 2, 8, 5
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
ATTENTION = [name for name, row in METHODS.items() if row.refusal and "attention" in row.refusal]


def scores(q: Tensor, k: Tensor) -> Tensor:
    found: Tensor = q @ k.mT / (WIDTH // HEADS) ** 0.5
    return found


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v)


def of_aten(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mixed: Tensor = torch.ops.aten.scaled_dot_product_attention.default(q, k, v)
    return mixed


def biased(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.arange(float(q.shape[2])).expand(q.shape[2], -1) / 9
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.4)


def softmax_of_tensor(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mixed: Tensor = scores(q, k).softmax(dim=-1) @ v
    return mixed


def softmax_of_functional(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = functional.softmax(scores(q, k), 3)
    return functional.dropout(weights, 0.1, training=False) @ v


def softmax_of_module(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mixed: Tensor = nn.Softmax(-1)(scores(q, k)) @ v
    return mixed


def in_one_axis(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (each.flatten(0, 1) for each in (q, k, v))
    return torch.softmax(scores(q, k), dim=2).bmm(v).view(-1, HEADS, *v.shape[1:])


MIXES: list[Mix] = [fused, of_aten, biased, softmax_of_tensor, softmax_of_functional, softmax_of_module, in_one_axis]


class Block(nn.Module):
    """Attention and a skip connection; keeps what it computed, for comparison."""

    def __init__(self, mix: Mix, *, pair: bool, first: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mix, self.pair, self.first = mix, pair, first

    def forward(self, x: Tensor | tuple[Tensor, str]) -> Tensor | tuple[Tensor, str]:
        given = x[0] if isinstance(x, tuple) else x
        tokens = given.transpose(0, self.first)
        parts = self.qkv(self.norm(tokens)).view(*tokens.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = self.mix(*parts).transpose(1, 2).flatten(2)
        found = given + self.out(mixed).tanh().transpose(0, self.first)
        return (found, "and more") if self.pair else found


class Transformer(nn.Module):
    """Four by four patches behind two special tokens."""

    def __init__(
        self,
        mix: Mix = fused,
        read: Callable[[Tensor], Tensor] = lambda tokens: tokens[:, 0],
        *,
        pair: bool = False,
        sequence: bool = False,
        depth: int = 3,
    ) -> None:
        super().__init__()
        self.patches, self.special = nn.Conv2d(3, WIDTH, 8, 8), nn.Parameter(torch.randn(2, WIDTH))
        self.first = 1 if sequence else 0
        self.blocks = nn.ModuleList(Block(mix, pair=pair, first=self.first) for _ in range(depth))
        self.norm, self.head, self.read = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES), read

    def embed(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([self.special.expand(len(x), -1, -1), patches], 1)

    def classify(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.read(self.norm(tokens)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).transpose(0, self.first)
        for block in self.blocks:
            found = block(tokens)
            tokens = found[0] if isinstance(found, tuple) else found
        return self.classify(tokens.transpose(0, self.first))


def seeded(*args: object, **kwargs: object) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(*args, **kwargs)  # type: ignore[arg-type]
    frozen(model)
    return model


def expected(model: Transformer, image: Tensor, read: list[int], target: int) -> dict[str, Tensor]:
    """Compute both maps (4, 4) of a network's blocks, their attention being computed by hand."""
    tokens, outputs, attentions = model.embed(image.clone().requires_grad_()), [], []
    for block in model.blocks:
        assert isinstance(block, Block)

        def by_hand(q: Tensor, k: Tensor, v: Tensor, mix: Mix = block.mix) -> Tensor:
            bias, scale = (torch.arange(18.0) / 9, 0.4) if mix is biased else (0.0, 0.5)
            attentions.append((q @ k.mT * scale + bias).softmax(-1))
            return attentions[-1] @ v

        twin = Block(by_hand, pair=False, first=0)
        twin.load_state_dict(block.state_dict())
        twin.requires_grad_(requires_grad=False)
        tokens = twin(tokens)
        outputs.append(tokens)
    maps = {
        "attention_rollout": direct_rollout(attentions, read),
        "legrad": direct_legrad(outputs, attentions, model.classify, target),
    }
    return {name: found[2:].view(4, 4) for name, found in maps.items()}


def assert_as_by_hand(model: Transformer, read: list[int], rows: int = 2) -> None:
    layers, batch = layers_of(model, "blocks.0.norm"), images(rows)
    answers = explain(EagerNetwork(model), batch, [Targets((n % CLASSES,)) for n in range(rows)], layers, ATTENTION)
    for n, answer in enumerate(answers):
        by_hand = expected(model, batch[n : n + 1], read, n % CLASSES)
        for raw in answer.maps:
            wanted = by_hand[raw.method]
            assert wanted.max() > 0
            torch.testing.assert_close(raw.values, wanted, rtol=0, atol=1e-5 * float(wanted.max()))


def refusals(model: nn.Module) -> list[str | None]:
    return [METHODS[name].refuses(EagerNetwork(frozen(model)), images(1)) for name in ATTENTION]


def test_there_are_methods_that_read_attention() -> None:
    assert ATTENTION == ["attention_rollout", "legrad"]


@pytest.mark.parametrize("mix", MIXES)
def test_attention_is_read_however_it_is_computed(mix: Mix) -> None:
    model = seeded(mix)
    assert refusals(model) == [None, None]
    assert_as_by_hand(model, [0])


@pytest.mark.parametrize("arguments", [{"pair": True}, {"sequence": True}, {"depth": 1}])
def test_blocks_may_give_out_more_or_sequences_or_be_one(arguments: dict[str, object]) -> None:
    assert_as_by_hand(seeded(**arguments), [0])


def test_as_many_images_as_tokens_are_not_taken_for_them() -> None:
    assert_as_by_hand(seeded(sequence=True), [0], rows=18)


@pytest.mark.parametrize(
    ("read", "tokens"),
    [
        (lambda tokens: tokens[:, 1], [1]),
        (lambda tokens: tokens[:, :2].mean(1), [0, 1]),
        (lambda tokens: tokens.mean(1), list(range(18))),
        (lambda tokens: tokens[:, 2:].mean(1), list(range(2, 18))),
    ],
    ids=["second", "both special", "all", "patches"],
)
def test_the_tokens_that_are_read_are_those_that_are_followed(
    read: Callable[[Tensor], Tensor], tokens: list[int]
) -> None:
    assert_as_by_hand(seeded(fused, read), tokens)


def test_with_a_head_of_zeros_the_class_token_is_followed() -> None:
    model = seeded()
    nn.init.zeros_(model.head.weight)
    layers = layers_of(seeded(), "blocks.1.norm")
    (answer,) = explain(EagerNetwork(model), images(1), [Targets((0,))], layers, ["attention_rollout"])
    wanted = expected(seeded(), images(1), [0], 0)["attention_rollout"]
    torch.testing.assert_close(answer.maps[0].values, wanted)


def test_one_output_is_seen_as_two_classes() -> None:
    model = seeded()
    model.head = nn.Linear(WIDTH, 1).requires_grad_(requires_grad=False)
    layers, own = layers_of(seeded(), "blocks.1.norm"), EagerNetwork(model)
    (single,) = explain(own, images(1), [Targets((0,))], layers, ATTENTION)
    (pair,) = explain(BinaryNetwork(own), images(1), [Targets((1,))], layers, ATTENTION)
    for raw, wanted in zip(pair.maps, single.maps, strict=True):
        assert wanted.values.any()
        torch.testing.assert_close(raw.values, wanted.values)


def test_the_logits_are_the_networks_own() -> None:
    for model in (seeded(), frozen(vit())):
        network = EagerNetwork(model)
        captured = network.capture_attention(images(2))
        torch.testing.assert_close(captured.logits[-2:].detach(), network.predict(images(2)))


def test_hooks_of_the_model_see_as_many_rows_as_there_are_images() -> None:
    model, seen = seeded(), []
    model.blocks[-1].register_forward_hook(lambda _module, _inputs, output: seen.append(len(output)))
    EagerNetwork(model).capture_attention(images(3))
    assert set(seen[-1:]) == {3}


def test_a_layer_of_another_grid_is_refused() -> None:
    model = seeded()
    (layer,) = layers_of(model, "blocks.1.norm")
    fine: Layer = replace(layer, layout=Layout("nchw", 8, 8))
    with pytest.raises(MethodNotApplicable, match=r"has 8 × 8 cells.*18 tokens.*such as the default"):
        explain(EagerNetwork(model), images(1), [Targets((0,))], [fine], ["legrad"])


# Where it cannot be read


class Windows(Transformer):
    """Attends within two halves of the tokens."""

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x).unflatten(1, (2, 9)).flatten(0, 1)  # type: ignore[no-untyped-call,no-any-return]

    def classify(self, tokens: Tensor) -> Tensor:
        return super().classify(tokens.unflatten(0, (-1, 2)).flatten(1, 2))  # type: ignore[no-untyped-call]


class Shrinking(Transformer):
    """Drops tokens from block to block."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        for number, block in enumerate(self.blocks):
            tokens = block(tokens[:, : 18 - 4 * number])
        return self.classify(tokens)


class Remembering(Transformer):
    """Reads the first block's tokens, too."""

    def forward(self, x: Tensor) -> Tensor:
        first = self.blocks[0](self.embed(x))
        last = self.blocks[2](self.blocks[1](first))
        return self.classify(last + 0.5 * first)


class OnChannels(nn.Module):
    """A convolutional network with attention between its places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, WIDTH, 8, 8), nn.Linear(WIDTH, CLASSES)
        self.body = nn.ModuleList([self._Places(), self._Places()])

    class _Places(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            places = x.flatten(2).mT[:, None]
            return x + fused(places, places, places)[:, 0].mT.reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for part in self.body:
            x = part(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def pooled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return fused(q, k[:, :, ::2], v[:, :, ::2])


def widened() -> nn.Module:
    model = vit()
    for block in model.get_submodule("encoder.layers").children():
        block.self_attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True, add_bias_kv=True, add_zero_attn=True)
    return model


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (Plain, "it needs a transformer: no attention among tokens is seen in this network"),
        (Windows, "its attention is within windows or groups, not among all tokens of a picture"),
        (Shrinking, "the number of tokens changes from block to block"),
        (OnChannels, "the blocks around its attention do not give out a row for each of their tokens"),
        (lambda: Transformer(pooled), "a part of its attention is not of the tokens to themselves"),
        (widened, "a part of its attention is not of the tokens to themselves"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(build: Callable[[], nn.Module], reason: str) -> None:
    found = refusals(build())
    assert all(said is not None and said.startswith(reason) for said in found), found


def test_what_is_read_beside_the_last_block_leaves_rollout_alone() -> None:
    rollout, reason = refusals(Remembering())
    assert rollout is None
    assert reason is not None
    assert reason.startswith(
        "its blocks cannot be told apart, or its answer depends on more than the last one's tokens"
    )
