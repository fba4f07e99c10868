"""The device and the threads that a run uses: found wanting before work begins, not after."""

import torch

from ptq.errors import MachineError, reason

__all__ = ["use_device"]


def use_device(name: str | None, threads: int | None = None) -> torch.device:
    """Return the device called `name`, by default a GPU where there is one; limit torch's threads.

    Raises:
        MachineError: when this machine has no such device.
    """
    if threads:
        torch.set_num_threads(threads)
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise MachineError(f"there is no device {name!r} here ({reason(error)}); use --device cpu.") from error
    return torch.device(name)
