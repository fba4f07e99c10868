"""The groups of operators of a network that may compute in integers or in float, and the tensors between them."""

import math
import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from ptq.config.choices import REDUCED_BITS
from ptq.graph.fx_helpers import argument, averages_globally, input_tensors, module_of, watch
from ptq.graph.preparation import GraphModel
from ptq.placement.cut import Tensor
from ptq.placement.kernels import Gate, Kernel, Shape
from ptq.quantization.integer_ops import is_layer, range_source, tail
from ptq.quantization.integer_simulation import hard_gate
from ptq.quantization.plan import select
from ptq.quantization.quantized_model import QuantizedModel

__all__ = ["Group", "Network", "divide"]

BINARY = {operator.add: "Add", operator.mul: "Mul"}


@dataclass(frozen=True)
class Group:
    """Operators that are in integers or in float together.

    Args:
        nodes: their names.
        kernel: what is timed; None for a kind of which no file is written: it stays in integers.
    """

    nodes: tuple[str, ...]
    kernel: Kernel | None


@dataclass(frozen=True)
class Network:
    """What is to be divided between integers and float.

    Args:
        groups: in order of computation.
        tensors: between them; each with its shape for one image, and whether a linear layer writes it.
    """

    groups: tuple[Group, ...]
    tensors: tuple[tuple[Tensor, Shape, bool], ...]


def divide(quantized_model: QuantizedModel) -> Network:
    """Return the groups of a network in integers, and the tensors between them.

    Args:
        quantized_model: calibrated, with its float network; whatever can be is in integers.

    Example:
        >>> network = divide(quantized_model)
        >>> network.groups[0].nodes, network.groups[0].kernel.operator, len(network.tensors)
        (('stem_0',), 'Conv', 13)
    """
    float_model, plan = quantized_model.require_float_model(), quantized_model.plan
    graph = float_model.module
    layers = [node.name for node in graph.graph.nodes if is_layer(graph, node)]
    selection = select(float_model, [name for name in layers if name not in plan.weights])
    shapes = _shapes(float_model)
    clips = {node.name for node in quantized_model.module.graph.nodes if hard_gate(quantized_model.module, node)}
    gates = {node: gate for node in selection.integers if (gate := _gate(graph, node)) is not None}
    group_of: dict[fx.Node, int] = {}
    groups: list[Group] = []
    for node in selection.integers:
        if node in gates.values():
            continue  # it is with the product that it is for
        gate = gates.get(node)
        together = [n for n in (gate, node) if n is not None and n in selection.integers]
        narrow = node.name in plan.weights and plan.weights[node.name].bits <= REDUCED_BITS
        kernel = _gated(graph, node, gate, shapes, clips) if gate else _kernel(graph, node, shapes, narrow)
        layer = None if gate is None else _swished(graph, node, gate)
        if layer in group_of and kernel is not None and (before := groups[group_of[layer]]).kernel is not None:
            index = group_of[layer]
            group_of[node] = index
            groups[index] = Group(
                (*before.nodes, node.name), replace(before.kernel, gate=kernel.gate, codes=kernel.codes)
            )
            continue
        group_of.update(dict.fromkeys(together, len(groups)))
        groups.append(Group(tuple(n.name for n in together), kernel))
    return Network(tuple(groups), tuple(_tensors(graph, selection.tensors, group_of, shapes)))


