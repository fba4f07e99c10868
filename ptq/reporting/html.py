"""report.html: what a run found out as one page that needs nothing but itself, made from the run directory.

Everything in it comes from report.json and images.safetensors, so that the page of a finished run can be made anew
without its network. jinja2 and matplotlib, the extra `report`, are imported when a page is made.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptq.errors import MachineError
from ptq.reporting.report import read_report
from ptq.utils.files import atomic

__all__ = ["available", "page", "refresh", "render", "require", "write_html_report"]

NEEDED = ("jinja2", "matplotlib")


def available() -> bool:
    """Whether what a page needs is installed."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDED)


def require() -> None:
    """Refuse to go on without what a page needs.

    Raises:
        MachineError: saying how to get it.
    """
    if not available():
        raise MachineError("an HTML page needs jinja2 and matplotlib: pip install 'ptq[report]'.")


def refresh(folder: Path) -> Path | None:
    """Write report.html where that can be done; elsewhere remove one that tells of an earlier run.

    Raises:
        MachineError: when report.json cannot be read or the page cannot be written.
    """
    if available():
        return write_html_report(folder)
    (folder / "report.html").unlink(missing_ok=True)
    return None


def write_html_report(folder: Path | str) -> Path:
    """Make the page of a finished run, or of one that failed a gate, anew.

    Args:
        folder: as `ptq.quantize` wrote it.

    Returns:
        Where the page is: report.html in there.

    Raises:
        MachineError: when there is no report.json, when jinja2 or matplotlib are missing, when the disk is full.

    Example:
        >>> write_html_report("runs/resnet18-w4a8").name
        'report.html'
    """
    folder = Path(folder)
    report = read_report(folder)
    text = page(report, folder)
    with atomic(folder / "report.html") as path:
        path.write_text(text, encoding="utf-8")
    return folder / "report.html"


def page(report: Mapping[str, Any], folder: Path | None = None) -> str:
    """Return the page as HTML.

    Args:
        report: the content of report.json; what it does not have is left out.
        folder: holds images.safetensors; None leaves the images out.

    Raises:
        MachineError: when jinja2 or matplotlib are missing.
    """
    require()
    from ptq.reporting.html_content import content

    return render("report.html.j2", content(report, folder))


def render(template: str, content: Mapping[str, Any]) -> str:
    """Fill a template of `ptq/reporting/templates`; text is escaped, but for the drawings of `ptq.reporting.plots`.

    Raises:
        MachineError: when jinja2 or matplotlib are missing.
    """
    require()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ptq.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)
