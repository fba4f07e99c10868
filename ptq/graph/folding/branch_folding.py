"""Branches over one tensor that add up become one convolution: 3x3 + 1x1 + identity, each with its BatchNorm.

RepVGG (Ding et al., CVPR 2021, arXiv 2101.03697), MobileOne, RepViT, RepGhost and FastViT are trained with such
branches, to be folded before they are used.
"""

import math
import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import add_module, module_of, sole_input

__all__ = ["fold_branches"]

Pair = tuple[int, int]


@dataclass(frozen=True)
class _Kernel:
    """Output pixel i is the sum over taps k of weight[k] * input[i * stride + first + k * dilation], plus bias.

    Args:
        weight: float64 (C_out, C_in / groups, height, width).
        bias: float64 (C_out,).
        groups: of channels.
        first: row and column of the first tap; zeros are read outside of the image.
        dilation: between taps.
        cost: multiplications for an output pixel, as it is computed today.
    """

    weight: Tensor
    bias: Tensor
    groups: int
    first: Pair
    dilation: Pair
    cost: int

    def taps(self, axis: int) -> list[int]:
        return [self.first[axis] + k * self.dilation[axis] for k in range(self.weight.shape[2 + axis])]


@dataclass(frozen=True)
class _Branch:
    """A term of a sum: a convolution or an average of `source`, or `source` itself.

    Args:
        node: the term; of several that were joined the convolution that they become.
        sign: 1 or -1.
        source: what is read.
        stride: of the kernel.
        kernel: what is computed.
        joined: whether it stands for several terms.
        identity: whether it is `source`, or `source` with a gain and a shift per channel.
    """

    node: fx.Node
    sign: int
    source: fx.Node
    stride: Pair
    kernel: _Kernel
    joined: bool = False
    identity: bool = False


def fold_branches(graph: fx.GraphModule, *, identities: bool = True) -> bool:
    """Fold convolutions, averages and identities of one tensor whose results are added into one convolution, in place.

    Nothing else may read the results. Kernels grow to the larger one's size, and groups to the coarser ones, where
    that takes no more multiplications than the branches did. What borders make inexact stays: an average that does not
    count the zeros around the image, padding with anything but zeros.

    Args:
        graph: in canonical form, with BatchNorms folded; a dead node in it would pass for a reader.
        identities: fold identities into convolutions that are not depthwise, too. One weight of hundreds in a channel is far
            larger than all others then, and few codes are left to these where weights have less than 8 bits.

    Returns:
        Whether there was something to fold.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.large, self.small = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        ...     def forward(self, x):
        ...         return self.large(x) + self.small(x) + x
        >>> graph = ptq.prepare(Block(), (3, 16, 16)).module
        >>> [node.name for node in graph.graph.nodes]
        ['x', 'large', 'output']
    """
    folded = False
    while any(_fold_sum(graph, node, identities) for node in reversed(graph.graph.nodes) if _is_outermost_sum(node)):
        graph.graph.eliminate_dead_code()
        folded = True
    return folded


def _is_sum(node: fx.Node) -> bool:
    """Whether the node adds or subtracts two tensors (N, C, H, W) of its own shape."""
    if node.target not in (operator.add, operator.sub) or len(node.args) != 2 or node.kwargs:
        return False
    shapes = [
        n.meta["example"].shape
        for n in (node, *node.args)
        if isinstance(n, fx.Node) and n.op != "get_attr" and isinstance(n.meta.get("example"), Tensor)
    ]
    return len(shapes) == 3 and len(set(shapes)) == 1 and len(shapes[0]) == 4


def _is_outermost_sum(node: fx.Node) -> bool:
    return _is_sum(node) and not (len(node.users) == 1 and _is_sum(next(iter(node.users))))


def _fold_sum(graph: fx.GraphModule, root: fx.Node, identities: bool) -> bool:
    branches = [_branch(graph, node, sign) for node, sign in _terms(root, 1)]
    left: list[_Branch] = []
    for branch in sorted(branches, key=lambda b: -b.kernel.cost):  # small ones find room in large ones
        for at, other in enumerate(left):
            apart = branch.identity and other.kernel.weight.shape[1] > 1 and not identities
            if not apart and (joined := _joined(graph, other, branch, root)) is not None:
                left[at] = joined
                break
        else:
            left.append(branch)
    if len(left) == len(branches):
        return False
    _replace(graph, root, sorted(left, key=lambda b: -b.sign))
    return True


def _terms(node: fx.Node, sign: int) -> list[tuple[fx.Node, int]]:
    """The terms of a tree of sums with their signs."""
    left, right = node.args
    found = []
    for term, own in ((left, sign), (right, -sign if node.target is operator.sub else sign)):
        assert isinstance(term, fx.Node)
        found += _terms(term, own) if _is_sum(term) and len(term.users) == 1 else [(term, own)]
    return found


def _branch(graph: fx.GraphModule, node: fx.Node, sign: int) -> _Branch:
    module = module_of(graph, node)
    if len(node.users) == 1 and isinstance(module, nn.Conv2d) and (kernel := _of_convolution(module)) is not None:
        identity = bool(node.meta.get("from_batchnorm"))
        return _Branch(node, sign, sole_input(node), _pair(module.stride), kernel, identity=identity)
    if len(node.users) == 1 and isinstance(module, nn.AvgPool2d):
        padding = _pair(module.padding)
        if module.count_include_pad or padding == (0, 0):
            size = _pair(module.kernel_size)
            kernel = _per_channel(node, size, (-padding[0], -padding[1]), cost=size[0] * size[1])
            return _Branch(node, sign, sole_input(node), _pair(module.stride), kernel)
    return _Branch(node, sign, node, (1, 1), _per_channel(node, (1, 1), (0, 0), cost=0), identity=True)