def _shapes(float_model: GraphModel) -> dict[str, Shape]:
    """The shape of every tensor, for one image."""
    found: dict[str, Shape] = {}

    def keep(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = tuple(value.shape)

    graph = float_model.module
    example = float_model.example(1).to(next(graph.parameters()).device)
    watch(graph, example, {n.name: partial(keep, n.name) for n in graph.graph.nodes if n.op != "output"})
    return found


def _tensors(
    graph: fx.GraphModule, tensors: Collection[fx.Node], group_of: Mapping[fx.Node, int], shapes: Mapping[str, Shape]
) -> list[tuple[Tensor, Shape, bool]]:
    writers = {tail(graph, node): node for node in group_of}
    readers: dict[fx.Node, set[int]] = {node: set() for node in tensors}
    in_float: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op != "output" and range_source(graph, node) is not node:
            continue  # it has the codes of what it reads
        for source in {range_source(graph, read) for read in input_tensors(node)} & readers.keys():
            if node in group_of:
                readers[source].add(group_of[node])
            else:
                in_float.add(source)
    found = []
    for node in tensors:
        writer = writers.get(node)
        group = None if writer is None else group_of[writer]
        if group is None or readers[node] != {group} or node in in_float:
            tensor = Tensor(group, tuple(sorted(readers[node])), node in in_float)
            found.append((tensor, shapes[node.name], isinstance(module_of(graph, writer or node), nn.Linear)))
    return found


def _gate(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The gate whose only reader is a product: onnxruntime may have one kernel for both."""
    if node.target is not operator.mul:
        return None
    gates = (nn.Sigmoid, nn.Hardsigmoid)
    return next((n for n in input_tensors(node) if isinstance(module_of(graph, n), gates) and len(n.users) == 1), None)


def _swished(graph: fx.GraphModule, node: fx.Node, gate: fx.Node) -> fx.Node | None:
    """The layer whose output a hard swish is of, and nothing else reads: in float onnxruntime has one kernel for both."""
    source = next(n for n in input_tensors(node) if n is not gate)
    alone = set(source.users) == {gate, node} and input_tensors(gate) == [source]
    hard = isinstance(module_of(graph, gate), nn.Hardsigmoid)
    return source if alone and hard and is_layer(graph, source) else None


def _gated(
    graph: fx.GraphModule, node: fx.Node, gate: fx.Node, shapes: Mapping[str, Shape], clips: Collection[str]
) -> Kernel:
    (scaled,) = (n for n in input_tensors(node) if n is not gate)
    (read,) = input_tensors(gate)
    table = isinstance(module_of(graph, gate), nn.Sigmoid)
    codes: Gate = "table" if table else "clip" if gate.name in clips else "float"
    inputs = tuple(shapes[n.name] for n in dict.fromkeys((scaled, read)))
    return Kernel("Mul", inputs, gate="Sigmoid" if table else "HardSigmoid", codes=codes)


def _kernel(graph: fx.GraphModule, node: fx.Node, shapes: Mapping[str, Shape], narrow: bool) -> Kernel | None:
    module, last = module_of(graph, node), tail(graph, node)
    activation = "" if last is node else "Relu" if isinstance(module_of(graph, last), nn.ReLU) else "Clip"
    inputs = tuple(shapes[n.name] for n in input_tensors(node))
    if isinstance(module, nn.Conv2d | nn.Linear):
        return _layer(module, inputs, narrow, activation)
    if averages_globally(module):
        return Kernel("GlobalAveragePool", inputs, activation=activation)
    if isinstance(module, nn.Sigmoid):
        return Kernel("Sigmoid", inputs)
    if isinstance(module, nn.LeakyReLU):
        return Kernel("LeakyRelu", inputs, (("alpha", module.negative_slope),))
    if node.target in (torch.cat, torch.concat):
        return Kernel("Concat", inputs, (("axis", argument(node, 1, "dim", 0)),), activation=activation)
    if node.target in BINARY:
        return Kernel(BINARY[node.target], inputs, activation=activation)
    if isinstance(module, nn.AvgPool2d):
        return _average(inputs, module.kernel_size, module.stride, module.padding, activation)
    if node.target is F.avg_pool2d:
        size, stride = argument(node, 1, "kernel_size"), argument(node, 2, "stride")
        return _average(inputs, size, stride, argument(node, 3, "padding", 0), activation)
    return None


def _layer(layer: nn.Conv2d | nn.Linear, inputs: tuple[Shape, ...], narrow: bool, activation: str) -> Kernel:
    shape, bias = tuple(layer.weight.shape), layer.bias is not None
    if isinstance(layer, nn.Linear):  # of tokens: they are written as rows
        (read,) = inputs
        return Kernel("Gemm", ((math.prod(read[:-1]), read[-1]),), (), shape[::-1], bias, narrow, activation)
    assert not isinstance(layer.padding, str)
    attributes: dict[str, Any] = {
        "kernel_shape": shape[2:],
        "strides": layer.stride,
        "pads": (*layer.padding, *layer.padding),
        "dilations": layer.dilation,
        "group": layer.groups,
    }
    return Kernel("Conv", inputs, tuple(attributes.items()), shape, bias, narrow, activation)


def _average(inputs: tuple[Shape, ...], size: Any, stride: Any, padding: Any, activation: str) -> Kernel:
    sizes, strides, pads = (
        (value, value) if isinstance(value, int) else tuple(value) for value in (size, stride or size, padding)
    )
    attributes = (("kernel_shape", sizes), ("strides", strides), ("pads", (*pads, *pads)))
    return Kernel("AveragePool", inputs, attributes, activation=activation)
