"""One spelling for every operation: functions, methods and modules that compute the same become one."""

import inspect
import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ptq.graph.canonicalization.functional_layers import LAYER_FUNCTIONS, explicit_padding, layer_from_function, widen
from ptq.graph.canonicalization.pooling import canonicalize_max, canonicalize_pool
from ptq.graph.fx_helpers import add_module, argument, module_of, op_name, sole_input

__all__ = ["canonicalize"]

IN_PLACE: dict[Any, Any] = {
    getattr(operator, f"i{name}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
}


def canonicalize(graph: fx.GraphModule) -> None:
    """Write every operation that has an integer kernel in one way, in place.

    Args:
        graph: as `trace` gives it; its modules are changed, too.
    """
    for node in list(graph.graph.nodes):
        if node.op == "call_module":
            _canonicalize_module(graph, node)
        elif node.op in ("call_function", "call_method"):
            _canonicalize_function(graph, node)


def _canonicalize_module(graph: fx.GraphModule, node: fx.Node) -> None:
    module = module_of(graph, node)
    if hasattr(module, "inplace"):
        setattr(module, "inplace", False)  # noqa: B010
    if isinstance(module, nn.Conv1d | nn.ConvTranspose1d | nn.BatchNorm1d):
        widen(graph, node)
        explicit_padding(graph, node)
    elif isinstance(module, nn.Conv2d):
        explicit_padding(graph, node)
    elif isinstance(module, nn.AdaptiveAvgPool2d | nn.AvgPool2d):
        canonicalize_pool(graph, node)
    elif isinstance(module, nn.AdaptiveMaxPool2d):
        canonicalize_max(graph, node)
    elif isinstance(module, nn.Hardtanh) and (module.min_val, module.max_val) == (0.0, 6.0):
        add_module(graph, node, nn.ReLU6(), sole_input(node))
    elif type(module) is nn.ConstantPad2d and module.value == 0:
        add_module(graph, node, nn.ZeroPad2d(module.padding), sole_input(node))
    elif isinstance(module, nn.PixelUnshuffle):
        _split_unshuffle(graph, node, module.downscale_factor)
    elif isinstance(module, nn.RReLU):
        add_module(graph, node, nn.LeakyReLU((module.lower + module.upper) / 2), sole_input(node))
    elif isinstance(module, nn.Hardswish | nn.SiLU):
        _split_swish(graph, node, nn.Hardsigmoid() if isinstance(module, nn.Hardswish) else nn.Sigmoid())


def _split_swish(graph: fx.GraphModule, node: fx.Node, gate: nn.Module) -> None:
    """Write a swish as its input times a gate: two operators that have integer kernels."""
    source = sole_input(node)
    with graph.graph.inserting_after(node):
        product = graph.graph.call_function(operator.mul, (source, node))
    product.meta = dict(node.meta)
    node.replace_all_uses_with(product, delete_user_cb=lambda user: user is not product)
    add_module(graph, node, gate, source)


def _clamp_at_six(graph: fx.GraphModule, node: fx.Node) -> None:
    """Write what is cut off at 6 as one module, together with a ReLU before it."""
    relu = sole_input(node)
    if isinstance(module_of(graph, relu), nn.ReLU):
        add_module(graph, node, nn.ReLU6(), sole_input(relu))
    else:
        add_module(graph, node, nn.Hardtanh(-math.inf, 6.0), relu)


def _split_unshuffle(graph: fx.GraphModule, node: fx.Node, factor: int) -> None:
    """Write the opposite of a pixel shuffle as what only moves data in any runtime."""
    source, result = sole_input(node), node.meta["example"]
    batch, channels, height, width = source.meta["example"].shape
    if source.meta["example"].dim() != 4:
        return
    apart = (-1, channels, height // factor, factor, width // factor, factor)
    with graph.graph.inserting_before(node):
        split = graph.graph.call_function(torch.reshape, (source, apart))
        moved = graph.graph.call_function(torch.permute, (split, (0, 1, 3, 5, 2, 4)))
    split.meta = dict(node.meta) | {"example": source.meta["example"].reshape(batch, *apart[1:])}
    moved.meta = dict(node.meta) | {"example": split.meta["example"].permute(0, 1, 3, 5, 2, 4)}
    _retarget(node, torch.reshape)
    node.args, node.kwargs = (moved, (-1, *result.shape[1:])), {}


def _broadcast(node: fx.Node) -> None:
    """Let arithmetic read what an `expand` repeats: it repeats by itself."""
    source = sole_input(node)
    for user in list(node.users):
        arithmetic = op_name(user).removesuffix("_") in ("add", "sub", "mul", "multiply", "div", "truediv")
        others = [a for a in user.args if isinstance(a, fx.Node) and a is not node]
        shapes = {other.meta["example"].shape for other in others} | {node.meta["example"].shape}
        if arithmetic and len(user.args) == 2 and len(others) == len(shapes) == source.meta["example"].dim() - 3 == 1:
            user.replace_input_with(node, source)


def _free_batch(node: fx.Node) -> None:
    """Let an `expand` keep the sizes that it does not change, the batch among them, whatever they are."""
    before, after = sole_input(node).meta["example"].shape, node.meta["example"].shape
    kept = [False] * (len(after) - len(before)) + [a == b for a, b in zip(before, after[-len(before) :], strict=True)]
    node.op, node.target, node.kwargs = "call_method", "expand", {}
    node.args = (sole_input(node), *(-1 if keep else size for keep, size in zip(kept, after, strict=True)))


def _canonicalize_function(graph: fx.GraphModule, node: fx.Node) -> None:
    name = op_name(node).removesuffix("_")
    _out_of_place(node)
    if same := _neutral_operand(node, name):
        node.replace_all_uses_with(same)
        return
    match name:
        case "relu" | "relu6":
            add_module(graph, node, nn.ReLU() if name == "relu" else nn.ReLU6(), sole_input(node))
        case "hardtanh" | "clamp" | "clip" if _bounds(node) == (0, 6):
            add_module(graph, node, nn.ReLU6(), sole_input(node))
        case "clamp" | "clip" | "clamp_min" if _bounds(node) == (0, None):
            add_module(graph, node, nn.ReLU(), sole_input(node))
        case "clamp" | "clip" if _bounds(node) == (None, 6):
            _clamp_at_six(graph, node)
        case "clamp_max" if argument(node, 1, "max") == 6:
            _clamp_at_six(graph, node)
        case "clamp" | "clip" | "hardtanh" | "clamp_min" | "clamp_max" if (bounds := _numbers(node, name)) is not None:
            add_module(graph, node, nn.Hardtanh(*bounds), sole_input(node))
        case "threshold" | "_threshold" if argument(node, 1, "threshold") == argument(node, 2, "value") == 0:
            add_module(graph, node, nn.ReLU(), sole_input(node))
        case "add" | "iadd" if len(node.args) == 2 and not node.kwargs:
            _retarget(node, operator.add)
        case "neg" | "negative":
            _retarget(node, operator.mul)
            node.args, node.kwargs = (sole_input(node), -1.0), {}
        case "sub" | "isub" if len(node.args) == 2 and not node.kwargs:
            _retarget(node, operator.sub)
        case "div" | "truediv" | "itruediv" | "true_divide" | "divide" if len(node.args) == 2 and not node.kwargs:
            _retarget(node, operator.truediv)
        case "mul" | "imul" | "multiply" if len(node.args) == 2 and not node.kwargs:
            _retarget(node, operator.mul)
        case "hardsigmoid" | "sigmoid":
            gate = nn.Hardsigmoid() if name == "hardsigmoid" else nn.Sigmoid()
            add_module(graph, node, gate, sole_input(node))
        case "hardswish" | "silu":
            _split_swish(graph, node, nn.Hardsigmoid() if name == "hardswish" else nn.Sigmoid())
        case "gelu":
            add_module(graph, node, nn.GELU(argument(node, 1, "approximate", "none")), sole_input(node))
        case "mish":
            add_module(graph, node, nn.Mish(), sole_input(node))
        case "softplus" if argument(node, 1, "beta", 1) == 1:
            add_module(graph, node, nn.Softplus(), sole_input(node))
        case "leaky_relu":
            slope = argument(node, 1, "negative_slope", 0.01)
            add_module(graph, node, nn.LeakyReLU(slope), sole_input(node))
        case "rrelu":
            bounds = argument(node, 1, "lower", 1 / 8), argument(node, 2, "upper", 1 / 3)
            add_module(graph, node, nn.LeakyReLU(sum(bounds) / 2), sole_input(node))
        case "mean" | "adaptive_avg_pool2d" | "avg_pool2d":
            canonicalize_pool(graph, node)
        case "amax" | "adaptive_max_pool2d":
            canonicalize_max(graph, node)
        case "max_pool2d" if not argument(node, 6, "return_indices", False):
            options = ("stride", None), ("padding", 0), ("dilation", 1), ("ceil_mode", False)
            given = {name: argument(node, at, name, default) for at, (name, default) in enumerate(options, 2)}
            window = argument(node, 1, "kernel_size")
            add_module(
                graph, node, nn.MaxPool2d(window, **{**given, "stride": given["stride"] or window}), sole_input(node)
            )
        case "pixel_shuffle":
            add_module(graph, node, nn.PixelShuffle(argument(node, 1, "upscale_factor")), sole_input(node))
        case "pixel_unshuffle":
            _split_unshuffle(graph, node, argument(node, 1, "downscale_factor"))
        case "expand" | "expand_as" | "broadcast_to":
            if name != "expand_as":
                _free_batch(node)
            _broadcast(node)
        case "reshape" | "view" | "view_as" | "reshape_as":
            # The batch stays free: every other size is known from the example.
            shape = (-1, *node.meta["example"].shape[1:])
            _retarget(node, torch.reshape)
            node.args, node.kwargs = (sole_input(node), shape), {}
        case "getattr":
            _item_of_result(node)
        case "affine_grid":
            _retarget(node, grid_of_batch)
        case _ if name in LAYER_FUNCTIONS:
            layer_from_function(graph, node, name)


def grid_of_batch(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """F.affine_grid for as many images as there are matrices; what `size` says of the batch does not count."""
    return F.affine_grid(theta, [theta.shape[0], *size[1:]], align_corners)


def _item_of_result(node: fx.Node) -> None:
    """Write `x.sort(1).values` as `x.sort(1)[0]`: torch.export gives plain tuples, which have no names."""
    source, name = node.args[0], node.args[1]
    names = getattr(source.meta.get("example"), "__match_args__", ()) if isinstance(source, fx.Node) else ()
    if name in names:
        _retarget(node, operator.getitem)
        node.args = (source, names.index(name))


def _neutral_operand(node: fx.Node, name: str) -> fx.Node | None:
    """Return the tensor that a sum with 0 (Python's `sum` begins with it) or a product with 1 gives back, or None."""
    neutral = {"add": 0, "iadd": 0, "mul": 1, "imul": 1}.get(name)
    numbers = [a for a in node.args if isinstance(a, int | float) and not isinstance(a, bool)]
    tensors = [a for a in node.args if isinstance(a, fx.Node)]
    if node.kwargs or len(node.args) != 2 or len(tensors) != 1:
        return None
    return tensors[0] if numbers == [neutral] else None


def _out_of_place(node: fx.Node) -> None:
    """Let an operation leave its input as it is: `trace` has led every reader to the result."""
    node.kwargs = {name: value for name, value in node.kwargs.items() if name != "out"}
    if isinstance(node.target, str):
        plain = node.target.removesuffix("_")
        node.target = plain if callable(getattr(Tensor, plain, None)) else node.target
        return
    node.target = IN_PLACE.get(node.target, node.target)
    name = op_name(node)
    if name.endswith("_"):
        node.target = getattr(torch, name[:-1], getattr(F, name[:-1], node.target))
    if getattr(node.target, "__module__", "") == F.__name__:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
        if "inplace" in names:
            at = names.index("inplace")
            node.args = (*node.args[:at], False, *node.args[at + 1 :])[: len(node.args)]
            node.kwargs = {k: v for k, v in node.kwargs.items() if k != "inplace"}


def _retarget(node: fx.Node, function: object) -> None:
    node.op, node.target = "call_function", function  # type: ignore[assignment]


def _numbers(node: fx.Node, name: str) -> tuple[float, float] | None:
    """Between which numbers a clamp keeps real numbers; None where tensors say it, or nothing is left between."""
    low, high = _bounds(node)
    if name == "hardtanh":
        low, high = argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0)
    elif name == "clamp_max":
        low, high = None, argument(node, 1, "max")
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    real = node.meta["example"].is_floating_point()
    if not real or not isinstance(low, int | float) or not isinstance(high, int | float) or not low < high:
        return None
    return float(low), float(high)


def _bounds(node: fx.Node) -> tuple[object, object]:
    low = argument(node, 1, "min", node.kwargs.get("min_val"))
    return low, argument(node, 2, "max", node.kwargs.get("max_val"))
