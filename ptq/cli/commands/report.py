"""`ptq report`."""

from pathlib import Path
from typing import Annotated

import typer

from ptq.utils import ranks

__all__ = ["report"]


@ranks.done_by_first
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run, finished or failed in validation.")],
) -> None:
    """Make report.html of a run anew, from what is in its directory; needs the extra `report`."""
    from ptq.reporting.html.page import write_html_report

    typer.echo(f"wrote {write_html_report(run_dir)}")
