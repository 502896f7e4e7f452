"""What methods and the catalogue ask of a network. None of them knows what computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from service.cam.layers import LayerCall

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor
    from torch.autograd.graph import Node

    from service.cam.capture import Capture
    from service.cam.layers import Layer
    from service.cam.modules import ModuleDescription
    from service.cam.transformer import Attention

__all__ = ["AttentionCapture", "BlockOutputs", "Network", "Observer"]

Observer = Callable[[LayerCall, object, "Node | None"], None]
"""Told of a call, its output (of a tuple, the tensor that it begins with), and the node of the graph that the output
has to itself; None for what is no tensor."""


@dataclass(frozen=True)
class BlockOutputs:
    """What the blocks of a transformer gave out in one pass, and what its logits were made of.

    Attributes:
        tokens: the output of every block, (N, T, C), with its graph.
        read: all of these, (blocks · N, T, C), block by block: where the graph of the logits begins.
    """

    tokens: list[Tensor]
    read: Tensor


@dataclass(frozen=True)
class AttentionCapture:
    """What one pass through a transformer left, with its graph.

    Attributes:
        attentions: all attention among tokens, in order; what it gives out depends on it.
        logits: (blocks · N, classes), those that the network makes of each block's output where its last block's
            should be. The last N are its own. Without ``blocks``, (N, classes).
        blocks: None where the blocks cannot be told apart; then the graph of the logits begins at the input.
    """

    attentions: list[Attention]
    logits: Tensor
    blocks: BlockOutputs | None


class Network(Protocol):
    """A frozen image classifier whose rows do not influence one another.

    Inputs are (N, 3, H, W) in the dtype that it computes in, logits are (N, classes). A call leaves nothing behind, and
    raises ModelOutputError where the network does not return logits.

    Methods of one layer need ``predict``, ``capture`` and ``resume``. The rest serves the catalogue and the methods
    that look at the whole network.
    """

    def predict(self, inputs: Tensor) -> Tensor:
        """Return logits, without a graph."""

    def capture(self, inputs: Tensor, layers: Sequence[LayerCall], derivatives: int = 1) -> Capture:
        """Return logits and what ``layers`` gave out, with a graph that begins at the first of them.

        Args:
            inputs: the batch.
            layers: whose outputs; all must be single tensors that the forward pass produces.
            derivatives: how often the logits will be differentiated: 0, 1 or 2 times. Without, nothing is recorded.

        Raises:
            ModelOutputError: a layer was never called.
        """

    def resume(self, inputs: Tensor, layer: Layer, activations: Tensor) -> Tensor:
        """Return logits (M, classes) as they would be if ``layer`` gave out other activations, without a graph.

        Args:
            inputs: the one image (1, 3, H, W) that what does not pass through the layer depends on.
            layer: of the catalogue.
            activations: M rows, in the layer's own layout and dtype.
        """

    def with_random_head(self, layers: Sequence[Layer], classes: int, seed: int) -> Network | None:
        """Return this network with the weights of its last layer in a random order; None where that is not known.

        Nothing that another view of the network shares is changed. Computing raises ModelOutputError where the weights
        turn out to play no part.

        Args:
            layers: the catalogue.
            classes: how many logits it has.
            seed: of the order.
        """

    def beside_random_head(
        self, layers: Sequence[Layer], asked: Sequence[Layer], classes: int, seed: int
    ) -> Network | None:
        """Return this network with logits (N, 2 · classes): its own, and those of the random head on the same features.

        Everything before the last layer is computed once for both. None where the last layer is not known, or one of
        those that are ``asked`` about does not come before it. Arguments and errors as above; a network that does not
        take more rows than there are images behind its last layer raises whatever its code does.
        """

    def modules(self) -> Mapping[str, ModuleDescription]:
        """Return all modules but the root, by qualified name."""

    def observe(
        self,
        inputs: Tensor,
        modules: Collection[str],
        see: Observer,
        across_cuts: bool = False,
    ) -> Tensor:
        """Show ``see`` what every call of ``modules`` gives out, in forward order and in the network's own grad mode.

        Args:
            inputs: the batch; must ask for a gradient.
            modules: by name; of those that cannot be watched nothing is shown.
            see: told of every call.
            across_cuts: begin the graph anew where the network left it (no_grad, a detached tensor), so that what
                comes behind is in it. Needs two different images.

        Returns:
            Logits, with a graph that begins at ``inputs`` and that all outputs are in, as far as the network lets it.
        """

    def watch(self, inputs: Tensor, layers: Collection[LayerCall], see: Callable[[LayerCall, Tensor], None]) -> None:
        """Show ``see`` what ``layers`` give out, in forward order, without a graph; it must not keep or change it."""

    def altered(self, inputs: Tensor) -> Collection[tuple[str, int]]:
        """Name the calls (module, number) whose output a forward hook of the network's own changes."""

    def biases(self) -> Mapping[str, Tensor]:
        """Return what each convolution and BatchNorm adds to its channels (C,), by the module's name.

        For BatchNorm that is β - γ μ / √(σ² + ε). Modules that add nothing are left out.
        """

    def capture_attention(self, inputs: Tensor, derivatives: int = 1) -> AttentionCapture:
        """Return tokens and attention of every block, with their graph.

        Args:
            inputs: the batch.
            derivatives: how often the logits will be differentiated by the attention: 0 or 1 times. Without, the graph
                begins at what was read of the blocks, where they can be told apart.

        Raises:
            ModelOutputError: there is no attention among all tokens of a picture; the message says what there is.
        """
