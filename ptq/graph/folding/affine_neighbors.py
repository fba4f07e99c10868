"""Which layers can take over a map y = gain * x + shift per channel: those before it, or those that read it.

Between the map and a layer there may be operations that it passes through unchanged: a ReLU where the gain is positive and
the shift 0, a pool, padding, an addition or a concatenation, whose other terms take over their part.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ptq.graph.fx_helpers import LAYERS, argument, input_tensors, module_of, op_name, recompute, sole_input

__all__ = ["Affine", "Share", "channel_axis", "layers_before", "layers_behind"]

RAMPS = (nn.ReLU, nn.LeakyReLU, nn.PReLU)  # f(c * x) = c * f(x) for c > 0
MOVERS = ("flatten", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "contiguous")


@dataclass(frozen=True)
class Affine:
    """A map y = gain * x + shift of a tensor.

    Args:
        gain, shift: float64, with as many dimensions as the tensor; sizes are the tensor's, or 1 where entries share.
    """

    gain: Tensor
    shift: Tensor

    @property
    def positive(self) -> bool:
        return bool((self.gain > 0).all())

    @property
    def scales(self) -> bool:
        """Whether it leaves 0 where it is."""
        return not bool(self.shift.any())

    @property
    def scalar(self) -> bool:
        return self.gain.numel() == self.shift.numel() == 1

    @property
    def neutral(self) -> bool:
        return self.scales and bool((self.gain == 1).all())

    def without_shift(self) -> "Affine":
        return Affine(self.gain, torch.zeros_like(self.shift))

    def part(self, axis: int, first: int, size: int) -> "Affine":
        """The map of some entries along a dimension."""
        pair = (t.narrow(axis, first, size) if t.shape[axis] > 1 else t for t in (self.gain, self.shift))
        return Affine(*pair)

    def vectors(self, axis: int, size: int) -> tuple[Tensor, Tensor] | None:
        """Gain and shift of every entry along a dimension; None where they differ along others."""
        found = []
        for tensor in (self.gain, self.shift):
            rows = tensor.movedim(axis, 0).flatten(1)
            if bool((rows != rows[:, :1]).any()):
                return None
            found.append(rows[:, 0].expand(size).clone())
        return found[0], found[1]


@dataclass(frozen=True)
class Share:
    """What one layer takes over.

    Args:
        node: the layer.
        gain, shift: float64, of every channel that it gives, or that it reads.
    """

    node: fx.Node
    gain: Tensor
    shift: Tensor


def channel_axis(layer: nn.Module | None, node: fx.Node) -> int:
    """Return which dimension of a node, which a layer reads or gives, is that of the channels."""
    return node.meta["example"].dim() - 1 if isinstance(layer, nn.Linear) else 1


def layers_before(graph: fx.GraphModule, node: fx.Node, affine: Affine) -> list[Share] | None:
    """Return the layers that compute `affine` of a node where their results are scaled and shifted; None where none do.

    Args:
        graph: in canonical form.
        node: what the map reads. Nobody else may.
        affine: the map.
    """
    module = module_of(graph, node)
    if len(node.users) != 1 or node.op not in ("call_module", "call_function", "call_method"):
        return None
    if isinstance(module, LAYERS):
        axis = channel_axis(module, node)
        vectors = affine.vectors(axis, node.meta["example"].shape[axis])
        return None if vectors is None else [Share(node, *vectors)]
    if node.target in (operator.add, operator.sub, operator.mul):
        return _before_arithmetic(graph, node, affine)
    if node.target in (torch.cat, torch.concat):
        return _before_cat(graph, node, affine)
    if passes := _passes(graph, node, affine):
        return layers_before(graph, sole_input(node), affine)
    before = None if passes is not None else _unmoved(graph, node, affine)
    return None if before is None else layers_before(graph, sole_input(node), before)


def _before_arithmetic(graph: fx.GraphModule, node: fx.Node, affine: Affine) -> list[Share] | None:
    shape = node.meta["example"].shape
    terms = [a for a in node.args if isinstance(a, fx.Node) and a.op != "get_attr" and a.meta["example"].shape == shape]
    if node.target is operator.mul:
        found = [layers_before(graph, term, affine) for term in terms] if affine.scales else []
        return next((shares for shares in found if shares is not None), None) if len(set(node.args)) == 2 else None
    if len(set(terms)) != 2:
        return None
    gain, negative = affine.without_shift(), Affine(affine.gain, -affine.shift)
    for maps in ((affine, gain), (gain, negative if node.target is operator.sub else affine)):
        found = [layers_before(graph, term, one) for term, one in zip(terms, maps, strict=True)]
        if (shares := _together(found)) is not None:
            return shares
    return None


def _before_cat(graph: fx.GraphModule, node: fx.Node, affine: Affine) -> list[Share] | None:
    pieces, first, found = node.args[0], 0, []
    axis = argument(node, 1, "dim", 0) % node.meta["example"].dim()
    if not isinstance(pieces, list | tuple) or len(set(pieces)) < len(pieces):
        return None
    for piece in pieces:
        if not isinstance(piece, fx.Node) or not isinstance(piece.meta.get("example"), Tensor):
            return None
        size = piece.meta["example"].shape[axis]
        found.append(layers_before(graph, piece, affine.part(axis, first, size)))
        first += size
    return _together(found)


def _together(found: Sequence[list[Share] | None]) -> list[Share] | None:
    if any(shares is None for shares in found):
        return None
    return [share for shares in found if shares is not None for share in shares]


def layers_behind(graph: fx.GraphModule, node: fx.Node, affine: Affine) -> list[Share] | None:
    """Return the layers that give the same without `affine` where what they read is weighed for it; None where none do.

    Args:
        graph: in canonical form.
        node: what gives the result of the map.
        affine: the map.
    """
    if not node.users:
        return None
    return _together([_reader(graph, user, node, affine) for user in node.users])


def _reader(graph: fx.GraphModule, user: fx.Node, node: fx.Node, affine: Affine) -> list[Share] | None:
    module = module_of(graph, user)
    if input_tensors(user) != [node] or user.op not in ("call_module", "call_function", "call_method"):
        return None
    if isinstance(module, LAYERS):
        axis = channel_axis(module, node)
        vectors = affine.vectors(axis, node.meta["example"].shape[axis])
        exact = affine.scales or not _reads_zeros(module)
        return [Share(user, *vectors)] if vectors is not None and exact else None
    passes = _passes(graph, user, affine)
    if passes is None:
        moved = _moved(graph, user, node, affine)
        return None if moved is None else layers_behind(graph, user, moved)
    return layers_behind(graph, user, affine) if passes else None


def _reads_zeros(layer: nn.Module) -> bool:
    """Whether some results are sums over fewer inputs than others, as at a border of zeros."""
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and (isinstance(layer.padding, str) or any(layer.padding))
    return isinstance(layer, nn.ConvTranspose2d)


def _unmoved(graph: fx.GraphModule, mover: fx.Node, affine: Affine) -> Affine | None:
    """The map of the same numbers where they come from; None where it is not the same for every row there."""
    before, after = sole_input(mover).meta["example"].shape, mover.meta["example"].shape
    if affine.scalar:
        return Affine(*(t.reshape([1] * len(before)) for t in (affine.gain, affine.shift)))
    if before.numel() != after.numel():
        return None
    numbers = torch.arange(before.numel()).reshape(before)
    places = recompute(graph, mover, lambda _: numbers).flatten()
    found = []
    for tensor in (affine.gain, affine.shift):
        back = torch.empty(before.numel(), dtype=tensor.dtype)
        back[places] = tensor.expand(after).flatten()
        back = back.reshape(before)
        if not torch.equal(back[:1].expand(before), back):
            return None
        found.append(back[:1])
    return Affine(found[0], found[1])


def _moved(graph: fx.GraphModule, mover: fx.Node, node: fx.Node, affine: Affine) -> Affine | None:
    """The map of the same numbers where they are moved to; None where it is not the same for every row there."""
    before, after = node.meta["example"].shape, mover.meta["example"].shape

    def move(tensor: Tensor) -> Tensor | None:
        moved: Tensor = recompute(graph, mover, lambda _: tensor.expand(before))
        return moved[:1] if moved.shape == after and torch.equal(moved[:1].expand_as(moved), moved) else None

    gain, shift = move(affine.gain), move(affine.shift)
    return None if gain is None or shift is None else Affine(gain, shift)


def _passes(graph: fx.GraphModule, node: fx.Node, affine: Affine) -> bool | None:
    """Whether a map of what an operation reads is the same map of what it gives; None where it moves the numbers."""
    module, name = module_of(graph, node), op_name(node) if node.op != "call_module" else ""
    if isinstance(module, RAMPS):
        return affine.scales and affine.positive and len(input_tensors(node)) == 1
    if isinstance(module, nn.MaxPool2d) or name == "max_pool2d":
        return affine.positive
    if isinstance(module, nn.AvgPool2d):
        return affine.scales or not module.count_include_pad or module.padding in (0, (0, 0))
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.Upsample) or node.target is F.interpolate:
        return True
    if isinstance(module, nn.ZeroPad2d) or (name == "pad" and len(node.args) < 4 and not node.kwargs.get("value")):
        return affine.scales and argument(node, 2, "mode", "constant") == "constant"
    if isinstance(module, nn.Flatten) or name in MOVERS:
        return None
    return False
