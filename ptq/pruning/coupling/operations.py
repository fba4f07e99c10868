"""What an operation does to the channels of the tensors it reads: keeps them, joins them, moves them, or mixes them.

What is in none of these lists mixes channels, as far as anybody knows. So nothing that it reads is pruned.
"""

from torch import fx, nn
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from ptq.graph.fx_helpers import module_of, op_name

__all__ = [
    "is_concatenation",
    "is_elementwise",
    "is_piecewise",
    "is_rearrangement",
    "is_reduction",
    "is_softmax",
    "keeps_channels",
]

ELEMENTWISE_MODULES = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
ELEMENTWISE = frozenset(
    [
        "abs",
        "add",
        "asin",
        "atan",
        "atan2",
        "bfloat16",
        "bool",
        "celu",
        "ceil",
        "clamp",
        "clamp_max",
        "clamp_min",
        "clip",
        "clone",
        "contiguous",
        "cos",
        "div",
        "divide",
        "double",
        "elu",
        "eq",
        "erf",
        "exp",
        "expand_as",
        "expm1",
        "float",
        "floor",
        "floordiv",
        "fmod",
        "ge",
        "gelu",
        "gt",
        "half",
        "hardshrink",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "int",
        "le",
        "leaky_relu",
        "log",
        "log1p",
        "logical_and",
        "logical_not",
        "logical_or",
        "logsigmoid",
        "long",
        "lt",
        "masked_fill",
        "maximum",
        "minimum",
        "mish",
        "mod",
        "mul",
        "multiply",
        "ne",
        "neg",
        "nan_to_num",
        "pow",
        "reciprocal",
        "relu",
        "relu6",
        "remainder",
        "round",
        "rsqrt",
        "selu",
        "sigmoid",
        "sign",
        "silu",
        "sin",
        "softplus",
        "softsign",
        "sqrt",
        "square",
        "sub",
        "subtract",
        "tan",
        "tanh",
        "threshold",
        "to",
        "true_divide",
        "truediv",
        "trunc",
        "type_as",
        "where",
    ]
)
CHANNELWISE_MODULES = (  # over dimension 1
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _MaxPoolNd,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.ConstantPad2d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.LPPool2d,
    nn.PReLU,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.Upsample,
)
CHANNELWISE = frozenset(
    ["adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "interpolate", "lp_pool2d", "max_pool2d", "upsample"]
)
REARRANGING_MODULES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)
REARRANGING = frozenset(
    [
        "channel_shuffle",
        "flatten",
        "flip",
        "getitem",
        "movedim",
        "narrow",
        "permute",
        "pixel_shuffle",
        "pixel_unshuffle",
        "reshape",
        "select",
        "squeeze",
        "swapaxes",
        "transpose",
        "unflatten",
        "unsqueeze",
    ]
)
REDUCTIONS = frozenset(["amax", "amin", "mean", "std", "sum", "var"])
PIECEWISE = frozenset(["chunk", "split", "tensor_split", "unbind"])
CONCATENATIONS = frozenset(["cat", "concat", "concatenate", "stack"])


def _calls(node: fx.Node, names: frozenset[str]) -> bool:
    return node.op in ("call_function", "call_method") and op_name(node) in names


def is_elementwise(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether every number depends on those at its own place alone, of one tensor or of several."""
    return isinstance(module_of(graph, node), ELEMENTWISE_MODULES) or _calls(node, ELEMENTWISE)


def keeps_channels(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether every channel, along dimension 1, depends on that channel of the input alone."""
    return isinstance(module_of(graph, node), CHANNELWISE_MODULES) or _calls(node, CHANNELWISE)


def is_rearrangement(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node gives numbers of one tensor in another order, all or some of them."""
    return isinstance(module_of(graph, node), REARRANGING_MODULES) or _calls(node, REARRANGING)


def is_reduction(node: fx.Node) -> bool:
    """Whether the node reduces dimensions to one number each."""
    return _calls(node, REDUCTIONS)


def is_softmax(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node mixes what lies along one dimension, and keeps the shape."""
    return isinstance(module_of(graph, node), nn.Softmax | nn.LogSoftmax) or _calls(
        node, frozenset(("softmax", "log_softmax"))
    )


def is_piecewise(node: fx.Node) -> bool:
    """Whether the node gives a tensor in several pieces."""
    return _calls(node, PIECEWISE)


def is_concatenation(node: fx.Node) -> bool:
    """Whether the node puts tensors together along a dimension, there already or new."""
    return _calls(node, CONCATENATIONS)
