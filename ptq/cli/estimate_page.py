"""What an estimate found, on the terminal."""

from rich.console import Console

from ptq.reporting.tables import Table
from ptq.reporting.text import bits_text, figure_lines
from ptq.run.estimate import Estimate, PlannedBlock
from ptq.utils.units import byte_text, duration_text

__all__ = ["estimate_lines", "print_estimate"]


def estimate_lines(found: Estimate) -> list[str]:
    """Return what a run will do and take, a line each.

    Example:
        >>> found = Estimate("net", (), (), ("gelu",), 8, {"onnx": 9000}, {"onnx": 1.5}, {"load": 2.0}, 1 << 20, 1 << 10)
        >>> estimate_lines(found)[0]
        'left in float: gelu'
    """
    kept = ", ".join(found.kept_float)
    total = sum(found.seconds.values())
    stages = ", ".join(f"{name} {duration_text(value)}" for name, value in found.seconds.items())
    return [
        *found.notes,
        f"left in float: {kept}" if kept else "nothing is left in float",
        *figure_lines(latency_ms=found.latency_ms, size_bytes=found.size_bytes),
        f"memory      about {byte_text(found.memory_bytes)}, of it {byte_text(found.cached_bytes)} activations of "
        f"{found.images} images (--memory-limit bounds these)",
        f"time        about {duration_text(total)}: {stages}",
    ]


def blocks(found: Estimate) -> Table:
    """Return the blocks that will be reconstructed, and the bits of their layers' weights."""
    rows = [
        (block.name, str(len(block.bits)), bits_text(block.bits, block.bits), ", ".join(_kept_float(block)))
        for block in found.blocks
    ]
    return Table(f"{found.name}: blocks", ("block", "layers", "bits", "float"), rows)


def print_estimate(found: Estimate, console: Console | None = None) -> None:
    """Print the blocks and what the run will take."""
    console = console or Console()
    console.print("", blocks(found).drawn(), "")
    for line in estimate_lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print("\nnothing was written: this was an estimate (--dry-run)", highlight=False)


def _kept_float(block: PlannedBlock) -> list[str]:
    return [name for name, bits in block.bits.items() if bits is None]
