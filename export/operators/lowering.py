"""From a quantized model to a graph of integer operators that says exactly what the ONNX file will say.

The quantized model simulates; this graph is what it becomes for deployment, and the quantized model stays as it is:

- a quantizer becomes QuantizeLinear and DequantizeLinear, and swallows the ReLU or clamp before it;
- a layer holds integer weights, and its bias as int32 codes of scale scale_x * scale_w;
- a hard sigmoid becomes a Clip of its input's codes, read with another scale;
- a transposed convolution becomes a convolution and a shuffle (`transposed_convolutions.py`), its quantizer between them;
- zero padding before a convolution becomes the convolution's own;
- a ReLU or clamp that no quantizer swallows, behind a linear layer in integers, becomes a Max, and a Clip behind that;
- a border of reflected or repeated pixels is added before the layer;
- behind whatever only moves data stands its input's quantizer once more, so that onnxruntime moves bytes.
"""

from collections.abc import Sequence

from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from ptq.errors import ExportError
from ptq.export.operators.integer_modules import (
    Clamp,
    GlobalAveragePool,
    HardGate,
    IntegerLayer,
    KeepFloat,
    Mish,
    PixelShuffle,
    QuantizeDequantize,
    Softplus,
    border,
)
from ptq.export.operators.transposed_convolutions import SplitConvolution, split_transposed
from ptq.graph.canonicalization.data_movement import moves_data
from ptq.graph.fx_helpers import (
    LAYERS,
    argument,
    attribute,
    averages_globally,
    clamp_bounds,
    foldable,
    module_of,
    op_name,
    sole_input,
)
from ptq.quantization.integer_ops import IN_FLOAT
from ptq.quantization.integer_simulation import code_bounds, folded_activation, hard_gate
from ptq.quantization.layers import QuantLayer
from ptq.quantization.quantizers import Quantizer

__all__ = ["lower"]


def lower(quantized_model: fx.GraphModule) -> fx.GraphModule:
    """Return the graph to export; it computes what `quantized_model` computes, and shares its float modules.

    Args:
        quantized_model: a calibrated quantized model's `module`.

    Raises:
        ExportError: for an activation without a range or a weight without codes.

    Example:
        >>> torch.allclose(lower(quantized_model.module)(x), quantized_model.module(x), atol=1e-5)
        True
    """
    modules: dict[str, nn.Module] = {}
    graph = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    grids: dict[fx.Node, QuantizeDequantize] = {}  # by the quantized model's nodes
    shuffles: dict[fx.Node, PixelShuffle] = {}  # that stand behind a quantizer, by the layer before that

    def call(name: str, module: nn.Module, *inputs: fx.Node) -> fx.Node:
        modules[name] = module
        return graph.call_module(name, inputs)

    def kept_float(node: fx.Node) -> dict[fx.Node, fx.Node]:
        source = sole_input(node)
        return {**new, source: call(f"kept.{node.name}", KeepFloat(), new[source])}

    for node in quantized_model.graph.nodes:
        module = module_of(quantized_model, node)
        if isinstance(module, Quantizer):
            folded = folded_activation(quantized_model, node)
            source = sole_input(node if folded is None else folded)
            # onnxruntime makes one of two roundings in a row, on a grid of its own; a Clip between them prevents that.
            apart = source in grids and moves_data(quantized_model, source)
            grids[node] = _grid(module, None if folded is None else module_of(quantized_model, folded), clip=apart)
            x = new[source]
            if source in shuffles:
                x = call(f"shuffled.{node.name}", shuffles[source], call(f"sorts.{node.name}", grids[node], x))
                grids[node] = grids[node].unclipped()
            new[node] = call(str(node.target), grids[node], x)
        elif isinstance(module, QuantLayer):
            source, pads = _padding(quantized_model, sole_input(node), module)
            x = new[source]
            if padded := border(module.op):
                # No operator pads with anything but zeros by itself.
                x = graph.call_function(F.pad, (x, *padded))
                if source in grids:
                    x = call(f"bordered.{node.name}", grids[source].unclipped(), x)
            if _may_be_quantized(quantized_model, node) and source in grids:
                x = call(f"kept.{node.name}", KeepFloat(), x)
            split = _split(module, node)
            new[node] = call(str(node.target), IntegerLayer(module, pads, split), x)
            if split is not None and split.sorts > 1:
                shuffle = PixelShuffle(split.stride, split.cuts)
                if all(_quantizes(quantized_model, user) for user in node.users):
                    shuffles[node] = shuffle
                else:
                    new[node] = call(f"shuffled.{node.name}", shuffle, new[node])
        elif hard_gate(quantized_model, node):
            new[node] = call(str(node.target), HardGate(grids[sole_input(node)]), new[sole_input(node)])
        elif averages_globally(module):
            keep = node.meta.get(IN_FLOAT) and sole_input(node) in grids
            inputs = kept_float(node) if keep else new
            new[node] = call(str(node.target), GlobalAveragePool(), inputs[sole_input(node)])
        else:
            inputs = new
            if _may_be_quantized(quantized_model, node) and sole_input(node) in grids:
                inputs = kept_float(node)
            new[node] = graph.node_copy(node, inputs.__getitem__)
            if module is not None:
                clamps = _clamps_integers(quantized_model, node)
                modules[str(node.target)] = Clamp(*clamp_bounds(module)) if clamps else _exported(module)
            elif node.op == "get_attr":
                modules[str(node.target)] = attribute(quantized_model, node)
            if moves_data(quantized_model, node) and sole_input(node) in grids:
                grids[node] = grids[sole_input(node)].unclipped()
                if not _is_tuple(node):
                    new[node] = call(f"moved.{node.name}", grids[node], new[node])
    lowered = fx.GraphModule(modules, graph)
    graph.eliminate_dead_code()
    lowered.delete_all_unused_submodules()
    lowered.recompile()
    return lowered.eval()


