"""Pools in the few spellings that torch, its exporter and onnxruntime agree on."""

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ptq.graph.fx_helpers import add_module, argument, module_of, op_name, sole_input

__all__ = ["canonicalize_max", "canonicalize_pool"]


def canonicalize_pool(graph: fx.GraphModule, node: fx.Node) -> None:
    """Write an average over pixels in the way that has an integer kernel and one meaning everywhere, in place.

    Global ones become AdaptiveAvgPool2d(1), adaptive ones of an even grid AvgPool2d. What torch's exporter drops (a
    divisor of its own) or onnxruntime divides otherwise (windows beyond the border) becomes a depthwise convolution,
    or padding, a pool and a product.

    Args:
        graph: in whose place the node is changed.
        node: a mean, or an average pool as module or function.
    """
    if op_name(node) == "mean":
        if (source := _averaged_image(node)) is not None:
            _globally(graph, node, nn.AdaptiveAvgPool2d(1), source)
        return
    source = sole_input(node)
    before, after = source.meta["example"].shape, node.meta["example"].shape
    if len(before) != 4 or before[:2] != after[:2]:
        return
    if op_name(node) == "adaptive_avg_pool2d" or isinstance(module_of(graph, node), nn.AdaptiveAvgPool2d):
        _adaptive(graph, node, source, tuple(before[-2:]), tuple(after[-2:]))
    else:
        _windows(graph, node, source)


def canonicalize_max(graph: fx.GraphModule, node: fx.Node) -> None:
    """Write the largest value of every channel as a max-pool over the whole image, which only moves data, in place.

    Args:
        graph: in whose place the node is changed.
        node: an amax, or an adaptive max-pool as module or function.
    """
    source, result = sole_input(node), node.meta["example"]
    shape = source.meta["example"].shape
    if len(shape) != 4 or not isinstance(result, Tensor):
        return
    pixels = _dimensions(node) == {2, 3} if op_name(node) == "amax" else tuple(result.shape) == (*shape[:2], 1, 1)
    if pixels:
        _globally(graph, node, nn.MaxPool2d((shape[2], shape[3])), source)


def _averaged_image(node: fx.Node) -> fx.Node | None:
    """The tensor (N, C, H, W) of which a mean takes in all pixels, in one step, in two, or flattened; None without one."""
    source, dimensions = sole_input(node), _dimensions(node)
    if source.meta["example"].dim() == 4 and dimensions == {2, 3}:
        return source
    image = sole_input(source) if source.all_input_nodes else source
    if (
        len(source.users) > 1
        or not _is_image(image)
        or source.meta["example"].shape[:2] != image.meta["example"].shape[:2]
    ):
        return None
    if op_name(source) == "mean" and len(dimensions) == 1:
        first = _dimensions(source)
        kept = source.meta["example"].dim() == 4
        second = dimensions if kept or first == {3} else {3 if d == 2 else d for d in dimensions}
        return image if first | second == {2, 3} else None
    flat = op_name(source) in ("flatten", "reshape", "view") and source.meta["example"].dim() == 3
    return image if flat and dimensions == {2} and node.meta["example"].dim() == 2 else None


def _is_image(node: fx.Node) -> bool:
    return isinstance(node.meta.get("example"), Tensor) and node.meta["example"].dim() == 4


def _dimensions(node: fx.Node) -> set[int]:
    """Which dimensions a reduction takes in."""
    given, count = argument(node, 1, "dim"), sole_input(node).meta["example"].dim()
    given = (given,) if isinstance(given, int) else given
    return {d % count for d in given} if isinstance(given, tuple | list) else set()


def _globally(graph: fx.GraphModule, node: fx.Node, pool: nn.Module, source: fx.Node) -> None:
    result = node.meta["example"]
    pooled = add_module(graph, node, pool, source)
    if result.dim() == 2:
        with graph.graph.inserting_after(pooled):
            flat = graph.graph.call_function(torch.flatten, (pooled, 1))
        flat.meta = {"example": result, "scope": node.meta.get("scope")}
        pooled.meta["example"] = result[..., None, None]
        pooled.replace_all_uses_with(flat, delete_user_cb=lambda user: user is not flat)


