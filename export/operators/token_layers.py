"""Linear layers that read more than two dimensions, written so that one integer kernel does all of them.

onnxruntime has one kernel for a matrix product, its bias and its rounding: Gemm, of two dimensions. Of a MatMul it makes
three operators, and rounds the bias by itself. So tokens, (N, T, C), become rows, (N * T, C), and come back behind the layer.
Rows are reshaped as codes, for an operator between DequantizeLinear and Gemm would keep the two apart.
"""

from typing import Any

import onnx_ir as ir
from onnxscript import opset21 as op

__all__ = ["reshape_codes", "write_linear"]


def write_linear(x: Any, weight: Any, bias: Any) -> Any:
    """Write a linear layer as ONNX: of `x`, (..., in), and a weight that is already transposed, (in, out)."""
    if len(x.shape) == 2:
        return op.Gemm(x, weight, bias)
    sizes = [size if isinstance(size, int) else -1 for size in x.shape[:-1]]
    if sizes.count(-1) > 1:
        product = op.MatMul(x, weight)
        return product if bias is None else op.Add(product, bias)
    rows = op.Reshape(x, _shape(-1, int(weight.shape[0])))
    return op.Reshape(op.Gemm(rows, weight, bias), _shape(*sizes, int(weight.shape[1])))


def _shape(*sizes: int) -> Any:
    return op.Constant(value_ints=sizes)


def reshape_codes(graph: ir.Graph) -> None:
    """Move what reshapes the rows of a Gemm to the other side of quantization, in place: it reshapes codes then."""
    for node in [node for node in graph if node.op_type == "Gemm"]:
        _before(graph, node)
        _behind(graph, node)


def _before(graph: ir.Graph, gemm: ir.Node) -> None:
    """DequantizeLinear, Reshape, Gemm -> Reshape, DequantizeLinear, Gemm."""
    reshape = _producer(gemm, "Reshape")
    dequantize = None if reshape is None else _producer(reshape, "DequantizeLinear")
    if reshape is None or dequantize is None:
        return
    reshaped = _copy(reshape, dequantize.inputs[0], reshape.inputs[1])
    again = _copy(dequantize, reshaped.outputs[0], *dequantize.inputs[1:])
    graph.insert_before(gemm, [reshaped, again])
    gemm.replace_input_with(0, again.outputs[0])


def _behind(graph: ir.Graph, gemm: ir.Node) -> None:
    """Gemm, Reshape, QuantizeLinear, Clip -> Gemm, QuantizeLinear, Clip, Reshape."""
    reshape = _only_reader(gemm, "Reshape")
    quantize = None if reshape is None else _only_reader(reshape, "QuantizeLinear")
    if reshape is None or quantize is None:
        return
    last = _only_reader(quantize, "Clip") or quantize
    reshaped = _copy(reshape, last.outputs[0], reshape.inputs[1])
    last.outputs[0].replace_all_uses_with(reshaped.outputs[0])
    reshaped.replace_input_with(0, last.outputs[0])
    quantize.replace_input_with(0, gemm.outputs[0])
    for value in (quantize.outputs[0], last.outputs[0]):
        value.shape = None
    graph.insert_after(last, reshaped)


def _producer(node: ir.Node, kind: str) -> ir.Node | None:
    value = node.inputs[0]
    source = None if value is None else value.producer()
    return source if source is not None and source.op_type == kind else None


def _only_reader(node: ir.Node, kind: str) -> ir.Node | None:
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output() or uses[0].node.op_type != kind:
        return None
    return uses[0].node


def _copy(node: ir.Node, *inputs: ir.Value | None) -> ir.Node:
    """The same operator on other inputs."""
    new = ir.node(node.op_type, inputs, dict(node.attributes))
    new.metadata_props.update(node.metadata_props)
    return new
