"""torch.fx tracing that knows every tensor's shape.

Plain `symbolic_trace` gives up where a model looks at `x.shape`: padding computed from the input
size, channel shuffles, asserts. Here every proxy carries the tensor it stands for on an example
input, so shapes are plain numbers while the graph is recorded. The idea is that of the tracer in
Hugging Face transformers; the example is a real tensor, so nothing needs a meta implementation.
"""

import inspect
import keyword
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn

from ptq.errors import ModelError, PtqError, reason
from ptq.graph.fx_helpers import attribute
from ptq.graph.tracing.proxies import Proxy, proxies_as_tensors
from ptq.models.inputs import take_input

__all__ = ["trace"]


class _Tracer(fx.Tracer):
    """Records the graph and computes every node's example value as it goes."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.inputs = iter([example.clone()])  # further placeholders are optional arguments: their defaults
        self.computing = False
        self.path: list[tuple[str, str]] = []
        self.changed: dict[fx.Node, list[fx.Node]] = {}  # by what changes them in place

    def proxy(self, node: fx.Node) -> Proxy:
        return Proxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        read = [(n, x) for n in proxy.node.all_input_nodes if isinstance(x := _example(n), Tensor)]
        versions = [x._version for _, x in read]
        self.computing = True
        try:
            proxy.node.meta["example"] = self._compute(proxy.node)
        finally:
            self.computing = False
        if versions != [x._version for _, x in read]:
            self.changed[proxy.node] = self._aliases(proxy.node)
        proxy.node.meta["module_path"] = self.path[-1][0] if self.path else ""
        return proxy

    def _compute(self, node: fx.Node) -> Any:
        def value(node: fx.Node) -> Any:
            return node.meta["example"] if "example" in node.meta else attribute(self.root, node)

        args = fx.map_arg(node.args, value)
        kwargs = fx.map_arg(node.kwargs, value)
        if node.op == "placeholder":
            return next(self.inputs, node.args[0] if node.args else None)
        if node.op == "call_function":
            assert callable(node.target)
            return node.target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target)).forward(*args, **kwargs)
        return None if node.op == "output" else attribute(self.root, node)

    def _aliases(self, node: fx.Node) -> list[fx.Node]:
        """Earlier nodes that stand for the very tensor that `node` gives."""
        return [other for other in self.same_tensors(node) if other is not node]

    def same_tensors(self, node: fx.Node) -> list[fx.Node]:
        """Nodes that stand for the tensor that `node` stands for, itself included."""
        given = _example(node)
        return [
            other
            for other in self.graph.nodes
            if isinstance(x := _example(other), Tensor)
            and x.data_ptr() == given.data_ptr()
            and x.shape == given.shape
            and x.stride() == given.stride()
        ]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        within = type(m).__module__ == nn.Transformer.__module__  # decoders: layers of theirs can be quantized
        return super().is_leaf_module(m, module_qualified_name) and not within

    def create_arg(self, a: Any) -> Any:
        # A closure or a replaced forward may hold a parameter of the module that the root was copied from.
        if isinstance(a, nn.Parameter) and not any(a is own for own in self.root.parameters()):
            a = a.detach().float().clone()
        return super().create_arg(a)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        # Inside a leaf module, on example values; or a module made in a forward (nn.ReLU()(x)).
        if self.computing or m not in (self.submodule_paths or {}):
            return forward(*args, **kwargs)
        self.path.append((self.path_of_module(m), type(m).__name__))
        result = super().call_module(m, forward, args, kwargs)
        self.path.pop()  # not in a finally: after an error the path says where it happened
        return result


def _example(node: fx.Node) -> Any:
    return node.meta.get("example")


def _read_later(changed: dict[fx.Node, list[fx.Node]], graph: fx.Graph) -> None:
    """Let who reads a tensor after it was changed in place read what the change gave.

    From then on no operation need be in place.
    """
    nodes = list(graph.nodes)
    for node, others in reversed(changed.items()):
        later = set(nodes[nodes.index(node) + 1 :])
        for other in others:
            other.replace_all_uses_with(node, later.__contains__)


def trace(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """Record `model`'s graph on an example input.

    Optional arguments of the model's forward take their defaults. Every node's meta has "example"
    (the tensor, or other value, it had) and "module_path" (of the module it was called in).

    Args:
        model: in eval mode; its parameters are shared with the result.
        example: input of the network, (N, 3, H, W).

    Raises:
        ModelError: names the module that cannot be traced and says what to do.
    """
    tracer = _Tracer(example)
    try:
        with torch.no_grad(), proxies_as_tensors(), _through_wrapped_functions():
            graph = tracer.trace(model, concrete_args=_defaults(model))
        _read_later(tracer.changed, graph)
    except PtqError:
        raise
    except Exception as error:
        where, kind = tracer.path[-1] if tracer.path else ("the model itself", type(model).__name__)
        raise ModelError(
            f"cannot follow the model's graph at {where} ({kind}) on an input of shape "
            f"{tuple(example.shape)}: {reason(error)}. ptq records a model with torch.fx: check --size, or rewrite that "
            "module without control flow that depends on tensor values."
        ) from error
    _avoid_keywords(model, graph)
    return fx.GraphModule(model, graph)


def _through_wrapped_functions() -> AbstractContextManager[object]:
    """Record what is in functions that were marked with `fx.wrap`, such as torchvision's `shifted_window_attention`.

    They were because plain torch.fx cannot follow them, and would hide their layers. What marks an input stays a mark.
    """
    marked = fx._symbolic_trace._wrapped_fns_to_patch
    return patch.dict(marked, {key: code for key, code in marked.items() if code.get(key[1]) is take_input}, clear=True)


def _avoid_keywords(model: nn.Module, graph: fx.Graph) -> None:
    """Call modules that are called as a word of Python, in a Sequential, by a name that code can have."""
    for node in graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        owner, parts = model, []
        for part in str(node.target).split("."):
            held = getattr(owner, part)
            parts.append(f"{part}_" if keyword.iskeyword(part) else part)
            if parts[-1] != part:
                setattr(owner, parts[-1], held)
            owner = held
        node.target = ".".join(parts)


def _defaults(model: nn.Module) -> dict[str, Any] | None:
    parameters = list(inspect.signature(model.forward).parameters.values())
    optional = {p.name: p.default for p in parameters[1:] if p.default is not p.empty}
    return optional or None
