"""Products with a constant matrix become linear layers: x @ W, W @ x, torch.addmm, tensordot, einsum."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ptq.graph.canonicalization.batch_constants import expand_to_batch
from ptq.graph.fx_helpers import argument, attribute

__all__ = ["Made", "addmm", "constant", "einsum", "inner", "linear", "matmul", "tensordot", "with_weights"]

Made = tuple[fx.Node, nn.Module] | None
"""What is read, and the layer that does what a function did; None where it is no layer."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # for the dimensions that "..." stands for


def constant(graph: fx.GraphModule, value: object) -> Tensor | None:
    """Return a copy of the tensor that a node stands for, if it is a constant."""
    held = attribute(graph, value) if isinstance(value, fx.Node) and value.op == "get_attr" else None
    return held.detach().clone() if isinstance(held, Tensor) else None


def with_weights(layer: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Return `layer` with these weights."""
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    assert isinstance(layer, nn.Module)
    return layer


def linear(graph: fx.GraphModule, node: fx.Node) -> Made:
    """F.linear."""
    x, bias = argument(node, 0, "input"), argument(node, 2, "bias")
    return _as_linear(graph, node, x, constant(graph, argument(node, 1, "weight")), bias)


def matmul(graph: fx.GraphModule, node: fx.Node) -> Made:
    """Products from the right, x @ W; those from the left, W @ x, are products from the right of what is transposed."""
    x, other = argument(node, 0, "input"), argument(node, 1, "other", node.kwargs.get("mat2"))
    if (matrix := _matrix(graph, other)) is not None:
        return _as_linear(graph, node, x, matrix.T.contiguous(), None)
    matrix = _matrix(graph, x)
    if matrix is None or not isinstance(other, fx.Node) or other.meta["example"].dim() < 3:
        return None
    return _between(graph, node, other, [("transpose", -1, -2)], _linear(matrix), [("transpose", -1, -2)])


def inner(graph: fx.GraphModule, node: fx.Node) -> Made:
    """torch.inner, a product with a transposed matrix."""
    return _as_linear(graph, node, argument(node, 0, "input"), constant(graph, argument(node, 1, "other")), None)


def addmm(graph: fx.GraphModule, node: fx.Node) -> Made:
    """torch.addmm, of a bias and a product."""
    if node.kwargs or len(node.args) != 3:  # beta or alpha
        return None
    bias, x, weight = node.args
    matrix = _matrix(graph, weight)
    return None if matrix is None else _as_linear(graph, node, x, matrix.T.contiguous(), bias)


def tensordot(graph: fx.GraphModule, node: fx.Node) -> Made:
    """torch.tensordot, as the einsum that it is."""
    x, weight, dims = argument(node, 0, "a"), argument(node, 1, "b"), argument(node, 2, "dims", 2)
    held = constant(graph, weight)
    if held is None or not isinstance(x, fx.Node) or x.op == "get_attr":
        return None
    rank = x.meta["example"].dim()
    if isinstance(dims, int):
        dims = (range(rank - dims, rank), range(dims))
    read, axes = list(LETTERS[:rank]), list(LETTERS[rank : rank + held.dim()].lower())
    for left, right in zip(*dims, strict=True):
        axes[right] = read[left]
    result = [a for a in read if a not in axes] + [a for a in axes if a not in read]
    return _contraction(graph, node, x, held, "".join(read), "".join(axes), "".join(result))


def einsum(graph: fx.GraphModule, node: fx.Node) -> Made:
    """torch.einsum of a tensor and a constant."""
    equation, *operands = node.args
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    if not isinstance(equation, str) or len(operands) != 2:
        return None
    inputs, _, result = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if "->" not in equation:  # what is there once, in alphabetical order
        letters = inputs.replace(",", "").replace(".", "")
        result = "..." * ("." in inputs) + "".join(sorted(a for a in set(letters) if letters.count(a) == 1))
    if constant(graph, operands[1]) is None:
        operands, terms = operands[::-1], terms[::-1]
    x, held = operands[0], constant(graph, operands[1])
    if held is None or not isinstance(x, fx.Node) or x.op == "get_attr":
        return None
    read, axes = terms
    if "..." in read:
        more = LETTERS[: x.meta["example"].dim() - len(read) + len("...")]
        read, result = read.replace("...", more), result.replace("...", more)
    return _contraction(graph, node, x, held, read, axes, result)


def _contraction(
    graph: fx.GraphModule, node: fx.Node, x: fx.Node, held: Tensor, read: str, axes: str, result: str
) -> Made:
    """A sum over dimensions that a tensor and a constant share, each dimension called by a letter."""
    summed = [a for a in read if a in axes]
    kept = [a for a in axes if a not in read]
    rest = [a for a in read if a not in axes]
    if not summed or not kept or len(set(read)) != len(read) or len(set(axes)) != len(axes) or "." in axes + result:
        return None
    if sorted(result) != sorted(rest + kept):
        return None  # a dimension that is in all of them, or summed in one
    sizes = [held.shape[axes.index(a)] for a in kept]
    matrix = held.permute([axes.index(a) for a in (*kept, *summed)]).reshape(torch.Size(sizes).numel(), -1)
    if len(read) == 4 and read[1] == summed[0] and result == read.replace(summed[0], kept[0]):
        layer = nn.Conv2d(matrix.shape[1], matrix.shape[0], 1, bias=False)
        return x, with_weights(layer, matrix[..., None, None].contiguous(), None)
    before: list[tuple[Any, ...]] = [("permute", *(read.index(a) for a in rest + summed)), ("flatten", len(rest))]
    after: list[tuple[Any, ...]] = [("unflatten", -1, tuple(sizes))]
    after.append(("permute", *((rest + kept).index(a) for a in result)))
    return _between(
        graph, node, x, before[: 1 + (len(summed) > 1)], _linear(matrix.contiguous()), after[len(kept) == 1 :]
    )


def _between(
    graph: fx.GraphModule, node: fx.Node, x: fx.Node, before: Sequence[Any], layer: nn.Module, after: Sequence[Any]
) -> Made:
    """Put moves of numbers, each a tensor's method and its arguments, before and behind the layer that a node becomes."""
    for method, *args in before:
        if method != "permute" or args != sorted(args):
            with graph.graph.inserting_before(node):
                x, source = graph.graph.call_method(method, (x, *args)), x
            x.meta = dict(node.meta) | {"example": getattr(source.meta["example"], method)(*args)}
    readers, last, value = list(node.users), node, layer(x.meta["example"])
    node.meta["example"] = value
    for method, *args in after:
        if method != "permute" or args != sorted(args):
            with graph.graph.inserting_after(last):
                last = graph.graph.call_method(method, (last, *args))
            value = getattr(value, method)(*args)
            last.meta = dict(node.meta) | {"example": value}
    node.replace_all_uses_with(last, delete_user_cb=readers.__contains__)
    return x, layer


def _matrix(graph: fx.GraphModule, value: object) -> Tensor | None:
    """A constant matrix, also where it is repeated for every image."""
    if isinstance(value, fx.Node) and value.target is expand_to_batch:
        value = value.args[0]
    held = constant(graph, value)
    if held is None or held.dim() < 2 or held.shape[:-2].numel() != 1:
        return None
    return held.reshape(held.shape[-2:])


def _linear(matrix: Tensor) -> nn.Module:
    return with_weights(nn.Linear(matrix.shape[1], matrix.shape[0], False), matrix, None)


def _as_linear(graph: fx.GraphModule, node: fx.Node, x: object, matrix: Tensor | None, bias: object) -> Made:
    """A linear layer with `matrix`, (outputs, inputs), where it reads a tensor and gives as many dimensions."""
    if matrix is None or matrix.dim() != 2 or not isinstance(x, fx.Node) or x.op == "get_attr":
        return None
    shift = constant(graph, bias)
    if (bias is not None and (shift is None or shift.dim() != 1)) or x.meta["example"].dim() != node.meta[
        "example"
    ].dim():
        return None
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], shift is not None)
    return x, with_weights(layer, matrix, shift)
