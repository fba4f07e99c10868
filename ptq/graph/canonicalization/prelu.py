"""PReLUs written as what has integer kernels: a leaky ReLU, or depthwise convolutions and an addition.

onnxruntime computes a PReLU with a slope per channel in float, on one thread as slowly as the convolution before it. The sum
takes an eighth of that.
"""

import operator

import torch
from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import add_module, module_of, sole_input

__all__ = ["split_prelus"]


def split_prelus(graph: fx.GraphModule) -> None:
    """Write every PReLU as a leaky ReLU where its channels share a slope s, else as s * x + relu((1 - s) * x), in place.

    Of a slope above 1 the second term is subtracted, by a third product. The products are depthwise 1x1 convolutions,
    which per-channel quantization holds exactly; their meta says "from_batchnorm".

    Args:
        graph: in canonical form.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.PReLU(2), nn.Conv2d(2, 4, 3))
        >>> net[1].weight.data = torch.tensor([0.25, 0.5])
        >>> [node.name for node in ptq.prepare(net, (3, 16, 16)).module.graph.nodes]
        ['input_1', '_0', '_1_slope', '_1_rest', '_1_relu', '_1', '_2', 'output']
    """
    for node in list(graph.graph.nodes):
        module = module_of(graph, node)
        if not isinstance(module, nn.PReLU):
            continue
        slopes = module.weight.detach()
        if bool((slopes == slopes[0]).all()):
            add_module(graph, node, nn.LeakyReLU(float(slopes[0])), sole_input(node))
        elif node.meta["example"].dim() == 4:
            _split(graph, node, slopes)


def _split(graph: fx.GraphModule, node: fx.Node, slopes: Tensor) -> None:
    x, rest = sole_input(node), 1 - slopes.double()
    linear = _product(graph, node, "slope", slopes, x)
    bent = _call(graph, node, "relu", nn.ReLU(), _product(graph, node, "rest", rest.abs(), x))
    if bool((rest < 0).any()):
        bent = _product(graph, node, "sign", rest.sign(), bent)
    node.op, node.target, node.args, node.kwargs = "call_function", operator.add, (linear, bent), {}


def _product(graph: fx.GraphModule, node: fx.Node, name: str, factors: Tensor, x: fx.Node) -> fx.Node:
    channels = factors.numel()
    layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
    layer.weight = nn.Parameter(factors.float().reshape(-1, 1, 1, 1), requires_grad=False)
    made = _call(graph, node, name, layer, x)
    made.meta["from_batchnorm"] = True
    return made


def _call(graph: fx.GraphModule, node: fx.Node, name: str, module: nn.Module, x: fx.Node) -> fx.Node:
    """Call a new module in front of `node`, whose name and scope it shares."""
    with graph.graph.inserting_before(node):
        made = graph.graph.create_node("call_function", torch.relu, (x,), name=f"{node.name}_{name}")
    made.meta = dict(node.meta)
    return add_module(graph, made, module, x)
