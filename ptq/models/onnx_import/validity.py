"""What must hold of an ONNX file before it can mean anything; onnxruntime says no more than that a graph is invalid."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir

from ptq.errors import InputError, reason

__all__ = ["broken_rule", "refuse_broken_names", "refuse_unreadable_weights"]


def refuse_broken_names(model: onnx.ModelProto) -> None:
    """Check that everything has one name, and that what is read is there.

    Raises:
        InputError: naming the first that is not so.
    """
    graph = model.graph
    if not graph.output:
        raise _invalid("it has no outputs")
    if graph.sparse_initializer:
        raise InputError("it has sparse weights, which ptq does not read: export it with dense ones")
    _check_graph(graph, frozenset())
    for function in model.functions:
        _check(function.node, function.input, function.output, frozenset())


def refuse_unreadable_weights(graph: ir.Graph) -> None:
    """Check that every weight has a type, and as many numbers as its shape says.

    Raises:
        InputError: naming the first that is not so.
    """
    for name, tensor in _tensors(graph):
        try:
            tensor.numpy()
        except Exception as error:  # numpy and onnx_ir raise their own
            raise _invalid(f"its weight {name} cannot be read ({reason(error)})") from error


def broken_rule(node: ir.Node, versions: Mapping[str, int]) -> str:
    """Return what is wrong with the inputs or attributes of a node whatever it reads; "" where nothing is."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = onnx.IR_VERSION, dict(versions)
    try:
        onnx.checker.check_node(ir.serde.serialize_node(node), context)
    except onnx.checker.ValidationError as error:
        return reason(error)
    return ""


def _check_graph(graph: onnx.GraphProto, outer: Collection[str]) -> None:
    inputs, weights = [value.name for value in graph.input], [weight.name for weight in graph.initializer]
    _refuse_repeated(inputs)
    _refuse_repeated(weights)
    given = [*inputs, *(name for name in weights if name not in {*inputs})]  # a weight may stand among the inputs
    _check(graph.node, given, [value.name for value in graph.output], outer)


def _check(
    nodes: Sequence[onnx.NodeProto], given: Sequence[str], outputs: Sequence[str], outer: Collection[str]
) -> None:
    """Check the names of a graph, or of a function.

    Args:
        nodes: of it.
        given: names of its inputs and weights.
        outputs: its own.
        outer: names of the graphs around it.
    """
    for what, named in (("inputs or weights", given), ("outputs", outputs)):
        if not all(named):
            raise _invalid(f"number {list(named).index('') + 1} of its {what} has no name")
    names = [*given, *(name for node in nodes for name in node.output if name)]
    _refuse_repeated(names)
    known = {*names, *outer}
    for node in nodes:
        for name in node.input:
            if name and name not in known:
                raise _invalid(f"{_named(node)} reads {name}, which is given nowhere")
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _check_graph(graph, known)
    for name in outputs:
        if name not in known:
            raise _invalid(f"its output {name} is given nowhere")


def _refuse_repeated(names: Iterable[str]) -> None:
    name, count = next(iter(Counter(names).most_common(1)), ("", 0))
    if count > 1:
        raise _invalid(f"{count} things have the name {name}")


def _named(node: onnx.NodeProto) -> str:
    name = node.name or next(filter(None, node.output), "a node")
    return f"{name} ({node.op_type})"


def _tensors(graph: ir.Graph) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """All weights, those of branches too: initializers, and attributes of nodes."""
    nodes = list(graph.all_nodes())
    for part in dict.fromkeys([graph, *(node.graph for node in nodes if isinstance(node.graph, ir.Graph))]):
        for name, value in part.initializers.items():
            if value.const_value is None:
                raise _invalid(f"its weight {name} has no numbers")
            yield name, value.const_value
    for node in nodes:
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR:
                yield f"{node.name or node.op_type}.{name}", attribute.as_tensor()


def _invalid(why: str) -> InputError:
    return InputError(f"it is no valid ONNX file: {why}. Export it again, or mend it with the help of onnx.checker")
