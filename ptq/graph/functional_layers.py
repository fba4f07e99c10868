"""Layers that are written as functions of a constant become modules: F.conv2d, x @ W, torch.addmm, einsum, F.batch_norm.

Layers over one dimension become layers over two, of height 1, because integer kernels know no others.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import add_module, argument, attribute, module_of, sole_input

__all__ = ["LAYER_FUNCTIONS", "layer_from_function", "widen"]

HEIGHT = 2  # the dimension that a layer over one dimension gets


def layer_from_function(graph: fx.GraphModule, node: fx.Node, name: str) -> None:
    """Make a call of `name`, a key of `LAYER_FUNCTIONS`, a call of a module, where its weights are constants."""
    made = LAYER_FUNCTIONS[name](graph, node)
    if made is not None:
        x, layer = made
        add_module(graph, node, layer.eval().requires_grad_(False), x)
        widen(graph, node)


def widen(graph: fx.GraphModule, node: fx.Node) -> None:
    """Write a Conv1d or ConvTranspose1d, or a BatchNorm1d over (N, C, L), as one over (N, C, 1, L)."""
    source, made = sole_input(node), _wide(module_of(graph, node), node)
    if made is None:
        return
    if source.target is torch.squeeze and source.args[1:] == (HEIGHT,):
        wide = sole_input(source)  # behind another layer that became wide
    else:
        with graph.graph.inserting_before(node):
            wide = graph.graph.call_function(torch.unsqueeze, (source, HEIGHT))
        wide.meta = dict(source.meta) | {"example": source.meta["example"].unsqueeze(HEIGHT)}
    with graph.graph.inserting_after(node):
        narrow = graph.graph.call_function(torch.squeeze, (node, HEIGHT))
    narrow.meta = dict(node.meta)
    node.replace_all_uses_with(narrow, delete_user_cb=lambda user: user is not narrow)
    node.meta["example"] = node.meta["example"].unsqueeze(HEIGHT)
    add_module(graph, node, made, wide)


def _wide(module: nn.Module | None, node: fx.Node) -> nn.Module | None:
    made: nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d
    if isinstance(module, nn.BatchNorm1d) and node.meta["example"].dim() == 3:
        made = nn.BatchNorm2d(module.num_features, module.eps, affine=module.affine)
        made.load_state_dict(module.state_dict())
        return made.eval().requires_grad_(False)
    if not isinstance(module, nn.Conv1d | nn.ConvTranspose1d) or module.padding_mode != "zeros":
        return None
    if node.meta["example"].dim() != 3:
        return None
    padding, dilation, stride = module.padding, module.dilation[0], module.stride[0]
    if isinstance(padding, str):
        total = dilation * (module.kernel_size[0] - 1) if padding == "same" else 0
        if total % 2:
            return None
        padding = (total // 2,)
    sizes = {"stride": (1, stride), "padding": (0, padding[0]), "dilation": (1, dilation), "groups": module.groups}
    kernel, bias = (1, module.kernel_size[0]), module.bias is not None
    if isinstance(module, nn.Conv1d):
        made = nn.Conv2d(module.in_channels, module.out_channels, kernel, bias=bias, **sizes)  # type: ignore[arg-type]
    else:
        extra = (0, module.output_padding[0])
        made = nn.ConvTranspose2d(
            module.in_channels,
            module.out_channels,
            kernel,
            bias=bias,
            output_padding=extra,
            **sizes,  # type: ignore[arg-type]
        )
    made.weight.data = module.weight.detach().unsqueeze(HEIGHT)
    if module.bias is not None and made.bias is not None:
        made.bias.data = module.bias.detach()
    return made.eval().requires_grad_(False)


Made = tuple[fx.Node, nn.Module] | None
_CONVOLUTIONS: Mapping[str, type[nn.Module]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv_transpose1d": nn.ConvTranspose1d,
    "conv_transpose2d": nn.ConvTranspose2d,
}


def _constant(graph: fx.GraphModule, value: object) -> Tensor | None:
    held = attribute(graph, value) if isinstance(value, fx.Node) and value.op == "get_attr" else None
    return held.detach().clone() if isinstance(held, Tensor) else None


def _with_weights(layer: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    assert isinstance(layer, nn.Module)
    return layer


def _convolution(name: str) -> Callable[[fx.GraphModule, fx.Node], Made]:
    def make(graph: fx.GraphModule, node: fx.Node) -> Made:
        weight, bias = _constant(graph, argument(node, 1, "weight")), argument(node, 2, "bias")
        constant = _constant(graph, bias)
        if weight is None or (bias is not None and constant is None):
            return None
        transposed = "transpose" in name
        options = {"stride": argument(node, 3, "stride", 1), "padding": argument(node, 4, "padding", 0)}
        options["groups"] = groups = argument(node, 6, "groups", 1)
        options["dilation"] = argument(node, 7 if transposed else 5, "dilation", 1)
        first, second = weight.shape[0], weight.shape[1] * groups
        if transposed:
            options["output_padding"] = argument(node, 5, "output_padding", 0)
        channels = (first, second) if transposed else (second, first)
        layer = _CONVOLUTIONS[name](*channels, tuple(weight.shape[2:]), bias=constant is not None, **options)
        return sole_input(node), _with_weights(layer, weight, constant)

    return make


def _linear(graph: fx.GraphModule, node: fx.Node) -> Made:
    bias = argument(node, 2, "bias")
    return _as_linear(graph, node.args[0], argument(node, 1, "weight"), bias, transposed=False)


def _matmul(graph: fx.GraphModule, node: fx.Node) -> Made:
    return _as_linear(graph, node.args[0], argument(node, 1, "other", node.kwargs.get("mat2")), None, transposed=True)


def _addmm(graph: fx.GraphModule, node: fx.Node) -> Made:
    if node.kwargs or len(node.args) != 3:  # beta or alpha
        return None
    bias, x, weight = node.args
    return _as_linear(graph, x, weight, bias, transposed=True)


def _as_linear(graph: fx.GraphModule, x: object, weight: object, bias: object, *, transposed: bool) -> Made:
    matrix, constant = _constant(graph, weight), _constant(graph, bias)
    if matrix is None or matrix.dim() != 2 or not isinstance(x, fx.Node) or x.op == "get_attr":
        return None
    if bias is not None and (constant is None or constant.dim() != 1):
        return None
    matrix = matrix.T.contiguous() if transposed else matrix
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], constant is not None)
    return x, _with_weights(layer, matrix, constant)


def _einsum(graph: fx.GraphModule, node: fx.Node) -> Made:
    """A sum over the last dimension of a tensor, or over the channels of (N, C, H, W), times a constant matrix."""
    equation, *operands = node.args
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    if not isinstance(equation, str) or "->" not in equation or len(operands) != 2:
        return None
    inputs, result = equation.replace(" ", "").split("->")
    terms = inputs.split(",")
    if _constant(graph, operands[1]) is None:
        operands, terms = operands[::-1], terms[::-1]
    (x, weight), (read, axes) = operands, terms
    matrix = _constant(graph, weight)
    if matrix is None or matrix.dim() != 2 or not isinstance(x, fx.Node) or "." in axes:
        return None
    summed = [letter for letter in axes if letter in read and letter not in result]
    kept = [letter for letter in axes if letter not in read]
    if len(summed) != 1 or len(kept) != 1 or result != read.replace(summed[0], kept[0]):
        return None
    matrix = matrix if axes == kept[0] + summed[0] else matrix.T.contiguous()
    if read.endswith(summed[0]):
        return x, _with_weights(nn.Linear(matrix.shape[1], matrix.shape[0], False), matrix, None)
    if len(read) == 4 and "." not in read and read[1] == summed[0]:
        layer = nn.Conv2d(matrix.shape[1], matrix.shape[0], 1, bias=False)
        return x, _with_weights(layer, matrix[..., None, None], None)
    return None


def _batch_norm(graph: fx.GraphModule, node: fx.Node) -> Made:
    names = ("running_mean", "running_var", "weight", "bias")
    given = [argument(node, at, name) for at, name in enumerate(names, 1)]
    held = [_constant(graph, value) for value in given]
    dimensions = node.meta["example"].dim()
    if argument(node, 5, "training", False) or held[0] is None or held[1] is None or dimensions not in (2, 3, 4):
        return None
    if any(value is not None and constant is None for value, constant in zip(given, held, strict=True)):
        return None
    kind = nn.BatchNorm2d if dimensions == 4 else nn.BatchNorm1d
    norm = kind(held[0].numel(), eps=argument(node, 7, "eps", 1e-5))
    norm.load_state_dict(
        {name: value for name, value in zip(names, held, strict=True) if value is not None}, strict=False
    )
    return sole_input(node), norm


LAYER_FUNCTIONS: Mapping[str, Callable[[fx.GraphModule, fx.Node], Made]] = {
    **{name: _convolution(name) for name in _CONVOLUTIONS},
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "addmm": _addmm,
    "einsum": _einsum,
    "batch_norm": _batch_norm,
}
