"""torch.compile, for what is called many times."""

from collections.abc import Callable
from typing import TypeVar

import torch

from ptq.errors import MachineError

__all__ = ["compiled"]

Result = TypeVar("Result")


def compiled(call: Callable[..., Result]) -> Callable[..., Result]:
    """Return what computes the same in less time, once it has been called, which takes up to a minute.

    Args:
        call: with tensors.

    Raises:
        MachineError: when it is called, where this machine has no compiler for it.

    Example:
        >>> compiled(torch.sin)  # doctest: +ELLIPSIS
        <function compiled...>
    """
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    fast = torch.compile(call)

    def run(*args: object) -> Result:
        try:
            return fast(*args)
        except TorchDynamoException as error:
            why = " ".join(str(error).split("\n")[:2])  # which backend failed, and how
            raise MachineError(f"torch.compile does not work here ({why}): go on without it") from error

    return run
