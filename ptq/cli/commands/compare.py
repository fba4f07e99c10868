"""`ptq compare`."""

from pathlib import Path
from typing import Annotated

import typer

from ptq.utils import ranks

__all__ = ["compare"]


@ranks.done_by_first
def compare(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the comparison, too: .md, .csv or .html.")
    ] = None,
) -> None:
    """Show several runs side by side: accuracy, latency, size and time, and the best of each.

    Models, data and machines may differ; what cannot be compared then is said and not marked.
    """
    from ptq.reporting import comparison_files
    from ptq.reporting.comparison import compare as side_by_side

    if out is not None:
        comparison_files.check_suffix(out)
    found = side_by_side(run_dirs)
    comparison_files.print_comparison(found)
    for path in comparison_files.write_comparison(found, out) if out is not None else ():
        typer.echo(f"wrote {path}")
