"""A float ONNX graph becomes a network, node by node, at one size of the images."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import fx

from ptq.errors import ModelError, PtqError, reason
from ptq.models.onnx_import.builder import GraphBuilder
from ptq.models.onnx_import.layout import permute
from ptq.models.onnx_import.op import Op, describe
from ptq.models.onnx_import.operators import OPERATORS
from ptq.models.onnx_import.signature import Images
from ptq.models.onnx_import.validity import broken_rule
from ptq.models.onnx_import.values import Constant, Value, Variable, known

__all__ = ["convert"]

CHANNELS_LAST = (0, 2, 3, 1)


def convert(model: ir.Model, images: Images, size: tuple[int, int]) -> fx.GraphModule:
    """Return the network that a float ONNX model describes.

    Its modules are torch's own, named after their weights or their nodes. It takes (N, C, H, W) and returns the outputs
    by their names. Every node's meta says what its value is called in the file, "onnx".

    Args:
        model: with one input, as `read_float` gives it; the sizes of its input become these.
        images: what the file takes.
        size: (height, width).

    Raises:
        ModelError: for what cannot be converted, naming the node.
    """
    conversion = _Conversion(model, images.batch or 1, "check the file" if images.size == size else "check --size")
    pixels = conversion.builder.input(images.name, (images.channels, *size))
    source = model.graph.inputs[0]
    if images.channels_last:
        pixels = permute(conversion.builder, pixels, CHANNELS_LAST)
    source.shape = ir.Shape([images.batch or "batch", *pixels.shape[1:]])
    return conversion.run(pixels)


class _Conversion:
    """What the names of a file stand for so far.

    Args:
        model: the file.
        batch: how many images it takes.
        advice: what to do where sizes do not fit.
    """

    def __init__(self, model: ir.Model, batch: int, advice: str) -> None:
        self.advice = advice
        self.graph = model.graph
        self.versions = dict(model.opset_imports)
        self.version = self.versions.get("", self.versions.get("ai.onnx", 0))
        self.builder = GraphBuilder((batch, batch + 1))
        self.values: dict[ir.Value, Value] = {}

    def run(self, pixels: Variable) -> fx.GraphModule:
        self.values[self.graph.inputs[0]] = pixels
        self._walk(self.graph)
        outputs = {value.name or f"output_{at}": self.values[value] for at, value in enumerate(self.graph.outputs)}
        for name, value in outputs.items():
            if isinstance(value, Constant):
                raise ModelError(
                    f"its output {name} is the same for all images: export the network without it, and keep it in the "
                    "application"
                )
        return self.builder.finish(outputs)

    def _walk(self, graph: ir.Graph) -> None:
        for value in graph.initializers.values():
            assert value.const_value is not None  # `read_float` sees to it
            self.values[value] = known(value.const_value.numpy())
        for node in graph:
            given = self._convert(node)
            for output, result in zip(node.outputs, given, strict=False):
                self.values[output] = result
                if isinstance(result, Variable):
                    result.node.meta.setdefault("onnx", output.name)

    def _convert(self, node: ir.Node) -> Sequence[Value]:
        inputs = [None if value is None else self.values[value] for value in node.inputs]
        try:
            if node.op_type == "If":
                return self._branch(node, inputs[0])
            if all(value is None or isinstance(value, Constant) for value in inputs):
                return self._compute(node, inputs)  # type: ignore[arg-type]
            if node.op_type not in OPERATORS:
                raise ModelError(f"{describe(node)} is of an operator that ptq does not know")
            given = OPERATORS[node.op_type](Op(self.builder, node, inputs, self.version))
            return [given] if isinstance(given, Constant | Variable) else given
        except PtqError as error:
            raise error if describe(node) in str(error) else ModelError(f"{describe(node)}: {error}") from error
        except Exception as error:  # what torch says of shapes that do not fit
            if wrong := broken_rule(node, self.versions):
                raise ModelError(f"{describe(node)} is against the rules of ONNX: {wrong}") from error
            raise ModelError(
                f"{describe(node)} cannot be converted for images of this size ({reason(error)}): {self.advice}"
            ) from error

    def _compute(self, node: ir.Node, inputs: Sequence[Constant | None]) -> list[Constant]:
        """Compute what reads constants alone."""
        if node.op_type.startswith("Random"):
            raise ModelError(f"{describe(node)} is random")
        evaluator = _evaluator(node, self.versions)
        pairs = []
        for index in (0, 1):
            feeds = {
                value.name or "": given.arrays[index]
                for value, given in zip(node.inputs, inputs, strict=True)
                if value is not None and given is not None
            }
            pairs.append([np.asarray(array) for array in evaluator.run(None, feeds)])
            if all(value is None or value.arrays[0] is value.arrays[1] for value in inputs):
                return [known(array) for array in pairs[0]]
        return [Constant((first, second)) for first, second in zip(*pairs, strict=True)]

    def _branch(self, node: ir.Node, condition: Value | None) -> list[Value]:
        """Go the way that an `If` takes."""
        array = condition.array if isinstance(condition, Constant) else None
        if array is None:
            raise ModelError(f"{describe(node)} depends on what the network computes")
        taken: ir.Graph = node.attributes["then_branch" if array.any() else "else_branch"].value
        self._walk(taken)
        return [self.values[output] for output in taken.outputs]


def _evaluator(node: ir.Node, versions: Mapping[str, int]) -> ReferenceEvaluator:
    """What runs one node of the file."""
    proto = ir.serde.serialize_node(node)
    inputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in {*proto.input} if name]
    outputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in proto.output if name]
    graph = helper.make_graph([proto], "node", inputs, outputs)
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets))
