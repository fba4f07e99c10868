"""What only moves numbers, moves that undo one another, and activations that are computed before a move."""

from torch import fx, nn

from ptq.graph.fx_helpers import argument, foldable, is_tensor, module_of, op_name, sole_input

__all__ = ["activations_first", "drop_round_trips", "moves_data"]

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
