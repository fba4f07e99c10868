"""Functions that are several operations in one become these: glu, addcmul, lerp, attention, sums over a stack, pieces of a list.

What they become has integer kernels, or passes that know it. The functions themselves have neither.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import argument, attribute, module_of, op_name, sole_input

__all__ = ["take_apart"]

FEW = 4  # sums over more entries than this stay one operation


class _Writer:
    """Writes operations before a node, each with the tensor it gives on the example."""

    def __init__(self, graph: fx.GraphModule, node: fx.Node) -> None:
        self.graph, self.node = graph, node

    def __call__(self, function: Callable[..., Any], *args: Any) -> fx.Node:
        with self.graph.graph.inserting_before(self.node):
            written = self.graph.graph.call_function(function, args)
        values = fx.map_arg(args, lambda node: node.meta["example"])
        written.meta = dict(self.node.meta) | {"example": function(*values)}
        return written

    def constant(self, value: Tensor) -> fx.Node:
        name = f"constant_{self.node.name}"
        self.graph.register_buffer(name, value)
        with self.graph.graph.inserting_before(self.node):
            written = self.graph.graph.get_attr(name)
        written.meta = {"example": value}
        return written


def take_apart(graph: fx.GraphModule) -> None:
    """Write functions that are several operations as these, in place.

    Args:
        graph: as `trace` gives it, with constants computed.
    """
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            node.meta.setdefault("example", attribute(graph, node))
        if isinstance(node.meta.get("example"), tuple | list):
            _list_pieces(graph, node)
    for node in list(graph.graph.nodes):
        if node.op not in ("call_function", "call_method", "call_module"):
            continue
        module = module_of(graph, node)
        name = "glu" if isinstance(module, nn.GLU) else op_name(node).removesuffix("_") if module is None else ""
        plain = PLAIN.get(name)
        if plain is not None and (result := plain(_Writer(graph, node), node)) is not None:
            node.replace_all_uses_with(result)
    graph.graph.eliminate_dead_code()


def _list_pieces(graph: fx.GraphModule, node: fx.Node) -> None:
    """Let who reads several tensors at once, all of them or a slice, read a list of single ones."""
    readers = [user for user in node.users if not _picks_one(user)]
    if not readers or not all(isinstance(x, Tensor) for x in node.meta["example"]):
        return
    after = node.next
    pieces = [_Writer(graph, after)(operator.getitem, node, at) for at in range(len(node.meta["example"]))]
    for user in readers:
        if user.target is operator.getitem:
            _replace_by_list(user, _sliced(pieces, user))
        elif user.op != "output":
            _replace_in(user, node, pieces)


def _picks_one(user: fx.Node) -> bool:
    return op_name(user) == "getattr" or (user.target is operator.getitem and isinstance(user.args[1], int))


def _replace_by_list(node: fx.Node, pieces: Sequence[fx.Node]) -> None:
    for user in list(node.users):
        at = user.args[1] if user.target is operator.getitem else None
        if isinstance(at, int):
            user.replace_all_uses_with(pieces[at])
        elif at is not None:
            _replace_by_list(user, _sliced(pieces, user))
        else:
            _replace_in(user, node, pieces)


def _sliced(pieces: Sequence[fx.Node], user: fx.Node) -> Sequence[fx.Node]:
    part = user.args[1]
    assert isinstance(part, slice)
    return pieces[part]


def _replace_in(user: fx.Node, node: fx.Node, pieces: Sequence[fx.Node]) -> None:
    user.args, user.kwargs = fx.map_arg(
        (user.args, dict(user.kwargs)), lambda value: list(pieces) if value is node else value
    )


def _glu(write: _Writer, node: fx.Node) -> fx.Node:
    module = module_of(write.graph, node)
    dim = module.dim if isinstance(module, nn.GLU) else argument(node, 1, "dim", -1)
    halves = write(torch.chunk, sole_input(node), 2, dim)
    scaled, read = (write(operator.getitem, halves, at) for at in (0, 1))
    return write(operator.mul, scaled, write(torch.sigmoid, read))


def _addcmul(write: _Writer, node: fx.Node) -> fx.Node:
    x, first, second = (argument(node, at, name) for at, name in enumerate(("input", "tensor1", "tensor2")))
    return write(operator.add, x, _times(write, write(operator.mul, first, second), node.kwargs.get("value", 1)))


def _with_alpha(operation: Callable[..., Any]) -> Callable[[_Writer, fx.Node], fx.Node | None]:
    def plain(write: _Writer, node: fx.Node) -> fx.Node | None:
        if "alpha" not in node.kwargs:
            return None
        x, other = argument(node, 0, "input"), argument(node, 1, "other")
        return write(operation, x, _times(write, other, node.kwargs["alpha"]))

    return plain


def _reversed_difference(write: _Writer, node: fx.Node) -> fx.Node:
    x, other = argument(node, 0, "input"), argument(node, 1, "other")
    return write(operator.sub, other, _times(write, x, argument(node, 2, "alpha", 1)))


def _lerp(write: _Writer, node: fx.Node) -> fx.Node:
    start, end, weight = (argument(node, at, name) for at, name in enumerate(("input", "end", "weight")))
    if isinstance(weight, fx.Node):
        held = attribute(write.graph, weight) if weight.op == "get_attr" else None
        rest = write(operator.sub, 1.0, weight) if held is None else write.constant(1 - held.detach())
        return write(operator.add, write(operator.mul, start, rest), write(operator.mul, end, weight))
    return write(operator.add, _times(write, start, 1 - weight), _times(write, end, weight))


def _attention(write: _Writer, node: fx.Node) -> fx.Node | None:
    """Attention of windows in groups, or without heads: files have an operator for (images, heads, tokens, width) alone."""
    query, key, value = (argument(node, at, name) for at, name in enumerate(("query", "key", "value")))
    mask, dropout, causal = (
        argument(node, at, name) for at, name in ((3, "attn_mask"), (4, "dropout_p"), (5, "is_causal"))
    )
    q = query.meta["example"]
    if q.dim() == 4 or dropout or node.kwargs.get("enable_gqa"):
        return None
    scale = argument(node, 6, "scale") or q.shape[-1] ** -0.5
    scores = write(torch.matmul, _times(write, query, scale), write(torch.transpose, key, -2, -1))
    if causal:
        shape = scores.meta["example"].shape[-2:]
        mask = write.constant(torch.full(shape, -math.inf).triu(1))
    if mask is not None:
        allowed = mask.meta["example"].dtype == torch.bool
        scores = write(torch.where, mask, scores, -math.inf) if allowed else write(operator.add, scores, mask)
    return write(torch.matmul, write(torch.softmax, scores, -1), value)


def _times(write: _Writer, value: Any, factor: Any) -> Any:
    if isinstance(factor, int | float) and factor == 1:
        return value
    return write(operator.mul, value, factor) if isinstance(value, fx.Node) else value * factor


def _of_two(function: Callable[..., Any]) -> Callable[[_Writer, fx.Node], fx.Node | None]:
    """torch.max(a, b) and its like."""

    def plain(write: _Writer, node: fx.Node) -> fx.Node | None:
        x, other = argument(node, 0, "input"), argument(node, 1, "other")
        return write(function, x, other) if isinstance(other, fx.Node) else None

    return plain


def _sum(write: _Writer, node: fx.Node) -> fx.Node | None:
    """A sum over all pixels is their mean times their number; one over the few tensors of a stack adds these."""
    source, (dims, keep) = sole_input(node), _reduced(node)
    x = source.meta["example"]
    if x.dim() == 4 and dims == {2, 3} and x.is_floating_point():
        total: fx.Node = _times(write, write(torch.mean, source, (2, 3), keep), x.shape[2] * x.shape[3])
        return total
    return None if keep else _sum_of_few(write, source, dims)


def _mean(write: _Writer, node: fx.Node) -> fx.Node | None:
    source, (dims, keep) = sole_input(node), _reduced(node)
    total = None if keep else _sum_of_few(write, source, dims)
    return total and _times(write, total, 1 / source.meta["example"].shape[next(iter(dims))])


def _reduced(node: fx.Node) -> tuple[set[int], bool]:
    """Which dimensions a reduction takes in, and whether it keeps them; none where it converts, too."""
    given, keep = argument(node, 1, "dim"), argument(node, 2, "keepdim", False)
    if given is None or {*node.kwargs} - {"dim", "keepdim"}:
        return set(), False
    rank = sole_input(node).meta["example"].dim()
    return {d % rank for d in ((given,) if isinstance(given, int) else given)}, keep


def _sum_of_few(write: _Writer, source: fx.Node, dims: set[int]) -> fx.Node | None:
    """The sum over a dimension that is none of images, channels or pixels: paths, or the groups of a split attention."""
    x = source.meta["example"]
    if len(dims) != 1:
        return None
    (dim,) = dims
    if not 1 < x.shape[dim] <= FEW or not (source.target is torch.stack or (x.dim() == 5 and dim > 0)):
        return None
    total, *others = (_piece(write, source, dim, at) for at in range(x.shape[dim]))
    for other in others:
        total = write(operator.add, total, other)
    return total


def _piece(write: _Writer, node: fx.Node, dim: int, at: int) -> fx.Node:
    """One entry along a dimension, of what is stacked there or multiplied, without the rest of it."""
    x = node.meta["example"]
    if x.shape[dim] == 1:
        at = 0
    if node.target is torch.stack and argument(node, 1, "dim", 0) % x.dim() == dim:
        tensors = argument(node, 0, "tensors")
        if isinstance(tensors, list | tuple):
            stacked: fx.Node = tensors[at]
            return stacked
    factors = [a for a in node.args if isinstance(a, fx.Node) and a.meta["example"].dim() == x.dim()]
    if op_name(node) == "mul" and len(factors) == len(node.args) == 2 and len(node.users) == 1:
        first, second = (_piece(write, factor, dim, at) for factor in factors)
        return write(operator.mul, first, second)
    return write(torch.select, node, dim, at)


def _picked(write: _Writer, node: fx.Node) -> fx.Node | None:
    """Indexing along one dimension with a list, or a constant of integers, as torch.index_select."""
    source, index = node.args
    x = source.meta["example"] if isinstance(source, fx.Node) else None
    every = list(index) if isinstance(index, tuple) else [index]
    if not isinstance(x, Tensor) or any(part is None or isinstance(part, bool) for part in every):
        return None
    for place in [at for at, part in enumerate(every) if part is Ellipsis]:
        every[place : place + 1] = [slice(None)] * (x.dim() - len(every) + 1)
    picking = [d for d, part in enumerate(every) if not (isinstance(part, slice) and part == slice(None))]
    if len(picking) != 1:
        return None
    (dim,) = picking
    wanted = _indices(write.graph, every[dim])
    return None if wanted is None else write(torch.index_select, source, dim, write.constant(wanted % x.shape[dim]))


def _indices(graph: fx.GraphModule, part: object) -> Tensor | None:
    """Constant indices, (count,), int64; None for anything else."""
    if isinstance(part, fx.Node):
        held = attribute(graph, part) if part.op == "get_attr" else None
        whole = isinstance(held, Tensor) and held.dtype in (torch.int32, torch.int64) and held.dim() == 1
        return held.long() if whole and isinstance(held, Tensor) else None
    numbers = isinstance(part, list | tuple) and part and all(type(at) is int for at in part)
    return torch.tensor(list(part)) if numbers and isinstance(part, list | tuple) else None


PLAIN: Mapping[str, Callable[[_Writer, fx.Node], fx.Node | None]] = {
    "glu": _glu,
    "addcmul": _addcmul,
    "add": _with_alpha(operator.add),
    "sub": _with_alpha(operator.sub),
    "rsub": _reversed_difference,
    "lerp": _lerp,
    "fmax": _of_two(torch.maximum),
    "fmin": _of_two(torch.minimum),
    "max": _of_two(torch.maximum),
    "min": _of_two(torch.minimum),
    "sum": _sum,
    "mean": _mean,
    "getitem": _picked,
    "scaled_dot_product_attention": _attention,
}
