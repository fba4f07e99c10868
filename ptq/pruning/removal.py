"""Channels removed: the same graph with smaller layers, and with constants that say so.

Nothing but removed channels changes a number of what is left: weights are taken, not computed.
"""

import copy
import operator
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from ptq.errors import InputError
from ptq.graph.fx_helpers import LAYERS, argument, attribute, module_of, op_name, sole_input
from ptq.graph.preparation import GraphModel
from ptq.graph.rows import mark_rows
from ptq.pruning.coupling.channel_map import ChannelMap, Channels, read_axis
from ptq.pruning.coupling.indexing import pad_sides, slice_position, slice_range, with_item
from ptq.pruning.coupling.operations import is_elementwise, is_piecewise, keeps_channels

__all__ = ["remove"]


def remove(graph_model: GraphModel, channels: ChannelMap, kept: Tensor) -> GraphModel:
    """Return a network without some of its channels; its nodes keep their names.

    Args:
        graph_model: stays untouched.
        channels: of this network.
        kept: whether a coupled channel stays, bool (channels.count,).

    Raises:
        InputError: when `kept` lacks channels that must stay, or all that a tensor has.

    Example:
        >>> from ptq.pruning import find_channels
        >>> channels = find_channels(graph_model)
        >>> kept = torch.ones(channels.count, dtype=torch.bool)
        >>> kept[channels.writers["blocks_0_conv1"][:3]] = False
        >>> remove(graph_model, channels, kept).module.get_submodule("blocks.0.conv1").weight.shape
        torch.Size([5, 8, 3, 3])
    """
    for i, reason in channels.held.items():
        if not kept[i]:
            name = next(name for name, tensor in channels.of.items() if i in tensor.ids)
            raise InputError(f"a channel of {name} cannot be removed: {reason}.")
    for name, tensor in channels.of.items():
        if not kept[tensor.ids].any():
            raise InputError(f"{name} would have no channel left: keep at least one.")
    graph = copy.deepcopy(graph_model.module)
    for node in list(graph.graph.nodes):
        if node.op not in ("placeholder", "get_attr", "output"):
            _shrink(graph, node, channels, kept)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    pruned = replace(graph_model, module=graph.eval().requires_grad_(False))
    mark_rows(graph, pruned.example(2))
    return pruned


def _shrink(graph: fx.GraphModule, node: fx.Node, channels: ChannelMap, kept: Tensor) -> None:
    """Give one operation the weights and the constants that go with the channels that are kept."""
    source = channels.of.get(node.all_input_nodes[0].name) if node.all_input_nodes else None
    given = channels.of.get(node.name)
    module, name = module_of(graph, node), op_name(node)
    if isinstance(module, LAYERS):
        _shrink_layer(module, len(channels.shapes[node.name]), source, given, kept)
    elif is_piecewise(node) and node.name in channels.pieces and source is not None:
        _shrink_pieces(node, channels, source, kept)
    elif given is None:
        return
    elif is_elementwise(graph, node):
        _shrink_constants(graph, node, len(channels.shapes[node.name]), given, kept)
    elif module is not None and keeps_channels(graph, node):
        _shrink_parameters(module, kept[given.ids])
    elif name == "reshape" or name == "unflatten" or isinstance(module, nn.Unflatten):
        shape = list(channels.shapes[node.name])
        shape[given.axis] = int(kept[given.ids].sum())
        read = sole_input(node)
        node.op, node.target, node.args, node.kwargs = "call_function", torch.reshape, (read, (-1, *shape[1:])), {}
    elif source is not None and name in ("getitem", "narrow"):
        _shrink_slice(node, channels, source, kept)
    elif name == "pad":
        _shrink_padding(node, len(channels.shapes[node.name]), given, kept)


def _shrink_layer(
    layer: nn.Module, dimensions: int, source: Channels | None, given: Channels | None, kept: Tensor
) -> None:
    axis = read_axis(layer, dimensions)
    if source is not None and source.axis != axis:
        return  # works on every channel by itself
    inputs = kept[source.ids] if source is not None else None
    outputs = kept[given.ids] if given is not None else None
    if isinstance(layer, nn.Linear):
        weight = layer.weight.detach()
        weight = weight if outputs is None else weight[outputs]
        _set(layer, weight if inputs is None else weight[:, inputs], outputs)
        layer.out_features, layer.in_features = layer.weight.shape
        return
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    inputs = torch.ones(layer.in_channels, dtype=torch.bool) if inputs is None else inputs
    outputs = torch.ones(layer.out_channels, dtype=torch.bool) if outputs is None else outputs
    transposed = isinstance(layer, nn.ConvTranspose2d)
    _set(layer, _grouped(layer.weight.detach(), layer.groups, inputs, outputs, transposed), outputs)
    if layer.groups == layer.in_channels:  # depthwise: the groups are what goes
        layer.groups = int(inputs.sum())
    layer.in_channels, layer.out_channels = int(inputs.sum()), int(outputs.sum())


