"""report.html: what a run found out as one page that needs nothing but itself, made from the run directory.

Everything in it comes from report.json, or what a run of another kind has in its place, and images.safetensors, so that the page of a finished run can be made anew
without its network. matplotlib, the extra `report`, is imported when a page is made.
"""

import importlib.util
from pathlib import Path

from ptq.errors import MachineError
from ptq.reporting.distillation_report import DistillFacts
from ptq.reporting.facts import RunFacts, read_facts
from ptq.reporting.pruning_report import PruneFacts
from ptq.reporting.rendering import render
from ptq.reporting.report import Report
from ptq.utils.files import atomic

__all__ = ["available", "page", "refresh", "require", "write_html_report"]

_KINDS: tuple[type[RunFacts], ...] = (Report, PruneFacts, DistillFacts)


def available() -> bool:
    """Whether what a page needs is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def require() -> None:
    """Refuse to go on without what a page needs.

    Raises:
        MachineError: saying how to get it.
    """
    if not available():
        raise MachineError("an HTML page needs matplotlib: pip install 'ptq[report]'.")


def refresh(folder: Path) -> Path | None:
    """Write report.html where that can be done; elsewhere remove one that tells of an earlier run.

    Raises:
        InputError: when the facts cannot be read.
        MachineError: when the page cannot be written.
    """
    if available():
        return write_html_report(folder)
    (folder / "report.html").unlink(missing_ok=True)
    return None


def write_html_report(folder: Path | str) -> Path:
    """Make the page of a finished run, or of one that failed a check, anew.

    Args:
        folder: as `ptq quantize`, `ptq prune` or `ptq distill` wrote it.

    Returns:
        Where the page is: report.html in there.

    Raises:
        InputError: when there are no facts that can be read.
        MachineError: when matplotlib is missing, when the disk is full.

    Example:
        >>> write_html_report("runs/w4a8").name
        'report.html'
    """
    folder = Path(folder)
    kind = next((kind for kind in _KINDS if (folder / kind.file).is_file()), Report)
    text = page(read_facts(kind, folder), folder)
    with atomic(folder / "report.html") as path:
        path.write_text(text, encoding="utf-8")
    return folder / "report.html"


def page(facts: RunFacts, folder: Path | None = None) -> str:
    """Return the page as HTML.

    Args:
        facts: of the run, of any kind.
        folder: holds images.safetensors; None leaves the images out.

    Raises:
        MachineError: when matplotlib is missing.
    """
    require()
    from ptq.reporting.html import distilled, pruned, quantized

    match facts:
        case PruneFacts():
            return render("pruned.html.j2", pruned.content(facts, folder))
        case DistillFacts():
            return render("distilled.html.j2", distilled.content(facts, folder))
        case Report():
            return render("quantized.html.j2", quantized.content(facts, folder))
    raise AssertionError(f"no page shows {type(facts).__name__}")
