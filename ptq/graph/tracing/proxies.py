"""What stands for a tensor while a graph is recorded, and how people's code is told that it is one."""

import builtins
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx

__all__ = ["Proxy", "proxies_as_tensors"]


class Proxy(fx.Proxy):
    """A proxy that answers questions about shape, dtype and length from its example value."""

    @property
    def example(self) -> Any:
        return self.node.meta["example"]

    @property
    def shape(self) -> torch.Size:
        size: torch.Size = self.example.shape
        return size

    @property
    def ndim(self) -> int:
        return len(self.example.shape)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.example.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        device: torch.device = self.example.device
        return device

    @property
    def requires_grad(self) -> bool:
        return False

    def dim(self) -> int:
        return len(self.example.shape)

    def numel(self) -> int:
        return int(self.example.numel())

    def size(self, dim: int | None = None) -> Any:
        return self.example.shape if dim is None else self.example.shape[dim]

    def __getattr__(self, name: str) -> Any:
        # is_cuda, is_contiguous(), ...: never part of the graph.
        return getattr(self.example, name) if name.startswith("is_") else super().__getattr__(name)

    def __setitem__(self, index: Any, value: Any) -> None:
        changed = self.tracer.create_proxy("call_function", with_item, (self, index, value), {})
        self.tracer.changed[changed.node] = self.tracer.same_tensors(self.node)  # type: ignore[attr-defined]

    def __bool__(self) -> bool:
        return bool(self.example) if self._constant else super().__bool__()

    def __float__(self) -> float:
        return float(self._known("float"))

    def __int__(self) -> int:
        return int(self._known("int"))

    def item(self) -> Any:
        return self._known("item").item()

    def _known(self, wanted: str) -> Any:
        if not self._constant:
            raise TypeError(f"{wanted}() of a tensor that depends on the images cannot be followed")
        return self.example

    @property
    def _constant(self) -> bool:
        """Whether no input reaches it, so that its value is known."""
        reached = [self.node]
        for node in reached:
            reached += [read for read in node.all_input_nodes if read not in reached]
        return all(node.op != "placeholder" for node in reached)

    def __len__(self) -> int:
        return len(self.example)

    def __iter__(self) -> Iterator["Proxy"]:
        return (self[i] for i in range(len(self.example)))  # type: ignore[index]


def with_item(x: Tensor, index: Any, value: Any) -> Tensor:
    """Return a copy of a tensor after `x[index] = value`; a cut along one dimension is put together of three parts."""
    every = _with_slices(index if isinstance(index, tuple) else (index,), x.dim())
    cuts = [(d, part) for d, part in enumerate(every) if not (isinstance(part, slice) and part == slice(None))]
    if len(cuts) == 1 and isinstance(cuts[0][1], slice) and cuts[0][1].step in (None, 1):
        dim, part = cuts[0]  # torch's exporter writes assignments to slices that onnxruntime does not run
        start, stop, _ = part.indices(x.shape[dim])
        stop = max(start, stop)
        old = x.narrow(dim, start, stop - start)
        new = value.to(x.dtype).expand_as(old) if isinstance(value, Tensor) else torch.full_like(old, value)
        return torch.cat([x.narrow(dim, 0, start), new, x.narrow(dim, stop, x.shape[dim] - stop)], dim)
    y = x.clone()
    y[index] = value
    return y


def _with_slices(index: tuple[Any, ...], dims: int) -> tuple[Any, ...]:
    """An index with the dimensions that `...` stands for; as it is where None or a mask makes others of them."""
    places = [place for place, part in enumerate(index) if part is Ellipsis]
    if len(places) != 1 or any(not isinstance(part, int | slice) for part in index if part is not Ellipsis):
        return index
    (place,) = places
    return (*index[:place], *[slice(None)] * (dims - len(index) + 1), *index[place + 1 :])


def _augmented(function: Callable[..., Any]) -> Callable[[Proxy, Any], Any]:
    def record(self: Proxy, other: Any) -> Any:
        return self.tracer.create_proxy(
            "call_function", function, (self, other), {}, function.__name__.removeprefix("i")
        )

    return record


for _name in ("iadd", "isub", "imul", "itruediv"):  # fx knows `x = x + y` alone
    setattr(Proxy, f"__{_name}__", _augmented(getattr(operator, _name)))


@contextmanager
def proxies_as_tensors() -> Iterator[None]:
    """Let proxies pass for tensors where a model asks, for a while.

    Functions of torch.jit.script run as the Python that they were made from, and `@torch.inference_mode` is no_grad: its
    tensors do not tell when they are changed in place.
    """
    mode, plain, scripted = torch.inference_mode, torch.no_grad(), torch.jit.ScriptFunction
    with (
        patch.object(builtins, "isinstance", _isinstance),
        patch.object(torch, "is_tensor", _is_tensor),
        patch.object(scripted, "__call__", _call_scripted),
        patch.object(mode, "__enter__", lambda _: plain.__enter__()),
        patch.object(mode, "__exit__", lambda _, *error: plain.__exit__(*error)),
    ):
        yield


def _isinstance(value: object, kinds: Any) -> bool:
    """What `isinstance(x, torch.Tensor)` in a model's forward is told; torch's own code sees a proxy.

    `__class__` would tell functions in C, too, and these then take the proxy's memory for a tensor's.
    """
    if type(value) is Proxy:
        asking = sys._getframe(1).f_globals.get("__name__", "")
        value = value if asking.partition(".")[0] in ("torch", "ptq") else value.node.meta.get("example")
    return _plain_isinstance(value, kinds)


_plain_isinstance = isinstance


def _is_tensor(value: object) -> bool:
    return _plain_isinstance(value.node.meta.get("example") if type(value) is Proxy else value, Tensor)


def _call_scripted(function: Any, *args: Any, **by_name: Any) -> Any:
    written = getattr(function, "_torchdynamo_inline", None)
    proxies = any(type(value) is Proxy for value in (*args, *by_name.values()))
    return written(*args, **by_name) if proxies and callable(written) else _plain_call(function, *args, **by_name)


_plain_call = torch.jit.ScriptFunction.__call__
