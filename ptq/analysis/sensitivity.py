"""Where quantization hurts: the noise of every layer and block, and what it costs the network's output.

Noise is measured in three ways:

- *isolated*: one layer or one block is quantized and reads what the float network gives;
- *cumulative*: all that comes before is quantized, too;
- as *cost*: one layer or one block is quantized, and the network's output moves.

A layer takes its input's quantizer along. A block takes the quantizers of the tensors it computes, so
that every quantizer belongs to exactly one block; the one of its input is the block's before it.
A cost needs the rest of the network once per layer: it starts at the layer's block, from what the float blocks
before it give. All is measured on real numbers, as reconstruction sees the quantized model (`QuantizedModel.module`).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ptq.analysis.accumulators import Change, Cost, Extent, Noise, Noises, TensorRange
from ptq.errors import InputError
from ptq.graph.blocks import Block, Chain, compose, named_inputs, split
from ptq.graph.fx_helpers import LAYERS, module_of, sole_input, watch
from ptq.progress import SILENT, Progress, Task
from ptq.quantization.layers import QuantLayer
from ptq.quantization.quantized_model import QuantizedModel
from ptq.tasks.outputs import Output
from ptq.tasks.task import Task as NetworkTask
from ptq.utils.sampling import evenly

__all__ = ["BlockSensitivity", "LayerSensitivity", "Sensitivity", "measure_sensitivity"]

BATCH = 16  # images at a time: their activations within one block are what is in memory
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class LayerSensitivity:
    """One quantized layer.

    Args:
        name: of its node.
        block: index of its block.
        weight: the float weight and its grid.
        weight_sqnr: dB of the weight by itself; falls where reconstruction rounds against the nearest.
        input: what the layer reads in the float network, and the grid for it; None where that is float.
        isolated: dB of the layer's output, weight and input quantized.
        isolated_weight, isolated_input: dB of it with only one of the two quantized.
        cumulative: dB of the layer's output in the quantized model.
        cost: when only this layer is quantized.
    """

    name: str
    block: int
    weight: TensorRange
    weight_sqnr: float
    input: TensorRange | None
    isolated: float
    isolated_weight: float
    isolated_input: float
    cumulative: float
    cost: Cost


@dataclass(frozen=True)
class BlockSensitivity:
    """One block.

    Args:
        name: of its last quantized layer.
        layers: names of its quantized layers.
        isolated: dB of the block's outputs on float inputs; of several, each relative to its signal.
        cumulative: dB of them in the quantized model.
        cost: when only this block is quantized.
    """

    name: str
    layers: tuple[str, ...]
    isolated: float
    cumulative: float
    cost: Cost


@dataclass(frozen=True)
class Sensitivity:
    """Every layer and block of a quantized model, in order of computation.

    Args:
        layers: the quantized ones.
        blocks: all.
        network: the cost of quantizing everything that the plan says.
        images: how many it was measured on.
        unit: of the costs' loss; empty where losses of several kinds are added up.
    """

    layers: tuple[LayerSensitivity, ...]
    blocks: tuple[BlockSensitivity, ...]
    network: Cost
    images: int
    unit: str = "nats"

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-able data; decibels without any noise, infinite, are None."""
        data: dict[str, Any] = _finite(asdict(self))
        return data


@torch.no_grad()
def measure_sensitivity(
    quantized_model: QuantizedModel, inputs: Tensor, *, images: int = 32, progress: Progress = SILENT
) -> Sensitivity:
    """Measure what each layer and each block of a calibrated quantized model does to the network's output.

    Takes about half as many passes of the float network as there are layers and blocks.

    Args:
        quantized_model: calibrated, with the weights of its float network; it computes where its modules are.
        inputs: images as the network takes them, (N, C, H, W), normalized.
        images: how many of them to measure on, spread evenly.
        progress: told of every layer.

    Raises:
        InputError: for a quantized model without ranges or without float weights, and for no images.

    Example:
        >>> found = measure_sensitivity(quantized_model, images)
        >>> max(found.layers, key=lambda layer: layer.cost.loss).name in quantized_model.layers()
        True
    """
    _check(quantized_model, inputs, images)
    blocks, whole = _meters(quantized_model), Change(quantized_model.task)
    count = min(images, len(inputs))
    pieces = evenly(inputs, images).split(BATCH)
    float_model = quantized_model.require_float_model()
    device = next(iter(float_model.module.state_dict().values()), inputs).device
    steps = len(pieces) * sum(len(block.layers) + 1 for block in blocks)
    with progress.stage("measure", steps) as task:
        for piece in pieces:
            alive_float: Tensors = named_inputs(float_model.module, piece.to(device))
            alive_quantized = alive_float
            output = float_model.module(piece.to(device))
            for block in blocks:
                alive_float, alive_quantized = block.add(alive_float, alive_quantized, output, task)
            whole.add(output, blocks[-1].rest(alive_quantized))
    return Sensitivity(
        tuple(layer.result(i) for i, block in enumerate(blocks) for layer in block.layers),
        tuple(block.result(i) for i, block in enumerate(blocks)),
        whole.cost(),
        count,
        quantized_model.task.unit,
    )


def _check(quantized_model: QuantizedModel, inputs: Tensor, images: int) -> None:
    quantized_model.require_calibrated()
    if inputs.dim() != 4 or tuple(inputs.shape[1:]) != quantized_model.input_shape:
        shape = ", ".join(map(str, quantized_model.input_shape))
        raise InputError(f"images must be of shape (N, {shape}), not {tuple(inputs.shape)}.")
    if not len(inputs) or images < 1:
        raise InputError("sensitivity is measured on at least one image.")


