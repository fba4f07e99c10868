"""A block of the quantized model as it is while it is fitted: soft roundings, learned scales, some activations in float.

A soft block shares the quantized model's parameters and leaves its modules as they are. An activation function and the
quantizer behind it are one operation here, biases are in float, and layers that learn nothing have their
rounded weight computed once.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ptq.config.choices import MAX_BITS
from ptq.graph.fx_helpers import clamp_bounds, foldable, module_of, sole_input
from ptq.quantization.affine import per_channel
from ptq.quantization.layers import QuantLayer, apply_layer
from ptq.quantization.quantizers import Quantizer
from ptq.reconstruction.drop_mask import DropMask
from ptq.reconstruction.kernels import quantize_activation, rectified_sigmoid, soft_round
from ptq.reconstruction.kernels.reference import GAMMA, ZETA
from ptq.utils.autocast import fast_bfloat16, in_float32, wants_float32

__all__ = [
    "FixedLayer",
    "FloatLayer",
    "LearnedScale",
    "SoftBlock",
    "SoftLayer",
    "StandIn",
    "is_low",
    "learns",
    "soften",
]


def learns(module: nn.Module | None) -> bool:
    """Whether reconstruction can learn something about it: roundings, or a scale that nothing else binds."""
    return isinstance(module, QuantLayer) or (isinstance(module, Quantizer) and module.spec.grid == "free")


def is_low(module: nn.Module | None) -> bool:
    """Whether it quantizes to fewer than 8 bits."""
    if isinstance(module, QuantLayer):
        return module.weight_quantizer.spec.bits < MAX_BITS
    return isinstance(module, Quantizer) and module.spec.bits < MAX_BITS


class LearnedScale(nn.Module):
    """An activation function, if any, and a quantizer whose scale is learned (LSQ, Esser et al., ICLR 2020).

    What is learned is the `gain`, the scale as a multiple of what it was: one learning rate serves all.

    Args:
        quantizer: calibrated.
        bounds: what the activation function clamps to; (-inf, inf) for none.
        mask: which elements are quantized (QDrop); None for all.
        gain: that of another module for the same quantizer, where there is one.
    """

    grid: Tensor
    scale: Tensor

    def __init__(
        self, quantizer: Quantizer, bounds: tuple[float, float], mask: DropMask | None, gain: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        zero_point = float(quantizer.zero_point)
        codes = (quantizer.spec.qmin - zero_point, quantizer.spec.qmax - zero_point)
        self._quantizer, self.mask = (quantizer,), mask  # in a tuple: it is not part of this module
        self.register_buffer("scale", quantizer.scale.clone())
        self.register_buffer("grid", self.scale.new_tensor([*bounds, *codes]))
        if gain is None:
            gain = nn.Parameter(torch.ones_like(self.scale), requires_grad=learns(quantizer))
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` clamped and quantized; same shape."""
        keep = None if self.mask is None else self.mask(x)
        return quantize_activation(x, self.current(), self.grid, keep)

    @property
    def quantizer(self) -> Quantizer:
        """The quantized model's quantizer."""
        return self._quantizer[0]

    def current(self) -> Tensor:
        """Return the scale as it stands, ()."""
        return self.scale * self.gain

    @torch.no_grad()
    def commit(self) -> None:
        """Give the quantized model's quantizer the scale that was learned."""
        self.quantizer.set_scale(self.current())


class StandIn(nn.Module):
    """What computes a layer of the quantized model while something is learned.

    Args:
        layer: with a calibrated weight quantizer.
        float32: compute in float32 even within autocast.
    """

    def __init__(self, layer: QuantLayer, float32: bool = False) -> None:
        super().__init__()
        self._layer, self.float32 = (layer,), float32  # in a tuple: its parameters are not those of this module

    @property
    def layer(self) -> QuantLayer:
        """The layer that this one stands in for."""
        return self._layer[0]

    def weight(self) -> Tensor:
        """The weight to compute with."""
        raise NotImplementedError

    def bias(self) -> Tensor | None:
        """The bias to compute with."""
        return self.layer.op.bias

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; shapes as the layer."""

        def apply(part: Tensor) -> Tensor:
            return apply_layer(self.layer.op, part, self.weight(), self.bias())

        return in_float32(apply, x) if self.float32 else apply(x)

    def commit(self) -> None:
        """Give the layer what was learned: nothing here."""


class SoftLayer(StandIn):
    """A layer that learns for every weight whether to round up or down (AdaRound, Nagel et al., ICML 2020).

    Starts where the soft weight equals the float weight (within the clipping range). AdaRound drives
    the roundings to a decision by a regularizer; here they are decided by `sharpness`, which reconstruction
    raises from 1: the rectified sigmoid of ``sharpness * alpha`` becomes a jump from 0 to 1.
    """

    base: Tensor
    rest: Tensor
    scale: Tensor
    sharpness: Tensor

    def __init__(self, layer: QuantLayer, float32: bool = False) -> None:
        super().__init__(layer, float32)
        self.spec = layer.weight_quantizer.spec
        weight = layer.weight_quantizer.float_weight
        scale = per_channel(layer.weight_quantizer.scale, weight, self.spec.axis)
        base = (weight / scale).floor()
        rest = (weight / scale - base).clamp(1e-4, 1 - 1e-4)
        self.register_buffer("scale", scale.clone())
        self.register_buffer("base", base)
        self.register_buffer("rest", rest)
        self.register_buffer("sharpness", torch.ones((), device=weight.device))
        self.alpha = nn.Parameter(-torch.log((ZETA - GAMMA) / (rest - GAMMA) - 1))

    def weight(self) -> Tensor:
        """The softly rounded weight."""
        qmin, qmax = self.spec.qmin, self.spec.qmax
        return soft_round(self.base, self.alpha, self.scale, self.sharpness, qmin, qmax)

    def departure(self) -> Tensor:
        """Return how far its roundings take the weights from where they were, (): squares, in a twelfth of a step's, added up.

        The rounding function stands for how probable it is that a weight is rounded up.
        """
        h = rectified_sigmoid(self.sharpness * self.alpha)
        return 12 * (h * (1 - self.rest).square() + (1 - h) * self.rest.square()).sum()

    @torch.no_grad()
    def undecided(self) -> float:
        """Return the share of the weights, 0..1, whose rounding is not within 1 % of a decision."""
        h = rectified_sigmoid(self.sharpness * self.alpha)
        return float(((h > 0.01) & (h < 0.99)).float().mean())

    @torch.no_grad()
    def commit(self) -> None:
        """Give the quantized model's layer the codes with every rounding decided."""
        up = (self.alpha >= 0).to(self.base.dtype)
        codes = (self.base + up).clamp(self.spec.qmin, self.spec.qmax)
        self.layer.weight_quantizer.harden(codes)


