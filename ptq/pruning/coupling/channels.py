"""Coupled channels: which entries of all tensors of a network must be kept or removed together.

Every tensor has at most one dimension of channels. A layer writes new ones, arithmetic couples those of its operands,
and what moves data moves them: it is run on their numbers. What mixes channels in ways of its own holds them.
There is no code for any one model.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import LAYERS, argument, input_tensors, module_of, op_name, recompute, sole_input, watch
from ptq.graph.preparation import GraphModel
from ptq.pruning.coupling.channel_map import ChannelMap, Channels, read_axis
from ptq.pruning.coupling.indexing import pad_sides, slice_range
from ptq.pruning.coupling.operations import (
    is_concatenation,
    is_elementwise,
    is_piecewise,
    is_rearrangement,
    is_reduction,
    is_softmax,
    keeps_channels,
)
from ptq.pruning.coupling.union_find import UnionFind

__all__ = ["find_channels"]


def find_channels(graph_model: GraphModel) -> ChannelMap:
    """Find the coupled channels of a network.

    Example:
        >>> channels = find_channels(graph_model)
        >>> stem, block = channels.of["stem_0"].ids, channels.of["blocks_0_conv2"].ids
        >>> torch.equal(stem, block)   # a residual block adds them
        True
        >>> channels.fixed
        {'fc': 'the network returns it'}
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(name: str, value: object) -> None:
        if isinstance(value, Tensor):
            shapes[name] = tuple(value.shape)

    nodes = list(graph_model.module.graph.nodes)
    watch(graph_model.module, graph_model.example(), {node.name: partial(keep, node.name) for node in nodes})
    finder = _Finder(graph_model.module, shapes)
    for node in nodes:
        finder.visit(node)
    return finder.found()


class _Held(Exception):
    """Says why all channels that a node reads must stay."""


