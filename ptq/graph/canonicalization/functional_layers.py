"""Layers that are written as functions of a constant become modules: F.conv2d, x @ W, torch.addmm, einsum, F.batch_norm.

Layers over one dimension become layers over two, of height 1, because integer kernels know no others.
"""

from collections.abc import Callable, Mapping

import torch
from torch import fx, nn
from torch.nn import functional as F

from ptq.graph.canonicalization.constant_products import (
    Made,
    addmm,
    constant,
    einsum,
    inner,
    linear,
    matmul,
    tensordot,
    with_weights,
)
from ptq.graph.fx_helpers import add_module, argument, module_of, sole_input

__all__ = ["LAYER_FUNCTIONS", "explicit_padding", "layer_from_function", "widen"]

HEIGHT = 2  # the dimension that a layer over one dimension gets
_PAD_MODES = {"zeros": "constant"}  # what F.pad calls a padding_mode, where it has another name


def layer_from_function(graph: fx.GraphModule, node: fx.Node, name: str) -> None:
    """Make a call of `name`, a key of `LAYER_FUNCTIONS`, a call of a module, where its weights are constants."""
    made = LAYER_FUNCTIONS[name](graph, node)
    if made is not None:
        x, layer = made
        add_module(graph, node, layer.eval().requires_grad_(False), x)
        widen(graph, node)
        explicit_padding(graph, node)


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
    if not isinstance(module, nn.Conv1d | nn.ConvTranspose1d) or node.meta["example"].dim() != 3:
        return None
    padding, dilation, stride = module.padding, module.dilation[0], module.stride[0]
    padding = padding if isinstance(padding, str) else (0, padding[0])
    sizes = {"stride": (1, stride), "padding": padding, "dilation": (1, dilation), "groups": module.groups}
    kernel, bias = (1, module.kernel_size[0]), module.bias is not None
    if isinstance(module, nn.Conv1d):
        made = nn.Conv2d(
            module.in_channels,
            module.out_channels,
            kernel,
            bias=bias,
            padding_mode=module.padding_mode,
            **sizes,  # type: ignore[arg-type]
        )
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


def explicit_padding(graph: fx.GraphModule, node: fx.Node) -> None:
    """Write a convolution with padding "same" or "valid" as one with numbers, behind a pad where these are uneven."""
    layer = module_of(graph, node)
    if not isinstance(layer, nn.Conv2d) or not isinstance(layer.padding, str):
        return
    source, same = sole_input(node), layer.padding == "same"
    total = [d * (k - 1) * same for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    (top, left), (bottom, right) = [n // 2 for n in total], [n - n // 2 for n in total]
    even = (top, left) == (bottom, right)
    if not even:
        pads, mode = (left, right, top, bottom), _PAD_MODES.get(layer.padding_mode, layer.padding_mode)
        with graph.graph.inserting_before(node):
            padded = graph.graph.call_function(F.pad, (source, pads, mode))
        padded.meta = dict(node.meta) | {"example": F.pad(source.meta["example"], pads, mode)}
        source = padded
    plain = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        (layer.kernel_size[0], layer.kernel_size[1]),
        (layer.stride[0], layer.stride[1]),
        (top, left) if even else 0,
        (layer.dilation[0], layer.dilation[1]),
        layer.groups,
        layer.bias is not None,
        layer.padding_mode if even else "zeros",
        device="meta",
    )
    plain.weight, plain.bias = layer.weight, layer.bias
    add_module(graph, node, plain, source)


_CONVOLUTIONS: Mapping[str, type[nn.Module]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv_transpose1d": nn.ConvTranspose1d,
    "conv_transpose2d": nn.ConvTranspose2d,
}


def _convolution(name: str) -> Callable[[fx.GraphModule, fx.Node], Made]:
    def make(graph: fx.GraphModule, node: fx.Node) -> Made:
        weight, bias = constant(graph, argument(node, 1, "weight")), argument(node, 2, "bias")
        shift = constant(graph, bias)
        if weight is None or (bias is not None and shift is None):
            return None
        transposed = "transpose" in name
        options = {"stride": argument(node, 3, "stride", 1), "padding": argument(node, 4, "padding", 0)}
        options["groups"] = groups = argument(node, 6, "groups", 1)
        options["dilation"] = argument(node, 7 if transposed else 5, "dilation", 1)
        first, second = weight.shape[0], weight.shape[1] * groups
        if transposed:
            options["output_padding"] = argument(node, 5, "output_padding", 0)
        channels = (first, second) if transposed else (second, first)
        layer = _CONVOLUTIONS[name](*channels, tuple(weight.shape[2:]), bias=shift is not None, **options)
        return argument(node, 0, "input"), with_weights(layer, weight, shift)

    return make


def _batch_norm(graph: fx.GraphModule, node: fx.Node) -> Made:
    names = ("running_mean", "running_var", "weight", "bias")
    if node.target is torch.batch_norm:  # which takes them in another order than F.batch_norm
        names = ("weight", "bias", "running_mean", "running_var")
    given = [argument(node, at, name) for at, name in enumerate(names, 1)]
    held = {name: constant(graph, value) for name, value in zip(names, given, strict=True) if value is not None}
    known = {name: value for name, value in held.items() if value is not None}
    dimensions = node.meta["example"].dim()
    if argument(node, 5, "training", False) or dimensions not in (2, 3, 4):
        return None
    if len(known) < len(held) or not {"running_mean", "running_var"} <= known.keys():
        return None
    kind = nn.BatchNorm2d if dimensions == 4 else nn.BatchNorm1d
    norm = kind(known["running_mean"].numel(), eps=argument(node, 7, "eps", 1e-5))
    norm.load_state_dict(known, strict=False)
    return argument(node, 0, "input"), norm


def _prelu(graph: fx.GraphModule, node: fx.Node) -> Made:
    slopes = constant(graph, argument(node, 1, "weight"))
    if slopes is None or slopes.dim() > 1:
        return None
    layer = nn.PReLU(slopes.numel())
    layer.weight.data = slopes.reshape(-1).clone()
    return argument(node, 0, "input"), layer


LAYER_FUNCTIONS: Mapping[str, Callable[[fx.GraphModule, fx.Node], Made]] = {
    **{name: _convolution(name) for name in _CONVOLUTIONS},
    "linear": linear,
    "matmul": matmul,
    "mm": matmul,
    "bmm": matmul,
    "inner": inner,
    "addmm": addmm,
    "tensordot": tensordot,
    "einsum": einsum,
    "batch_norm": _batch_norm,
    "prelu": _prelu,
}
