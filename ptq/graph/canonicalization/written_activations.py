"""Hard sigmoids and swishes that are written as arithmetic become modules: x * relu6(x + 3) / 6, x * sigmoid(1.702 * x).

So MobileNetV3 and its like were written before torch had a hard swish, and so exporters to ONNX write it. What is a
function of one tensor is recognized by its numbers (`pointwise_functions.py`). These are not: other operations may stand
between their parts, and layers take over their factors.
"""

import math
import operator

from torch import fx, nn

from ptq.graph.fx_helpers import LAYERS, add_module, argument, attribute, module_of, op_name, sole_input

__all__ = ["recognize_activations"]

CLOSE = 1e-4  # relative: files hold 0.16666667163372 for 1/6, or less of it


def recognize_activations(graph: fx.GraphModule) -> None:
    """Write hard sigmoids, and swishes with a factor, with modules, in place.

    Args:
        graph: in canonical form; a hard swish is a product with a hard sigmoid in it.
    """
    for node in list(graph.graph.nodes):
        if isinstance(module_of(graph, node), nn.ReLU6):
            _hard_sigmoid(graph, node)
        elif isinstance(module_of(graph, node), nn.Sigmoid):
            _scaled_swish(graph, node)
        elif _clamps_to_one(graph, node):
            _scaled_hard_sigmoid(graph, node)
    graph.graph.eliminate_dead_code()


def _hard_sigmoid(graph: fx.GraphModule, clip: fx.Node) -> None:
    """relu6(x + 3) / 6, also where something is multiplied in before the division."""
    x = _plus(sole_input(clip), 3.0)
    if x is None:
        return
    divided = []
    for user in clip.users:
        if _factor(user) is None and user.target is operator.mul and len(set(user.args)) == 2 and len(user.users) == 1:
            user = next(iter(user.users))
        if not _is(_factor(user), 1 / 6):
            return
        divided.append(user)
    for user in divided:
        user.replace_all_uses_with(sole_input(user))
    add_module(graph, clip, nn.Hardsigmoid(), x)
    clip.meta["example"] = clip.meta["example"] / 6


def _clamps_to_one(graph: fx.GraphModule, node: fx.Node) -> bool:
    module = module_of(graph, node)
    if isinstance(module, nn.Hardtanh):
        return (module.min_val, module.max_val) == (0, 1)
    names = ("min", "max") if op_name(node) != "hardtanh" else ("min_val", "max_val")
    bounds = tuple(argument(node, at, name) for at, name in enumerate(names, 1))
    return op_name(node) in ("clamp", "clip", "hardtanh") and bounds == (0, 1)


def _scaled_hard_sigmoid(graph: fx.GraphModule, clamp: fx.Node) -> None:
    """clamp(x / 6 + 0.5, 0, 1), and with another slope where the layer before x can take it over."""
    x, slope, middle = sole_input(clamp), 1.0, 0.0
    while not (_is(slope, 1 / 6) and _is(middle, 0.5)):
        source = sole_input(x) if x.all_input_nodes else x
        if (factor := _factor(x)) is not None:
            slope *= factor
        elif (term := _term(x)) is not None:
            middle += slope * term
        else:
            break
        x = source
    if not _is(middle, 0.5) or slope <= 0 or not (_is(slope, 1 / 6) or len(x.users) == 1):
        return
    if not _is(slope, 1 / 6):
        with graph.graph.inserting_before(clamp):
            scaled = graph.graph.call_function(operator.mul, (x, 6 * slope))
        scaled.meta = dict(x.meta)
        x = scaled
    add_module(graph, clamp, nn.Hardsigmoid(), x)


def _scaled_swish(graph: fx.GraphModule, gate: fx.Node) -> None:
    """x * sigmoid(c * x), quick GELU where c is 1.702, as swish(c * x) / c: the layer before takes over c, those behind 1 / c."""
    scaled, product = sole_input(gate), _only_user(gate)
    factor = _factor(scaled) or _constant_factor(graph, scaled)
    if product is None or product.target is not operator.mul or factor is None or factor <= 0:
        return
    x = next((node for node in scaled.all_input_nodes if node.op != "get_attr"), scaled)
    if set(product.args) != {x, gate} or set(x.users) != {scaled, product} or not _follows_layer(graph, x):
        return
    product.args = (scaled, gate)
    with graph.graph.inserting_after(product):
        result = graph.graph.call_function(operator.mul, (product, 1 / factor))
    result.meta = dict(product.meta)
    product.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)
    product.meta["example"] = product.meta["example"] * factor


def _constant_factor(graph: fx.GraphModule, node: fx.Node) -> float | None:
    """A learned number that a tensor is multiplied with."""
    held = [attribute(graph, read) for read in node.all_input_nodes if read.op == "get_attr"]
    single = node.target is operator.mul and len(held) == 1 and held[0].numel() == 1
    return float(held[0]) if single else None


def _follows_layer(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a layer, or its BatchNorm, gives a tensor, be it behind a ReLU or a factor."""
    while isinstance(module_of(graph, node), nn.ReLU) or _factor(node) is not None:
        node = sole_input(node)
    return isinstance(module_of(graph, node), (*LAYERS, nn.BatchNorm1d, nn.BatchNorm2d))


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _plus(node: fx.Node, number: float) -> fx.Node | None:
    """What `node` adds `number` to; None where it does something else."""
    if node.target is not operator.add or len(node.args) != 2 or node.kwargs:
        return None
    numbers = [a for a in node.args if not isinstance(a, fx.Node)]
    return sole_input(node) if len(numbers) == 1 and _is(numbers[0], number) else None


def _term(node: fx.Node) -> float | None:
    """The number that `node` adds to a tensor; None where it does something else."""
    number = _number_beside(node, operator.add, operator.sub)
    return -number if number is not None and node.target is operator.sub else number


def _factor(node: fx.Node) -> float | None:
    """The number that `node` multiplies a tensor with; None where it does something else."""
    number = _number_beside(node, operator.mul, operator.truediv)
    if number is None or node.target is operator.mul:
        return number
    return 1 / number if number else None


def _number_beside(node: fx.Node, operation: object, inverse: object) -> float | None:
    """The number that stands with a tensor, on either side of an operation, or behind its inverse."""
    if node.target not in (operation, inverse) or len(node.args) != 2 or node.kwargs:
        return None
    left, right = node.args
    if node.target is operation and not isinstance(left, fx.Node):
        left, right = right, left
    return float(right) if isinstance(left, fx.Node) and isinstance(right, int | float) else None


def _is(number: object, wanted: float) -> bool:
    return isinstance(number, int | float) and math.isclose(number, wanted, rel_tol=CLOSE)
