"""What only moves numbers, moves that undo one another, and what is computed before a move or behind it."""

from torch import fx, nn

from ptq.graph.fx_helpers import argument, foldable, is_tensor, module_of, op_name, sole_input

__all__ = ["activations_first", "drop_round_trips", "moves_data", "normalize_last"]

MOVING_MODULES = (
    nn.MaxPool2d,
    nn.Flatten,
    nn.Unflatten,
    nn.ZeroPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.PixelShuffle,
    nn.ChannelShuffle,
)
MOVING_FUNCTIONS = {
    "flatten",
    "reshape",
    "permute",
    "transpose",
    "squeeze",
    "unsqueeze",
    "unflatten",
    "chunk",
    "split",
    "tensor_split",
    "unbind",
    "getitem",
    "max_pool2d",
    "pad",
    "narrow",
    "select",
    "channel_shuffle",
    "roll",
    "flip",
    "index_select",
    "movedim",
    "swapaxes",
    "interpolate",
}
RESHAPES = ("flatten", "reshape", "squeeze", "unflatten", "unsqueeze")


def moves_data(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node only rearranges or selects values: its output needs no range of its own."""
    if node.op == "call_module":
        module = module_of(graph, node)
        nearest = isinstance(module, nn.Upsample) and module.mode == "nearest"
        indices = isinstance(module, nn.MaxPool2d) and module.return_indices
        return nearest or (isinstance(module, MOVING_MODULES) and not indices)
    if node.op not in ("call_function", "call_method") or op_name(node) not in MOVING_FUNCTIONS:
        return False
    if op_name(node) == "getitem":  # of a tensor, or of its pieces, but not of several results
        source = sole_input(node)
        return is_tensor(source) or moves_data(graph, source)
    if op_name(node) == "interpolate":
        return bool(argument(node, 3, "mode", "nearest") == "nearest")
    # Padding with anything but 0 brings in values the range may not hold.
    return op_name(node) != "pad" or (len(node.args) < 4 and not node.kwargs.get("value"))


def drop_round_trips(graph: fx.GraphModule) -> None:
    """Remove reshapes that bring back a shape there was before, in place: what stood between them has been folded.

    Args:
        graph: in canonical form.
    """
    for node in list(graph.graph.nodes):
        source = node
        while _reshapes(graph, source):
            source = sole_input(source)
            if source.meta["example"].shape == node.meta["example"].shape:
                node.replace_all_uses_with(source)
                break
    graph.graph.eliminate_dead_code()


def _reshapes(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node gives the numbers it reads in their order, in another shape."""
    module = module_of(graph, node)
    name = op_name(node) if node.op in ("call_function", "call_method") else ""
    return isinstance(module, nn.Flatten | nn.Unflatten) or name in RESHAPES


def activations_first(graph: fx.GraphModule) -> None:
    """Let a ReLU, or another clamp around 0, stand before what moves the numbers that it reads, in place: there it costs nothing.

    The clamp of a quantizer behind a layer does it. Behind a max-pool, a shuffle or an upsampling there is no quantizer.

    Args:
        graph: in canonical form.
    """
    for node in list(graph.graph.nodes):
        while foldable(graph, node) and _only_moved(graph, node):
            mover, activation = sole_input(node), module_of(graph, node)
            source = sole_input(mover)
            node.replace_all_uses_with(mover)
            mover.replace_input_with(source, node)
            node.args = (source,)
            mover.prepend(node)
            assert activation is not None
            mover.meta["example"], node.meta["example"] = node.meta["example"], activation(source.meta["example"])


def _only_moved(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether an activation, and nobody else, reads all that a mover gives, and the mover all of its own source."""
    mover = sole_input(node)
    return (
        moves_data(graph, mover)
        and len(mover.users) == 1
        and len(sole_input(mover).users) == 1
        and is_tensor(sole_input(mover))
    )


def normalize_last(graph: fx.GraphModule) -> None:
    """Let a LayerNorm read no more than what is picked of it, in place: the token of a class, of all that a transformer has.

    The others cost no time then, and 8 bits need not hold them beside the one that counts.

    Args:
        graph: in canonical form.
    """
    for node in list(graph.graph.nodes):
        norm = module_of(graph, node)
        shape = norm.normalized_shape if isinstance(norm, nn.LayerNorm) else None
        if norm is None and op_name(node) == "layer_norm":
            shape = argument(node, 1, "normalized_shape")
        if shape is None or len(node.users) != 1 or not node.args:
            continue
        source, (pick,) = node.args[0], node.users
        assert isinstance(source, fx.Node)
        if _picks_rows(pick, source.meta["example"].dim() - len(shape)):
            pick.replace_all_uses_with(node)
            pick.replace_input_with(node, source)
            node.args = (pick, *node.args[1:])
            pick.append(node)
            node.meta["example"] = pick.meta["example"]


def _picks_rows(node: fx.Node, dims: int) -> bool:
    """Whether a node picks along the first so many dimensions, and nothing else."""
    if op_name(node) == "select":
        return bool(0 <= argument(node, 1, "dim") < dims)
    if op_name(node) != "getitem":
        return False
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    return len(index) <= dims and all(isinstance(part, int | slice) for part in index)