class FixedLayer(StandIn):
    """A layer whose codes are decided."""

    rounded: Tensor

    def __init__(self, layer: QuantLayer, float32: bool = False) -> None:
        super().__init__(layer, float32)
        with torch.no_grad():
            self.register_buffer("rounded", layer.weight_quantizer())

    def weight(self) -> Tensor:
        """The weight that its codes stand for."""
        return self.rounded


class FloatLayer(StandIn):
    """A layer as it is in the float network."""

    def weight(self) -> Tensor:
        """The weight before it was clipped and rounded."""
        return self.layer.weight_quantizer.float_weight


class SoftBlock(nn.Module):
    """A block or a layer while it is optimized, and what is learned in it.

    Attributes:
        graph: computes the unit.
        layers: with soft roundings.
        scales: one module for every scale of activations that is learned.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph
        self.stand_ins = [m for m in graph.modules() if isinstance(m, StandIn)]
        self.layers = [m for m in self.stand_ins if isinstance(m, SoftLayer)]
        scales = [m for m in graph.modules() if isinstance(m, LearnedScale)]
        self.scales = list({m.gain: m for m in scales if m.gain.requires_grad}.values())

    def forward(self, *inputs: Tensor) -> Any:
        """Compute what the unit gives as it stands, in float32 where autocast is off."""
        return self.graph(*(x if torch.is_autocast_enabled(x.device.type) else x.float() for x in inputs))

    def departure(self) -> Tensor:
        """Return how far all roundings are from the float weights, ()."""
        return torch.stack([layer.departure() for layer in self.layers]).sum()

    def commit(self) -> None:
        """Give the quantized model what was learned, every rounding decided."""
        for scale in self.scales:
            scale.commit()
        for layer in self.stand_ins:  # after the scales of what they read
            layer.commit()


def soften(
    unit: fx.GraphModule,
    mask: DropMask | None,
    layer: Callable[[QuantLayer, bool], StandIn] = SoftLayer,
    scales: bool = True,
) -> SoftBlock:
    """Make the soft block of a unit, in which its roundings, its scales or both are learned.

    Args:
        unit: a part of a calibrated quantized model.
        mask: of the activations that are quantized; None quantizes all of them.
        layer: makes what stands in for a layer, told whether it computes in float32 within autocast: `SoftLayer` learns
            roundings, `FixedLayer` nothing.
        scales: learn those of activations, but for those that a gate binds; without, activations stay in float.

    Example:
        >>> block = soften(quantized_model.split()[0].module, mask=None)
        >>> block(images).shape, len(block.scales)
        (torch.Size([8, 8, 8, 8]), 1)
    """
    graph = fx.GraphModule(unit, _copy(unit.graph))
    made: dict[object, nn.Module] = {}  # one for every module, however often it is called
    gains: dict[Quantizer, nn.Parameter] = {}
    for node in list(graph.graph.nodes):
        module = module_of(graph, node)
        if isinstance(module, Quantizer) and not scales:
            node.replace_all_uses_with(sole_input(node))
            graph.graph.erase_node(node)
        elif isinstance(module, Quantizer):
            bounds = (-math.inf, math.inf)
            before = sole_input(node)
            if foldable(graph, before) and len(before.users) == 1:
                bounds = clamp_bounds(module_of(graph, before))
                node.replace_input_with(before, sole_input(before))
                graph.graph.erase_node(before)
            key = module, bounds
            made[key] = scale = made.get(key) or LearnedScale(module, bounds, mask, gains.get(module))
            assert isinstance(scale, LearnedScale)
            gains[module] = scale.gain
            _replace(graph, node, scale)
        elif isinstance(module, QuantLayer):
            device = module.weight_quantizer.codes.device
            slow = fast_bfloat16(device) and wants_float32(module.op, device, weights=layer is not FixedLayer)
            made[module] = made.get(module) or layer(module, slow)
            _replace(graph, node, made[module])
    graph.recompile()
    return SoftBlock(graph)


def _copy(graph: fx.Graph) -> fx.Graph:
    copied = fx.Graph()
    copied.output(copied.graph_copy(graph, {}))
    return copied


def _replace(graph: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    target = f"soft_{node.name}"
    graph.add_submodule(target, module)
    node.target = target
