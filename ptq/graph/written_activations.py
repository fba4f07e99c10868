"""Activations that are written as arithmetic become modules: x * relu6(x + 3) / 6, x * 0.5 * (1 + erf(x / sqrt(2))),
x * tanh(softplus(x)).

So MobileNetV3 and its like were written before torch had a hard swish, and so exporters to ONNX write it, and GELU.
"""

import math
import operator

from torch import fx, nn

from ptq.graph.fx_helpers import add_module, argument, module_of, op_name, sole_input

__all__ = ["recognize_activations"]

CLOSE = 1e-4  # relative: files hold 0.16666667163372 for 1/6, or less of it


def recognize_activations(graph: fx.GraphModule) -> None:
    """Write hard sigmoids, hard swishes, GELUs and Mishes that are spelled out as modules, in place.

    Args:
        graph: in canonical form; a hard swish is a product with a hard sigmoid in it.
    """
    for node in list(graph.graph.nodes):
        if isinstance(module_of(graph, node), nn.ReLU6):
            _hard_sigmoid(graph, node)
        elif op_name(node) == "erf":
            _gelu(graph, node)
        elif isinstance(module_of(graph, node), nn.Tanh) or op_name(node) == "tanh":
            _mish(graph, node)
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


def _gelu(graph: fx.GraphModule, erf: fx.Node) -> None:
    """x * 0.5 * (1 + erf(x / sqrt(2))), in any order."""
    scaled, node = sole_input(erf), _only_user(erf)
    if not _is(_factor(scaled), math.sqrt(0.5)) or node is None or _plus(node, 1.0) is not erf:
        return
    x = sole_input(scaled)
    half, times_x = False, False
    while not (half and times_x):
        read, node = node, _only_user(node)
        if node is None or node.target not in (operator.mul, operator.truediv):
            return
        others = [a for a in node.args if a is not read]
        other = others[0] if len(others) == 1 and isinstance(others[0], fx.Node) else None
        if not half and _is(_factor(node), 0.5):
            half = True
        elif other is not None and not times_x and node.target is operator.mul and other is x:
            times_x = True
        elif other is not None and not half and not times_x and _is(_factor(other), 0.5) and sole_input(other) is x:
            half = times_x = True
        else:
            return
    add_module(graph, node, nn.GELU(), x)


def _mish(graph: fx.GraphModule, tanh: fx.Node) -> None:
    """x * tanh(softplus(x))."""
    softplus, node = sole_input(tanh), _only_user(tanh)
    if not isinstance(module_of(graph, softplus), nn.Softplus) or node is None or node.target is not operator.mul:
        return
    x = sole_input(softplus)
    if set(node.args) == {x, tanh}:
        add_module(graph, node, nn.Mish(), x)


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