def _grouped(weight: Tensor, groups: int, inputs: Tensor, outputs: Tensor, transposed: bool) -> Tensor:
    """The weights between the inputs and outputs that are kept, of a convolution in groups."""
    kernel = weight.shape[2:]
    if transposed:  # (C_in, C_out / groups, ...)
        weight = (
            weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).reshape(-1, len(inputs) // groups, *kernel)
        )
    rows = []
    pairs = zip(
        weight.chunk(groups),
        inputs.to(weight.device).chunk(groups),
        outputs.to(weight.device).chunk(groups),
        strict=True,
    )
    for part, read, written in pairs:
        taken = part[written][:, read]
        if taken.numel():
            rows.append(taken.transpose(0, 1) if transposed else taken)
    return torch.cat(rows).contiguous()


def _set(layer: nn.Module, weight: Tensor, outputs: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if layer.bias is not None and outputs is not None:
        assert isinstance(layer.bias, Tensor)
        layer.bias = nn.Parameter(layer.bias.detach()[outputs.to(weight.device)].clone(), requires_grad=False)


def _shrink_parameters(module: nn.Module, kept: Tensor) -> None:
    """Take what a BatchNorm or a PReLU holds for every channel."""
    for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if value.dim() and len(value) == len(kept):
            taken = value.detach()[kept.to(value.device)].clone()
            setattr(module, name, nn.Parameter(taken, False) if isinstance(value, nn.Parameter) else taken)
    for name in ("num_features", "num_parameters"):
        if getattr(module, name, None) == len(kept):
            setattr(module, name, int(kept.sum()))


def _shrink_constants(graph: fx.GraphModule, node: fx.Node, dimensions: int, given: Channels, kept: Tensor) -> None:
    """Take what constants that an operation combines with a tensor hold for every channel."""
    mask = kept[given.ids]
    for constant in [n for n in node.all_input_nodes if n.op == "get_attr"]:
        value = attribute(graph, constant)
        axis = given.axis - dimensions
        if not isinstance(value, Tensor) or value.dim() < -axis or value.shape[axis] != len(mask) or bool(mask.all()):
            continue
        name = f"constant_{node.name}_{constant.name}"
        graph.register_buffer(name, value.detach().index_select(axis, mask.nonzero().flatten().to(value.device)))
        with graph.graph.inserting_before(node):
            taken = graph.graph.get_attr(name)
        taken.meta = dict(constant.meta)
        node.replace_input_with(constant, taken)


def _shrink_pieces(node: fx.Node, channels: ChannelMap, source: Channels, kept: Tensor) -> None:
    """Let pieces that are now of different sizes have them; pieces along another dimension stay."""
    shape = channels.shapes[sole_input(node).name]
    if op_name(node) == "unbind" or argument(node, 2, "dim", 0) % len(shape) != source.axis:
        return
    sizes = [int(kept[piece.ids].sum()) for piece in channels.pieces[node.name]]
    read = sole_input(node)
    node.op, node.target = "call_function", torch.split
    node.args, node.kwargs = (read, sizes, source.axis), {}


def _shrink_slice(node: fx.Node, channels: ChannelMap, source: Channels, kept: Tensor) -> None:
    """Let a slice begin and end at the same channels, where they are now."""
    shape = channels.shapes[sole_input(node).name]
    taken = slice_range(node, shape, source.axis)
    mask = kept[source.ids]
    if taken is None or taken == range(len(mask)):
        return
    start, length = int(mask[: taken.start].sum()), int(mask[taken.start : taken.stop].sum())
    if node.target is operator.getitem:
        position = slice_position(node.args[1], len(shape), source.axis)
        assert position is not None
        node.args = (node.args[0], with_item(node.args[1], position, slice(start, start + length)))  # type: ignore[assignment]
    else:
        node.args, node.kwargs = (sole_input(node), source.axis, start, length), {}


def _shrink_padding(node: fx.Node, dimensions: int, given: Channels, kept: Tensor) -> None:
    """Pad with as many channels as are left of the padding."""
    sides = list(argument(node, 1, "pad"))
    before, behind = pad_sides(sides, dimensions, given.axis)
    if not before + behind:
        return
    mask, at = kept[given.ids], 2 * (dimensions - 1 - given.axis)
    sides[at], sides[at + 1] = int(mask[:before].sum()), int(mask[len(mask) - behind :].sum())
    rest = (argument(node, 2, "mode", "constant"), argument(node, 3, "value"))
    node.args, node.kwargs = (sole_input(node), sides, *rest), {}
