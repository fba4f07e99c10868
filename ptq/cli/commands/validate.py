"""`ptq validate`."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from ptq.cli import options
from ptq.cli.messages import progress
from ptq.cli.parsing import existing, metric_ref
from ptq.config.choices import Runtime, check_choice
from ptq.utils import ranks

__all__ = ["validate"]


@ranks.done_by_first
def validate(
    target: Annotated[Path, typer.Argument(metavar="RUN_DIR|model.onnx", help="A run, or the ONNX file in one.")],
    data: options.Data = None,
    metric: options.Metric = None,
    threads: options.Threads = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with exact integer arithmetic, too, on up to 64 images; slow.")
    ] = False,
    runtimes: options.Runtimes = None,
) -> None:
    """Measure a finished run again: accuracy, agreement with float, latency, size."""
    existing("RUN_DIR|model.onnx", target)
    run_dir = target if target.is_dir() else target.parent
    evaluation = None if data is None else existing("--data", data)
    own = None if metric is None else metric_ref("--metric", metric)
    for runtime in runtimes or ():
        check_choice(runtime, get_args(Runtime), "runtime")
    from ptq.cli.run_page import print_run
    from ptq.run.finished_runs import validate_run

    validate_run(
        run_dir, data=evaluation, metric=own, threads=threads, exact=exact, runtimes=runtimes or (), progress=progress()
    )
    print_run(run_dir)
