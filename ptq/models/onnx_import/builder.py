"""Records a torch.fx graph call by call, and knows the shapes of every result."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from ptq.errors import ModelError
from ptq.models.inputs import take_input
from ptq.models.onnx_import.values import Array, Constant, Value, Variable

__all__ = ["GraphBuilder", "as_tensor"]


def as_tensor(array: Array) -> Tensor:
    """Return numbers as a tensor of its own."""
    return torch.from_numpy(np.array(array, order="C"))


class GraphBuilder:
    """A network in the making.

    Args:
        batches: sizes of the two batches that examples are for; the second is the larger.
    """

    def __init__(self, batches: tuple[int, int]) -> None:
        self.batches = batches
        self.permutations: dict[fx.Node, tuple[Variable, tuple[int, ...]]] = {}  # what `permute` reads, and its order
        self.outside: dict[
            fx.Node, int
        ] = {}  # of a dimension that more than the images make up: how much is outside them
        self._root = nn.Module()
        self._graph = fx.Graph()
        self._held: dict[int, tuple[Constant, Variable]] = {}
        self._leaves: set[str] = set()
        self._containers: set[str] = set()
        self._images: fx.Node | None = None

    def input(self, name: str, shape: Sequence[int]) -> Variable:
        """Add an input of `shape`, without the batch; any name is kept."""
        python = re.sub(r"\W", "_", name)
        self._images = self._graph.placeholder(python if python.isidentifier() else f"input_{python}")
        first, second = (torch.empty((batch, *shape), device="meta") for batch in self.batches)
        images = Variable(self._images, (first, second))
        if self._images.target == name:
            return images
        named = self.call(take_input, images, name, 0, shape[0])  # an argument cannot be called so
        named.node.meta["is_wrapped"] = True  # and stays a call when the network is traced
        return named

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Variable:
        """Record a call of a function; its arguments may hold values."""
        return self._record("call_function", function, function, args, kwargs)

    def method(self, name: str, value: Value, *args: Any) -> Variable:
        """Record a call of a tensor's method."""
        return self._record("call_method", name, lambda x, *more: getattr(x, name)(*more), (value, *args), {})

    def layer(self, module: nn.Module, x: Value, name: str) -> Variable:
        """Record a call of a new module, which gets a name like `name`."""
        target = self._free_name(name)
        self._add(target, module.eval().requires_grad_(False))
        on_meta = {key: value.to("meta") for key, value in module.state_dict().items()}

        def run(x: Tensor) -> Any:
            return torch.func.functional_call(module, on_meta, (x,))

        return self._record("call_module", target, run, (x,), {})

    def items(self, several: Variable) -> list[Variable]:
        """Take apart what a function gave that gives several tensors."""
        found = []
        for index in range(len(several.examples[0])):
            node = self._graph.call_function(operator.getitem, (several.node, index))
            found.append(Variable(node, (several.examples[0][index], several.examples[1][index])))
        return found

    def tensor(self, constant: Constant) -> Variable:
        """Return a constant as a tensor of the network.

        Raises:
            ModelError: for numbers that depend on how many images there are.
        """
        held = self._held.get(id(constant))
        if held is None:
            held = self._held[id(constant)] = (constant, self._constant(constant))
        return held[1]

    def finish(self, outputs: Mapping[str, Value]) -> fx.GraphModule:
        """Return the network that gives `outputs`, by name."""
        given = {name: (self.tensor(v) if isinstance(v, Constant) else v).node for name, v in outputs.items()}
        self._graph.output(given)
        network = fx.GraphModule(self._root, self._graph).eval().requires_grad_(False)
        network.graph.eliminate_dead_code()
        network.delete_all_unused_submodules()
        network.recompile()
        return network

    def _constant(self, constant: Constant) -> Variable:
        first, second = (as_tensor(array) for array in constant.arrays)
        alike = constant.array is not None
        if not alike and not _repeated(first, second, self.batches):
            raise ModelError("it computes with the number of images")
        name = f"constant_{len(self._held)}"
        self._root.register_buffer(name, first if alike else first[:1].clone())
        assert self._images is not None
        with self._graph.inserting_after(self._images):  # a constant may be wanted in several places
            node = self._graph.get_attr(name)
        shape = first.to("meta") if alike else first[:1].to("meta")
        held = Variable(node, (shape, shape))
        return held if alike else self.repeated(held)

    def repeated(self, row: Variable) -> Variable:
        """Record a constant, the same for every image, as often as there are images."""
        assert self._images is not None
        name = str(row.node.target)
        if name in self._root._buffers:  # torch.fx computes with buffers at once, for the batch at hand
            value = self._root._buffers.pop(name)
            assert value is not None
            if not bool((value == value[:1]).all()):
                raise ModelError("it has other numbers for every image of a batch")
            self._root.register_parameter(name, nn.Parameter(value[:1].clone(), requires_grad=False))
        with self._graph.inserting_after(self._images):
            size = self._graph.call_method("size", (self._images, 0))
        with self._graph.inserting_after(row.node):
            node = self._graph.call_method("expand", (row.node, size, *row.shape[1:]))
        examples = [torch.empty((batch, *row.shape[1:]), device="meta") for batch in self.batches]
        return Variable(node, (examples[0], examples[1]))

    def _record(self, kind: str, target: Any, run: Callable[..., Any], args: Any, kwargs: Any) -> Variable:
        args, kwargs = _mapped((args, kwargs), self._as_variable)
        results = []
        for index in (0, 1):
            examples = _mapped((args, kwargs), lambda v, at=index: v.examples[at] if isinstance(v, Variable) else v)
            results.append(run(*examples[0], **examples[1]))
        nodes = _mapped((args, kwargs), lambda v: v.node if isinstance(v, Variable) else v)
        made = Variable(self._graph.create_node(kind, target, *nodes), (results[0], results[1]))
        self._inherit(made)
        return made

    def _inherit(self, made: Variable) -> None:
        """What works on rows leaves it as it is which of them belong to an image."""
        for node in made.node.all_input_nodes:
            if node in self.outside and isinstance(made.examples[0], Tensor):
                self.outside[made.node] = self.outside[node]

    def _as_variable(self, argument: Any) -> Any:
        return self.tensor(argument) if isinstance(argument, Constant) else argument

    def _free_name(self, name: str) -> str:
        """A path that no module has, and that leads through none."""
        parts = [re.sub(r"\W", "_", part) for part in re.split(r"[./]", name) if part]
        if any(".".join(parts[:end]) in self._leaves for end in range(1, len(parts))):
            parts = ["_".join(parts)]
        path = candidate = ".".join(parts) or "layer"
        count = 1
        while candidate in self._leaves | self._containers or hasattr(self._root, candidate):
            count += 1
            candidate = f"{path}_{count}"
        self._leaves.add(candidate)
        self._containers.update(".".join(parts[:end]) for end in range(1, len(parts)))
        return candidate

    def _add(self, target: str, module: nn.Module) -> None:
        parent = self._root
        *path, last = target.split(".")
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, module)


def _mapped(structure: Any, function: Callable[..., Any]) -> Any:
    """The same tuples, lists and dictionaries of other things."""
    return fx.node.map_aggregate(structure, function)


def _repeated(first: Tensor, second: Tensor, batches: tuple[int, int]) -> bool:
    """Whether numbers are the same for every image, and there as often as there are images."""
    if not first.dim() or (len(first), len(second)) != batches or first.shape[1:] != second.shape[1:]:
        return False
    row = first[:1]
    return bool((first == row).all()) and bool((second == row).all())
