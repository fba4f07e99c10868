"""The device and the threads that a run uses: found wanting before work begins, not after."""

import torch

from ptq.errors import MachineError, reason
from ptq.utils.environment import free_memory_bytes
from ptq.utils.ranks import neighbors

__all__ = ["free_bytes", "use_device"]


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


def free_bytes(device: torch.device) -> int:
    """Return how much memory a device has free for new work of this process: ranks on one host share its memory.

    Example:
        >>> free_bytes(torch.device("cpu")) > 0
        True
    """
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_memory_bytes() // neighbors()
