"""What a rehearsal found, on the terminal."""

from collections.abc import Iterable

from rich.console import Console

from ptq.cli.messages import headline
from ptq.reporting.tables import Table
from ptq.run.estimate import Estimate, PlannedBlock
from ptq.utils.units import byte_text

__all__ = ["estimate_lines", "show"]


def estimate_lines(found: Estimate) -> list[str]:
    """Return what a run will do and take, a line each.

    Example:
        >>> print(*estimate_lines(estimate_run(Settings("resnet18", bits=4))), sep="\\n")
    """
    kept = ", ".join(found.kept_float)
    total = sum(found.seconds.values())
    stages = ", ".join(f"{name} {_time(value)}" for name, value in found.seconds.items())
    return [
        *found.notes,
        f"left in float: {kept}" if kept else "nothing is left in float",
        *headline({"size_bytes": found.size_bytes, "latency_ms": found.latency_ms}).splitlines(),
        f"memory      about {byte_text(found.memory_bytes)}, of it {byte_text(found.cached_bytes)} activations of "
        f"{found.images} images (--memory-limit bounds these)",
        f"time        about {_time(total)}: {stages}",
    ]


def blocks(found: Estimate) -> Table:
    """Return the blocks that will be reconstructed, and the bits of their layers' weights."""
    rows = [(block.name, str(len(block.bits)), _widths(block), ", ".join(_kept_float(block))) for block in found.blocks]
    return Table(f"{found.name}: blocks", ("block", "layers", "bits", "float"), rows)


def show(found: Estimate, console: Console | None = None) -> None:
    """Print the blocks and what the run will take."""
    console = console or Console()
    console.print("", blocks(found).drawn(), "")
    for line in estimate_lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print("\nnothing was written: this was a rehearsal (--dry-run)", highlight=False)


def _widths(block: PlannedBlock) -> str:
    known: Iterable[int] = {bits for bits in block.bits.values() if bits is not None}
    return ", ".join(map(str, sorted(known)))


def _kept_float(block: PlannedBlock) -> list[str]:
    return [name for name, bits in block.bits.items() if bits is None]


def _time(seconds: float) -> str:
    """Seconds as people say them: 42 s, 2.6 min, 1.2 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