def _of_convolution(layer: nn.Conv2d) -> _Kernel | None:
    if isinstance(layer.padding, str) or (layer.padding_mode != "zeros" and any(layer.padding)):
        return None
    weight = layer.weight.detach().double()
    bias = torch.zeros(len(weight)).double() if layer.bias is None else layer.bias.detach().double()
    first = (-layer.padding[0], -layer.padding[1])
    return _Kernel(weight, bias, layer.groups, first, _pair(layer.dilation), weight.numel())


def _per_channel(node: fx.Node, size: Pair, first: Pair, cost: int) -> _Kernel:
    """The average over windows of every channel; over one pixel, the identity."""
    channels = node.meta["example"].shape[1]
    weight = torch.full((channels, 1, *size), 1 / math.prod(size), dtype=torch.float64)
    return _Kernel(weight, torch.zeros(channels).double(), channels, first, (1, 1), cost * channels)


def _joined(graph: fx.GraphModule, one: _Branch, other: _Branch, root: fx.Node) -> _Branch | None:
    """The convolution that computes both; None where there is none, or only one with more multiplications."""
    if (one.source, one.stride) != (other.source, other.stride):
        return None
    layers = [
        b.node for b in (one, other) if b.node is not b.source and isinstance(module_of(graph, b.node), nn.Conv2d)
    ]
    kernel = _sum(one, other)
    before, after = one.source.meta["example"].shape[-2:], root.meta["example"].shape[-2:]
    for axis in (0, 1):
        reach = kernel.taps(axis)[-1] - kernel.first[axis] + 1
        if (before[axis] - 2 * kernel.first[axis] - reach) // one.stride[axis] + 1 != after[axis]:
            return None  # more zeros on one side than on the other
    if not layers or kernel.weight.numel() > kernel.cost:
        return None
    return _Branch(layers[0], 1, one.source, one.stride, kernel, joined=True)


def _sum(one: _Branch, other: _Branch) -> _Kernel:
    kernels, signs = (one.kernel, other.kernel), (one.sign, other.sign)
    groups = math.gcd(*(kernel.groups for kernel in kernels))
    taps = [sorted({tap for kernel in kernels for tap in kernel.taps(axis)}) for axis in (0, 1)]
    first = (taps[0][0], taps[1][0])
    rows, columns = (math.gcd(*(tap - found[0] for tap in found)) or 1 for found in taps)
    size = ((taps[0][-1] - first[0]) // rows + 1, (taps[1][-1] - first[1]) // columns + 1)
    parts = [_regrouped(kernel.weight, kernel.groups, groups) for kernel in kernels]
    weight = torch.zeros(*parts[0].shape[:2], *size, dtype=torch.float64)
    for part, kernel, sign in zip(parts, kernels, signs, strict=True):
        down = torch.tensor([(tap - first[0]) // rows for tap in kernel.taps(0)])
        across = torch.tensor([(tap - first[1]) // columns for tap in kernel.taps(1)])
        weight[:, :, down[:, None], across] += sign * part
    bias = one.sign * one.kernel.bias + other.sign * other.kernel.bias
    return _Kernel(weight, bias, groups, first, (rows, columns), one.kernel.cost + other.kernel.cost)


def _regrouped(weight: Tensor, groups: int, fewer: int) -> Tensor:
    """The same weights in fewer groups, of which each divides one: zeros where a channel was not read."""
    joined = groups // fewer
    blocks = weight.reshape(fewer, joined, -1, 1, *weight.shape[1:])
    which = torch.eye(joined, dtype=weight.dtype).reshape(1, joined, 1, joined, 1, 1, 1)
    return (blocks * which).reshape(weight.shape[0], -1, *weight.shape[2:])


def _replace(graph: fx.GraphModule, root: fx.Node, left: list[_Branch]) -> None:
    """Put the sum of what is left, of which the first is positive, in the place of `root`."""
    result = left[0].node
    for branch in left[1:]:
        with graph.graph.inserting_before(root):
            function = operator.add if branch.sign > 0 else operator.sub
            result = graph.graph.call_function(function, (result, branch.node))
        result.meta = dict(root.meta)
    for branch in left:
        if branch.joined:
            branch.node.meta["example"] = root.meta["example"]
            add_module(graph, branch.node, _layer(branch), branch.source)
            if branch.kernel.weight.numel() > len(branch.kernel.weight):
                branch.node.meta.pop("from_batchnorm", None)
    root.replace_all_uses_with(result)


def _layer(branch: _Branch) -> nn.Conv2d:
    kernel = branch.kernel
    outputs, inputs = kernel.weight.shape[:2]
    size, padding = (kernel.weight.shape[2], kernel.weight.shape[3]), (-kernel.first[0], -kernel.first[1])
    layer = nn.Conv2d(inputs * kernel.groups, outputs, size, branch.stride, padding, kernel.dilation, kernel.groups)
    layer.weight = nn.Parameter(kernel.weight.float(), requires_grad=False)
    layer.bias = nn.Parameter(kernel.bias.float(), requires_grad=False)
    return layer


def _pair(value: object) -> Pair:
    if isinstance(value, list | tuple):
        return (int(value[0]), int(value[-1]))
    assert isinstance(value, int)
    return value, value