def _adaptive(
    graph: fx.GraphModule, node: fx.Node, source: fx.Node, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    if after == (1, 1):
        add_module(graph, node, nn.AdaptiveAvgPool2d(1), source)
    elif before == after:
        node.replace_all_uses_with(source)
    elif all(size % count == 0 for size, count in zip(before, after, strict=True)):
        add_module(graph, node, nn.AvgPool2d((before[0] // after[0], before[1] // after[1])), source)


def _windows(graph: fx.GraphModule, node: fx.Node, source: fx.Node) -> None:
    pool = _avg_pool(graph, node)
    if pool is None:
        return
    x, wanted = source.meta["example"], node.meta["example"]
    kernel, padding = _pair(pool.kernel_size), _pair(pool.padding)
    stride = _pair(pool.stride)
    divided = pool.divisor_override is not None and pool.divisor_override != kernel[0] * kernel[1]
    overhang = _overhang(x, wanted, kernel, stride, padding)
    if not divided and overhang == (0, 0):
        if tuple(x.shape[-2:]) == kernel and padding == (0, 0):
            add_module(graph, node, nn.AdaptiveAvgPool2d(1), source)
        else:  # with zeros at the border counted, or not, as it was
            add_module(graph, node, nn.AvgPool2d(kernel, stride, padding, False, pool.count_include_pad), source)
    elif divided and overhang == (0, 0):
        new = add_module(graph, node, _sums(x.shape[1], kernel, stride, padding, 1 / _divisor(pool)), source)
        new.meta["from_batchnorm"] = True
    else:
        _pad_and_pool(graph, node, source, pool, overhang)


def _divisor(pool: nn.AvgPool2d) -> int:
    assert pool.divisor_override is not None
    return pool.divisor_override


def _overhang(
    x: Tensor, y: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, int]:
    """How far the last windows reach beyond the padded image (ceil_mode)."""
    reach = [(y.shape[2 + d] - 1) * stride[d] + kernel[d] - x.shape[2 + d] - 2 * padding[d] for d in (0, 1)]
    return max(reach[0], 0), max(reach[1], 0)


def _avg_pool(graph: fx.GraphModule, node: fx.Node) -> nn.AvgPool2d | None:
    """The pool as a module, however it is called; None where it is something else."""
    module = module_of(graph, node)
    if isinstance(module, nn.AvgPool2d):
        return module
    if op_name(node) != "avg_pool2d":
        return None
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    defaults = (None, None, 0, False, True, None)
    given = [
        argument(node, at, name, default) for at, (name, default) in enumerate(zip(names, defaults, strict=True), 1)
    ]
    return nn.AvgPool2d(given[0], given[1] or given[0], *given[2:])


def _sums(
    channels: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], factor: float
) -> nn.Conv2d:
    """The sum over every window times a factor: all weights of a channel are equal, so that any width holds them."""
    layer = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=False)
    layer.weight.data.fill_(factor)
    return layer.requires_grad_(False)


def _pad_and_pool(
    graph: fx.GraphModule, node: fx.Node, source: fx.Node, pool: nn.AvgPool2d, overhang: tuple[int, int]
) -> None:
    """Zeros all around, a plain pool, and the ratio of what it divides by to what was meant."""
    (top, left), kernel, stride = _pair(pool.padding), _pair(pool.kernel_size), _pair(pool.stride)
    pad = nn.ZeroPad2d((left, left + overhang[1], top, top + overhang[0]))
    plain = nn.AvgPool2d(kernel, stride)
    ones = torch.ones_like(source.meta["example"][:1, :1])
    ratio = pool(ones) / plain(pad(ones))
    if not bool(ratio.isfinite().all()):
        return  # a window of nothing but padding
    name = f"{node.name}_ratio"
    graph.register_buffer(name, ratio)
    with graph.graph.inserting_before(node):
        padded = graph.graph.call_function(F.pad, (source, pad.padding))
        constant = graph.graph.get_attr(name)
        pooled = graph.graph.create_node("call_function", F.avg_pool2d, (padded, kernel, stride))
    padded.meta = dict(source.meta) | {"example": pad(source.meta["example"])}
    pooled.meta = dict(node.meta)
    constant.meta = {"example": ratio}
    add_module(graph, pooled, plain, padded)
    with graph.graph.inserting_after(node):
        product = graph.graph.call_function(torch.mul, (pooled, constant))
    product.meta = dict(node.meta)
    node.replace_all_uses_with(product)


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, list | tuple):
        return (int(value[0]), int(value[-1]))
    assert isinstance(value, int)
    return value, value
