"""The device, threads and folder that a run uses: found wanting before work begins, not after."""

import os
from pathlib import Path

import torch

from ptq.errors import MachineError, reason

__all__ = ["run_folder", "use_device"]


def run_folder(out: str) -> Path:
    """Make the run directory and return it.

    Raises:
        MachineError: when it cannot be made or written: an hour of work should not end there.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot make {folder} ({error.strerror}); choose another --out.") from error
    if not os.access(folder, os.W_OK):
        raise MachineError(f"cannot write into {folder}; choose another --out.")
    return folder


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