class _Finder:
    """Walks a graph in the order of computation; couples channels, and holds some."""

    def __init__(self, graph: fx.GraphModule, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.graph, self.shapes = graph, shapes
        self.of: dict[str, Channels] = {}
        self.pieces: dict[str, tuple[Channels, ...]] = {}
        self.writers: dict[str, Tensor] = {}
        self.readers: dict[str, Tensor] = {}
        self.coupled = UnionFind()
        self.held: dict[int, str] = {}
        self.without: dict[str, str] = {}  # layers that write no channels of their own

    def visit(self, node: fx.Node) -> None:
        """Find the channels of a node's tensor; those of its inputs are known."""
        if node.op in ("get_attr", "placeholder"):
            return
        if node.op == "output":
            self._hold(node, "the network returns it")
            return
        try:
            channels = self._channels(node)
        except _Held as held:
            self._hold(node, str(held))
            return
        if channels is not None and node.name in self.shapes:
            self.of[node.name] = channels
        elif node.name not in self.pieces:  # nobody knows where they are now
            self._hold(node, self._mixed(node))

    def _channels(self, node: fx.Node) -> Channels | None:
        module, source = module_of(self.graph, node), next(iter(input_tensors(node)), None)
        read = self.of.get(source.name) if source is not None else None
        if isinstance(module, LAYERS):
            return self._layer(node, module, read)
        if is_elementwise(self.graph, node):
            return self._joined(node, {n: self.of.get(n.name) for n in input_tensors(node)}, self._shape(node))
        if is_concatenation(node):
            return self._concatenated(node)
        if source is None or any(n is not source and self._has_channels(n) for n in input_tensors(node)):
            raise _Held(self._mixed(node))
        if read is None and source.name not in self.pieces:
            return None
        if is_rearrangement(self.graph, node):
            return self._rearranged(node, source, read)
        if read is None:
            return None
        if keeps_channels(self.graph, node) and read.axis == 1:
            return read
        if op_name(node) == "pad":
            return self._padded(node, read)
        if is_piecewise(node):
            numbers = _spread(read, self._shape(source))
            moved = recompute(self.graph, node, lambda _: numbers)
            self.pieces[node.name] = tuple(self._gathered(node, piece, None) for piece in moved)
            return None
        if is_reduction(node) or is_softmax(self.graph, node):
            return self._reduced(node, module, read)
        raise _Held(self._mixed(node))

    def found(self) -> ChannelMap:
        """Return what was found, with coupled channels counted from 0."""
        group = self.coupled.numbered()
        held: dict[int, str] = {}
        for i, reason in self.held.items():
            held.setdefault(int(group[i]), reason)
        of = {name: Channels(c.axis, group[c.ids]) for name, c in self.of.items()}
        pieces = {name: tuple(Channels(c.axis, group[c.ids]) for c in parts) for name, parts in self.pieces.items()}
        writers = {name: group[ids] for name, ids in self.writers.items()}
        fixed = dict(self.without)
        for name, ids in writers.items():
            if all(i in held for i in ids.tolist()):
                fixed[name] = held[int(ids[0])]
        readers = {name: group[ids] for name, ids in self.readers.items()}
        count = int(group.max()) + 1 if len(group) else 0
        return ChannelMap(of, pieces, self.shapes, writers, readers, held, fixed, count)

    def _layer(self, node: fx.Node, layer: nn.Module, read: Channels | None) -> Channels | None:
        shape = self._shape(node)
        axis, groups = read_axis(layer, len(shape)), getattr(layer, "groups", 1)
        if read is not None and read.axis != axis:
            if isinstance(layer, nn.Linear):
                self.without[node.name] = "it works on every channel by itself"
                return read
            raise _Held("a convolution reads it along another dimension")
        each = shape[axis] // groups
        if groups > 1:
            inputs = self._shape(sole_input(node))[1] // groups
            if inputs == 1:
                if read is None:
                    self.without[node.name] = (
                        "its input's channels cannot be removed, nor can those of a depthwise layer"
                    )
                    return None
                return Channels(axis, read.ids.repeat_interleave(each))
            if read is not None:  # every group loses the same
                self.coupled.join_rows(read.ids.reshape(groups, inputs).T)
        if read is not None:
            self.readers[node.name] = read.ids
        self.writers[node.name] = self.coupled.new(each).repeat(groups)
        return Channels(axis, self.writers[node.name])

    def _joined(
        self, node: fx.Node, operands: Mapping[fx.Node, Channels | None], shape: tuple[int, ...]
    ) -> Channels | None:
        """Couple the channels of tensors that are combined number by number; smaller ones are spread over larger ones."""
        joined: list[Channels] = []
        for operand, channels in operands.items():
            own = self._shape(operand)
            if channels is not None and own[channels.axis] == shape[channels.axis - len(own)]:
                joined.append(Channels(channels.axis + len(shape) - len(own), channels.ids))
            elif channels is not None:
                self._hold_ids(channels.ids, "it is spread over other channels")
        axes = {channels.axis for channels in joined}
        if len(axes) > 1:
            raise _Held("it is combined with a tensor whose channels lie along another dimension")
        for axis in axes:
            from_end = axis - len(shape)
            others = [self._shape(operand) for operand, channels in operands.items() if channels is None]
            if any(len(own) >= -from_end and own[from_end] == shape[axis] > 1 for own in others):
                raise _Held(f"{op_name(node)} combines it with channels that cannot be removed")
        if joined:
            self.coupled.join_rows(torch.stack([channels.ids for channels in joined], 1))
        return joined[0] if joined else None

    def _concatenated(self, node: fx.Node) -> Channels | None:
        parts, shape = list(node.args[0] if node.args else node.kwargs["tensors"]), self._shape(node)  # type: ignore[arg-type]
        found = [self.of.get(part.name) if isinstance(part, fx.Node) else None for part in parts]
        known = [channels for channels in found if channels is not None]
        dim = argument(node, 1, "dim", 0) % len(shape) if shape else 0
        if not known:
            return None
        axis = known[0].axis
        if len({channels.axis for channels in known}) > 1:
            raise _Held("it is put beside a tensor whose channels lie along another dimension")
        if op_name(node) != "stack" and dim == axis:
            ids = []
            for part, channels in zip(parts, found, strict=True):
                if channels is None:
                    ids.append(self.coupled.new(self._shape(part)[dim]))
                    self._hold_ids(ids[-1], "it is of a tensor whose channels cannot be removed")
                else:
                    ids.append(channels.ids)
            return Channels(axis, torch.cat(ids))
        if len(known) < len(found):
            raise _Held("it is put beside a tensor whose channels cannot be removed")
        self.coupled.join_rows(torch.stack([channels.ids for channels in known], 1))
        return Channels(axis + (op_name(node) == "stack" and dim <= axis), known[0].ids)

    def _rearranged(self, node: fx.Node, source: fx.Node, read: Channels | None) -> Channels | None:
        name = op_name(node)
        if source.name in self.pieces:
            at = node.args[1]
            return self.pieces[source.name][at] if isinstance(at, int) else None
        assert read is not None
        shape, module = self._shape(source), module_of(self.graph, node)
        if name in ("getitem", "narrow") and slice_range(node, shape, read.axis) is None:
            raise _Held("single channels are picked from it")
        if name == "squeeze" and len(node.args) + len(node.kwargs) == 1:
            raise _Held("a squeeze of no certain dimension reads it")
        spatial = name.startswith("pixel_") or isinstance(module, nn.PixelShuffle | nn.PixelUnshuffle)
        if name == "channel_shuffle" or isinstance(module, nn.ChannelShuffle):
            groups = module.groups if isinstance(module, nn.ChannelShuffle) else argument(node, 1, "groups")
            self.coupled.join_rows(read.ids.reshape(groups, -1).T)
            spatial = True
        numbers = _spread(read, shape)
        moved = recompute(self.graph, node, lambda _: numbers)
        return self._gathered(node, moved, 1 if spatial else None)

    def _gathered(self, node: fx.Node, moved: Tensor, axis: int | None) -> Channels:
        """The channels of a tensor of which every number's is known: along the dimension where most of them differ.

        What lies beside one another along the other dimensions is coupled, so that a part of this one can go.
        """
        moved = moved.long()
        varying = [d for d in range(moved.dim()) if bool((moved != moved.narrow(d, 0, 1)).any())]
        if 0 in varying or not varying:
            raise _Held(f"{op_name(node)} leaves no dimension of channels")
        if axis is None:
            sorts = {d: len(moved.movedim(d, 0).flatten(1).unique(dim=0)) for d in varying} if varying[1:] else {}
            axis = max(varying, key=lambda d: sorts.get(d, 0))
        rows = moved.movedim(axis, 0).flatten(1)
        if varying != [axis]:
            self.coupled.join_rows(rows)
        return Channels(axis, rows[:, 0])

    def _padded(self, node: fx.Node, read: Channels) -> Channels:
        shape, sides = self._shape(sole_input(node)), argument(node, 1, "pad")
        before, behind = pad_sides(sides, len(shape), read.axis)
        if min(before, behind) < 0 or (before + behind and argument(node, 2, "mode", "constant") != "constant"):
            raise _Held("it is padded with channels of its own, or cut")
        return Channels(read.axis, torch.cat([self.coupled.new(before), read.ids, self.coupled.new(behind)]))

    def _reduced(self, node: fx.Node, module: nn.Module | None, read: Channels) -> Channels:
        before, after = len(self._shape(sole_input(node))), len(self._shape(node))
        dims = getattr(module, "dim", None) if module is not None else argument(node, 1, "dim")
        if isinstance(dims, int):
            dims = (dims,)
        if not isinstance(dims, tuple | list) or read.axis in (reduced := sorted(d % before for d in dims)):
            raise _Held(f"{_called(module, node)} mixes its channels")
        gone = sum(d < read.axis for d in reduced) if after < before else 0
        return Channels(read.axis - gone, read.ids)

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        return self.shapes.get(node.name, ())

    def _has_channels(self, node: fx.Node) -> bool:
        return node.name in self.of or node.name in self.pieces

    def _mixed(self, node: fx.Node) -> str:
        return f"{_called(module_of(self.graph, node), node)} reads it, which may mix channels"

    def _hold(self, node: fx.Node, reason: str) -> None:
        """Let all channels that a node reads stay."""
        for source in node.all_input_nodes:
            channels = [self.of.get(source.name), *self.pieces.get(source.name, ())]
            for one in channels:
                if one is not None:
                    self._hold_ids(one.ids, reason)

    def _hold_ids(self, ids: Tensor, reason: str) -> None:
        for i in ids.tolist():
            self.held.setdefault(i, reason)


def _spread(channels: Channels, shape: tuple[int, ...]) -> Tensor:
    """The coupled channel of every number of a tensor, in a type that everything can move."""
    view = [1] * len(shape)
    view[channels.axis] = -1
    return channels.ids.double().reshape(view).expand(shape)


def _called(module: nn.Module | None, node: fx.Node) -> str:
    return type(module).__name__ if module is not None else op_name(node)
