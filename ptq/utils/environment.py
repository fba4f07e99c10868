"""The machine and the library versions that decide results and timings, and what a process takes: memory and time."""

import importlib.metadata
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

__all__ = [
    "Machine",
    "Stopwatch",
    "environment",
    "free_memory_bytes",
    "library_versions",
    "peak_memory_bytes",
    "this_machine",
]

LIBRARIES = ("ptq", "torch", "torchvision", "timm", "numpy", "onnx", "onnxscript", "onnxruntime", "safetensors")
WIDE = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
"""What decides how fast a CPU computes with integers."""


@dataclass(frozen=True)
class Machine:
    """What a run ran on.

    Args:
        cpu: its name, and which of `WIDE` it has.
        system: name and version.
    """

    cpu: str
    system: str


class Stopwatch:
    """Seconds per stage of a run.

    Example:
        >>> watch = Stopwatch()
        >>> with watch("prepare"):
        ...     pass
        >>> list(watch.seconds)
        ['prepare']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent in the with-block to `stage`, but for that of stages within it."""
        started, others = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            spent = time.perf_counter() - started - (sum(self.seconds.values()) - others)
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + max(0.0, spent), 3)


def peak_memory_bytes() -> int:
    """Return the largest resident memory this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory_bytes() -> int:
    """Return how much memory the machine has free for new work."""
    return int(psutil.virtual_memory().available)


def library_versions() -> dict[str, str]:
    """Return the versions of Python, ptq and the libraries that decide results, as far as they are installed.

    Example:
        >>> "torch" in library_versions()
        True
    """
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def this_machine() -> Machine:
    """Return what this process runs on."""
    return Machine(_cpu(), platform.platform())


def environment() -> dict[str, Any]:
    """Return the versions and the machine as JSON-able data, for a row of measurements.

    Example:
        >>> sorted(environment())
        ['machine', 'versions']
    """
    return {"versions": library_versions(), "machine": asdict(this_machine())}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", "").split()
    return f"{fields.get('model name', platform.machine())} ({', '.join(flag for flag in WIDE if flag in flags)})"
