"""Counts what would make a GPU wait for the host, on any device."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Synchronizations"]

DRAWN = ("rand", "randint")
READ = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "unique2", "_unique2")


class Synchronizations(TorchDispatchMode):
    """Counts the numbers that are read from tensors. Those that the host drew itself, by a generator, are there already.

    Attributes:
        count: of reads so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0
        self.drawn: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READ and args[0].data_ptr() not in {value.data_ptr() for value in self.drawn}:
            self.count += 1
        result = func(*args, **(kwargs or {}))
        if name in DRAWN and isinstance(result, Tensor) and result.numel() == 1:
            self.drawn.append(result)
        return result