class _LayerMeter:
    """What is summed up about a layer.

    Args:
        name: of its node in the network.
        float_block: its block in the float network.
        node: the layer in there.
        layer: the quantized model's.
        task: what the network is for.
    """

    def __init__(self, name: str, float_block: Block, node: fx.Node, layer: QuantLayer, task: NetworkTask) -> None:
        self.name, self.node, self.layer = name, node, layer
        op = module_of(float_block.module, node)
        assert isinstance(op, LAYERS)
        self.op, self.quantizer = op, layer.input_quantizer
        self.isolated, self.isolated_weight, self.isolated_input = Noise(), Noise(), Noise()
        self.cumulative, self.change = Noise(), Change(task)
        q = self.quantizer
        self.read = None if q is None else Extent(q.spec, q.scale, q.zero_point)
        quantized = nn.Sequential(layer) if q is None else nn.Sequential(q, layer)
        # The block in which this layer isolated is quantized; all other modules are the float block's.
        changed = fx.GraphModule(float_block.module, float_block.module.graph)
        changed.set_submodule(str(node.target), quantized)
        self.changed = replace(float_block, module=changed)

    def add(self, x: Tensor, output: Tensor, in_quantized: Tensor) -> None:
        """Take in what the layer reads and gives in the float network, and gives in the quantized model."""
        read = x if self.quantizer is None else self.quantizer(x)
        self.isolated.add(output, self.layer(read))
        self.isolated_weight.add(output, self.layer(x))
        self.isolated_input.add(output, self.op(read))
        self.cumulative.add(output, in_quantized)
        if self.read is not None:
            self.read.add(x)

    def result(self, block: int) -> LayerSensitivity:
        quantizer = self.layer.weight_quantizer
        weight, noise = Extent(quantizer.spec, quantizer.scale, torch.zeros(())), Noise()
        weight.add(self.op.weight)
        noise.add(self.op.weight, quantizer())
        return LayerSensitivity(
            name=self.name,
            block=block,
            weight=weight.result(),
            weight_sqnr=noise.db(),
            input=None if self.read is None else self.read.result(),
            isolated=self.isolated.db(),
            isolated_weight=self.isolated_weight.db(),
            isolated_input=self.isolated_input.db(),
            cumulative=self.cumulative.db(),
            cost=self.change.cost(),
        )


class _BlockMeter:
    """What is summed up about a block and the layers in it.

    Args:
        names: node names of the quantized model's layers.
        float_block, block: the float block and the quantized one.
        rest: the float blocks behind it.
        task: what the network is for.
    """

    def __init__(
        self, names: dict[nn.Module, str], float_block: Block, block: Block, rest: Chain, task: NetworkTask
    ) -> None:
        self.float_block, self.block, self.rest = float_block, block, rest
        self.isolated, self.cumulative, self.change = Noises(), Noises(), Change(task)
        floats = {str(node.target): node for node in float_block.module.graph.nodes}
        self.layers: list[_LayerMeter] = []
        self.in_quantized: list[str] = []  # their nodes in the quantized block
        for node in block.module.graph.nodes:
            if isinstance(layer := module_of(block.module, node), QuantLayer):
                in_float = floats[str(node.target)]
                self.layers.append(_LayerMeter(names[layer], float_block, in_float, layer, task))
                self.in_quantized.append(node.name)

    def add(self, x: Tensors, y: Tensors, output: Output, task: Task) -> tuple[Tensors, Tensors]:
        """Take in a piece of what is alive in float (x) and in the quantized model (y); return what is alive behind it."""
        nodes = [n for layer in self.layers for n in (layer.node, sole_input(layer.node))]
        floats = _tensors(self.float_block, x, [n.name for n in nodes])
        quantized_model = _tensors(self.block, y, self.in_quantized)
        for layer, name in zip(self.layers, self.in_quantized, strict=True):
            read, given = floats[sole_input(layer.node).name], floats[layer.node.name]
            layer.add(read, given, quantized_model[name])
            layer.change.add(output, self.rest({**x, **layer.changed(x)}))
            task.advance()
        in_float, in_quantized, isolated = self.float_block(x), self.block(y), self.block(x)
        self.isolated.add(in_float, isolated)
        self.cumulative.add(in_float, in_quantized)
        self.change.add(output, self.rest({**x, **isolated}))
        task.advance()
        return self.rest.alive(x, in_float), self.rest.alive(y, in_quantized)

    def result(self, index: int) -> BlockSensitivity:
        layers = tuple(layer.name for layer in self.layers)
        name = layers[-1] if layers else f"block{index}"
        return BlockSensitivity(name, layers, self.isolated.db(), self.cumulative.db(), self.change.cost())


def _meters(quantized_model: QuantizedModel) -> list[_BlockMeter]:
    network = quantized_model.require_float_model().module
    float_blocks = split(network, quantized_model.blocks)
    names: dict[nn.Module, str] = {layer: name for name, layer in quantized_model.layers().items()}
    return [
        _BlockMeter(names, float_block, block, compose(network, float_blocks[index + 1 :]), quantized_model.task)
        for index, (float_block, block) in enumerate(zip(float_blocks, quantized_model.split(), strict=True))
    ]


def _tensors(block: Block, alive: Tensors, names: Iterable[str]) -> dict[str, Tensor]:
    """What the nodes of these names give."""
    found: dict[str, Tensor] = {}
    inputs = [alive[name] for name in block.inputs]
    watch(block.module, inputs, {name: partial(found.__setitem__, name) for name in names})
    return found


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