def _exported(module: nn.Module) -> nn.Module:
    """What computes the same as a module that stays as it is, and runs faster in the file."""
    if isinstance(module, nn.PixelShuffle):
        return PixelShuffle((module.upscale_factor,) * 2)
    if isinstance(module, nn.Mish):
        return Mish()
    return Softplus() if isinstance(module, nn.Softplus) and module.beta == 1 else module


def _clamps_integers(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a clamp around 0 right behind a linear layer that computes in integers."""
    if not foldable(graph, node):
        return False
    source = sole_input(node)
    layer = module_of(graph, source)
    return isinstance(layer, QuantLayer) and isinstance(layer.op, nn.Linear) and not source.meta.get(IN_FLOAT)


def _split(layer: QuantLayer, node: fx.Node) -> SplitConvolution | None:
    """What a transposed convolution is computed as in integers; None for other layers."""
    if node.meta.get(IN_FLOAT) or not isinstance(layer.op, nn.ConvTranspose2d):
        return None
    return split_transposed(layer.op)


def _quantizes(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is a quantizer, or an activation that the one behind it does."""
    users = [node] if isinstance(module_of(graph, node), Quantizer) else list(node.users)
    return all(
        isinstance(module_of(graph, user), Quantizer) and (user is node or folded_activation(graph, user) is node)
        for user in users
    )


def _may_be_quantized(quantized_model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether onnxruntime would compute a node that shall stay in float with integers, between integers.

    It quantizes the weights of layers by itself, per tensor.
    """
    module = module_of(quantized_model, node)
    if isinstance(module, QuantLayer) or node.meta.get(IN_FLOAT):
        return bool(node.meta.get(IN_FLOAT)) and _rounded(quantized_model, node)
    return isinstance(module, (*LAYERS, _ConvNd)) or op_name(node).startswith("conv")


def _rounded(quantized_model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether what a node gives is quantized, be it behind an activation."""
    return any(
        isinstance(module_of(quantized_model, user), Quantizer)
        or (foldable(quantized_model, user) and _rounded(quantized_model, user))
        for user in node.users
    )


def _grid(quantizer: Quantizer, activation: nn.Module | None, clip: bool) -> QuantizeDequantize:
    if not quantizer.calibrated:
        raise ExportError("the quantized model has an activation without a range: calibrate it before export.")
    bounds = code_bounds(quantizer, activation)
    return QuantizeDequantize(quantizer.scale, quantizer.zero_point, bounds, clip)


def _padding(
    quantized_model: fx.GraphModule, source: fx.Node, layer: QuantLayer
) -> tuple[fx.Node, tuple[int, int, int, int]]:
    """Skip a zero padding before a convolution: return what it pads, and top, left, bottom, right."""
    module = module_of(quantized_model, source)
    padding: Sequence[int] | None = None
    if isinstance(module, nn.ZeroPad2d):
        padding = module.padding
    elif source.op == "call_function" and source.target is F.pad and moves_data(quantized_model, source):
        given, mode = argument(source, 1, "pad"), argument(source, 2, "mode", "constant")
        if mode == "constant" and isinstance(given, list | tuple) and len(given) == 4:
            padding = [int(n) for n in given]
    plain = isinstance(layer.op, nn.Conv2d) and layer.op.padding_mode == "zeros"
    if padding is None or not plain or min(padding) < 0:
        return source, (0, 0, 0, 0)
    left, right, top, bottom = padding
    return sole_input(source), (top, left, bottom, right)


def _is_tuple(node: fx.Node) -> bool:
    return op_name(node) in ("chunk", "split", "tensor_split", "unbind")
