"""A node of an ONNX file at its turn to be converted."""

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn

from ptq.errors import ModelError
from ptq.models.onnx_import.builder import GraphBuilder, as_tensor
from ptq.models.onnx_import.values import Array, Constant, Value, Variable

__all__ = ["Converter", "Op", "describe"]


def describe(node: ir.Node) -> str:
    """Return what a message calls a node."""
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return f"{node.name or next((output.name for output in node.outputs if output.name), 'a node')} ({kind})"


class Op:
    """A node of the file, what it reads, and what records its conversion.

    Args:
        builder: records.
        node: of the file.
        inputs: what it reads; None for what is left out.
        version: of the operator set.
    """

    def __init__(self, builder: GraphBuilder, node: ir.Node, inputs: Sequence[Value | None], version: int) -> None:
        self.builder, self.node, self.inputs, self.version = builder, node, list(inputs), version

    @property
    def x(self) -> Variable:
        """The first input, as a tensor of the network."""
        return self.variable(0)

    @property
    def name(self) -> str:
        """What a layer made of this is called: as its weight, else as the node."""
        weight = self.node.inputs[1] if len(self.node.inputs) > 1 else None
        stem, _, kind = ((weight.name if weight is not None else "") or "").rpartition(".")
        return stem if stem and kind in ("weight", "running_mean") else self.node.name or self.node.op_type

    def variable(self, index: int) -> Variable:
        """Return an input as a tensor of the network."""
        value = self.inputs[index]
        if value is None:
            raise self.refusal(f"has no input {index}")
        return self.builder.tensor(value) if isinstance(value, Constant) else value

    def given(self, index: int) -> Value | None:
        """Return an input, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def constant(self, index: int) -> Array | None:
        """Return the numbers of an input; None where it is left out, or not known."""
        value = self.given(index)
        return value.array if isinstance(value, Constant) else None

    def weight(self, index: int) -> Tensor | None:
        """Return an input as a weight of its own; None where it is left out, or not known."""
        array = self.constant(index)
        return None if array is None else as_tensor(array).float()

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute of the node: a number, a string, a list of either."""
        held = self.node.attributes.get(name)
        value = default if held is None else held.value
        return list(value) if isinstance(value, tuple) else value

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Return whole numbers that are an attribute in one version, and an input in another.

        Raises:
            ModelError: where an input is not known, or depends on the number of images.
        """
        given = self.given(index)
        if given is None:
            found: list[int] | None = self.attribute(name)
            return found
        array = self.constant(index)
        if array is None:
            raise self.refusal(f"reads its {name} from what the network computes")
        return [int(number) for number in array.reshape(-1)]

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Variable:
        """Record a call of a function."""
        return self.builder.call(function, *args, **kwargs)

    def layer(self, module: nn.Module, x: Value | None = None) -> Variable:
        """Record a call of a new module, on the first input where no other is given."""
        return self.builder.layer(module, self.x if x is None else x, self.name)

    def refusal(self, why: str) -> ModelError:
        """Return the error that says why the node cannot be converted."""
        return ModelError(f"{describe(self.node)} {why}")


Converter = Callable[[Op], Value | Sequence[Value]]
"""Turns a node into what it gives."""
