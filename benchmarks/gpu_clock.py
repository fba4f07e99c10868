"""What work on a device takes: its time, the share of it in which a GPU computes, and the memory there."""

import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["milliseconds", "peak", "share_busy"]

REPEATS = 20


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """The mean of some calls, after a few to warm up."""
    for _ in range(3):
        call()
    _wait(device)
    started = time.perf_counter()
    for _ in range(REPEATS):
        call()
    _wait(device)
    return 1e3 * (time.perf_counter() - started) / REPEATS


def share_busy(call: Callable[[], object], device: torch.device) -> float | None:
    """The share of the time in which kernels run on the GPU; None without one."""
    if device.type != "cuda":
        return None
    call()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        started = time.perf_counter()
        call()
        _wait(device)
        seconds = time.perf_counter() - started
    return float(sum(event.self_device_time_total for event in seen.key_averages())) / 1e6 / seconds


def peak(device: torch.device) -> dict[str, int]:
    """The most bytes that were taken on the GPU since this was asked last."""
    if device.type != "cuda":
        return {}
    most = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return {"peak_bytes": most}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
