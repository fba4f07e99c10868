"""`ptq inspect`: of a finished run, or of a model as it is."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from ptq.cli import options
from ptq.cli.messages import progress
from ptq.cli.parsing import existing, given_options, settings_from
from ptq.cli.values import read_option
from ptq.config.choices import SynthesisMethod
from ptq.config.flat_options import flag
from ptq.config.settings import ExecutionSettings as Execution, ModelSettings, QuantizationSettings as Quantization
from ptq.errors import InputError
from ptq.utils import ranks

__all__ = ["inspect"]


@ranks.done_by_first
def inspect(
    context: typer.Context,
    run_dir: Annotated[
        Path | None, typer.Argument(metavar="RUN_DIR", help="A finished run: before and after reconstruction.")
    ] = None,
    model: options.Model = None,
    bits: options.Bits = None,
    act_bits: options.ActBits = str(Quantization.act_bits),
    reduce_range: options.ReduceRange = Quantization.reduce_range,
    keep_branches: options.KeepBranches = Quantization.keep_branches,
    images: options.ImagesAtHand = "noise",
    weights: options.Weights = None,
    size: options.Size = None,
    resize: options.Resize = None,
    mean: options.Triple = None,
    std: options.Triple = None,
    channels: options.Channels = None,
    range: options.Range = None,
    task: options.Task = ModelSettings.task,
    seed: options.Seed = Execution.seed,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Images to measure on, spread over all.")] = 32,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Layers to show.")] = 10,
    everything: Annotated[bool, typer.Option("--all", help="Show all layers.")] = False,
    frontier: Annotated[
        bool,
        typer.Option("--frontier", help="Measure, too, what files of other sizes can hold, as --max-size makes them."),
    ] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write all figures; RUN_DIR/inspect.json else.")
    ] = None,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Show which layers and blocks cost most: noise, ranges, and how far the output moves.

    RUN_DIR is a finished run, shown before and after reconstruction. --model and --bits show a network as it
    is with nearest rounding.
    """
    if json is not None and json.is_dir():
        raise InputError(f"--json: {json} is a folder; give a file")
    given = given_options(context)
    if run_dir is not None:
        existing("RUN_DIR", run_dir)
        if of_a_model := given.keys() - {"device", "threads"}:
            raise InputError(f"{flag(min(of_a_model))}: {run_dir} says this by itself; give one of the two")
        where = read_option("device", device)
        from ptq.reporting import inspection_page
        from ptq.run import inspection

        found = inspection.inspect_run(
            run_dir, count=count, frontier=frontier, device=where, threads=threads, progress=progress()
        )
    elif not model or bits is None:
        raise InputError("give the directory of a finished run, or --model and --bits")
    else:
        if images in get_args(SynthesisMethod):
            raise InputError(
                f"--images: nothing is synthesized here; give the images.safetensors of ptq synthesize --model {model}"
            )
        settings = settings_from(given | {"images": images, "preset": "fast"}, suffix="inspect")
        from ptq.reporting import inspection_page
        from ptq.run import inspection

        found = inspection.inspect_model(settings, count=count, frontier=frontier, progress=progress())
    wrote = inspection_page.write_inspection(found, run_dir, json)
    inspection_page.print_inspection(found, None if everything else top)
    for path in wrote:
        typer.echo(f"wrote {path}")
