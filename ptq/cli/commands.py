"""The commands: each checks its options, calls `ptq.run`, and says what came of it.

Torch takes seconds to import: what needs it is imported when all options are checked.
"""

from pathlib import Path
from typing import Annotated, get_args

import typer

from ptq.cli import budget_options as budgets, distill_options as distilling, options
from ptq.cli.application import app, main
from ptq.cli.distill_command import distill
from ptq.cli.messages import progress
from ptq.cli.parsing import existing, given_options, made_for_any, metric_ref, settings_from
from ptq.cli.values import read_option
from ptq.config.choices import DEFAULT_METHOD, Runtime, SynthesisMethod, check_choice
from ptq.config.distilled_run import settings_of_student
from ptq.config.flat_options import flag
from ptq.config.recipe_file import recipe_text
from ptq.config.settings import (
    CalibrationSettings as Calibration,
    ExecutionSettings as Execution,
    ModelSettings,
    QuantizationSettings as Quantization,
)
from ptq.errors import InputError
from ptq.utils import ranks

__all__ = ["app", "main"]


@app.command()
def quantize(
    context: typer.Context,
    model: options.Model = None,
    from_run: distilling.From = None,
    bits: options.Bits = None,
    act_bits: options.ActBits = str(Quantization.act_bits),
    reduce_range: options.ReduceRange = Quantization.reduce_range,
    keep_branches: options.KeepBranches = Quantization.keep_branches,
    place: options.Place = Quantization.place,
    max_size: budgets.MaxSize = None,
    min_agreement: budgets.MinAgreement = None,
    max_drop: budgets.MaxDrop = None,
    prune: budgets.Prune = None,
    keep: budgets.Keep = None,
    prune_to: budgets.PruneTo = None,
    preset: options.Preset = Execution.preset,
    method: options.Method = DEFAULT_METHOD,
    finetune: options.FineTune = None,
    out: options.Out = None,
    seed: options.Seed = Execution.seed,
    device: options.Device = None,
    threads: options.Threads = None,
    weights: options.Weights = None,
    size: options.Size = None,
    resize: options.Resize = None,
    mean: options.Triple = None,
    std: options.Triple = None,
    channels: options.Channels = None,
    range: options.Range = None,
    task: options.Task = ModelSettings.task,
    images: options.Images = Calibration.images,
    teachers: options.Teachers = "",
    verifier: options.Verifier = None,
    mixed_copies: options.MixedCopies = Calibration.mixed_copies,
    data: options.Data = None,
    metric: options.Metric = None,
    format: options.Format = None,
    memory_limit: options.MemoryLimit = None,
    restart: options.Restart = False,
    layers: options.Layers = None,
    tensors: options.Tensors = None,
    config: options.Config = None,
    assignments: options.Assignments = None,
    dump_config: options.DumpConfig = False,
    dry_run: options.DryRun = False,
) -> None:
    """Quantize a model and write an ONNX file that onnxruntime runs in integers.

    The run directory has the file, the images, the report and the quantized model; see report.html first, or report.md
    without the extra `report`. A run that was interrupted continues when the same command is given again.

    --model and --bits, or a budget in place of --bits, are needed, here or in a recipe. Options come before --set, and --set before --config.
    """
    student = None if from_run is None else settings_of_student(from_run)
    settings = settings_from(given_options(context), config=config, assignments=assignments, more=student)
    if dump_config:
        typer.echo(recipe_text(settings), nl=False)
    elif settings.distillation.student is not None:
        raise InputError(
            "these settings are of ptq distill: give its run directory as --from, or take [distillation] out"
        )
    elif dry_run:
        from ptq.cli import estimate_page
        from ptq.run import estimate

        ranks.by_first(lambda: estimate_page.print_estimate(estimate.estimate_run(settings, progress())))
    else:
        from ptq.cli.run_page import print_run
        from ptq.run import pipeline

        pipeline.run(settings, progress(), restart=restart, say=typer.echo)
        print_run(Path(settings.output.folder))


@app.command()
def prune(
    context: typer.Context,
    model: options.Model = None,
    prune: budgets.Prune = None,
    keep: budgets.Keep = None,
    prune_to: budgets.PruneTo = None,
    preset: options.Preset = Execution.preset,
    out: options.Out = None,
    seed: options.Seed = Execution.seed,
    device: options.Device = None,
    threads: options.Threads = None,
    weights: options.Weights = None,
    size: options.Size = None,
    resize: options.Resize = None,
    mean: options.Triple = None,
    std: options.Triple = None,
    channels: options.Channels = None,
    range: options.Range = None,
    task: options.Task = ModelSettings.task,
    images: options.Images = Calibration.images,
    teachers: options.Teachers = "",
    verifier: options.Verifier = None,
    data: options.Data = None,
    metric: options.Metric = None,
    memory_limit: options.MemoryLimit = None,
    restart: options.Restart = False,
    config: options.Config = None,
    assignments: options.Assignments = None,
    dump_config: options.DumpConfig = False,
) -> None:
    """Remove channels from a model, repair what is left, and write it as a float ONNX file.

    `ptq quantize` takes --prune, --keep and --prune-to as well, and ends in an integer file.
    """
    settings = settings_from(
        given_options(context),
        config=config,
        assignments=assignments,
        required=("model",),
        suffix="pruned",
        unused=("reconstruction", "distillation"),
    )
    if settings.pruning.budget is None:
        raise InputError("how much shall go? Give --prune 1.5x, --keep 60% or --prune-to 3ms")
    if dump_config:
        typer.echo(recipe_text(settings, "prune"), nl=False)
        return
    from ptq.cli.run_page import print_pruned
    from ptq.run import pruned_network

    made = pruned_network.prune_model(settings, progress(), restart=restart, say=typer.echo)
    print_pruned(made.facts, made.folder)


app.command()(distill)


@app.command()
def synthesize(
    context: typer.Context,
    model: options.Model = None,
    preset: options.Preset = Execution.preset,
    out: options.Out = None,
    seed: options.Seed = Execution.seed,
    device: options.Device = None,
    threads: options.Threads = None,
    weights: options.Weights = None,
    size: options.Size = None,
    resize: options.Resize = None,
    mean: options.Triple = None,
    std: options.Triple = None,
    channels: options.Channels = None,
    range: options.Range = None,
    task: options.Task = ModelSettings.task,
    synthesis_method: options.SynthesisMethod = "mixmix",
    teachers: options.Teachers = "",
    verifier: options.Verifier = None,
    assignments: options.Assignments = None,
) -> None:
    """Synthesize calibration images alone; `ptq quantize --images` takes them.

    With --model they are for one network. With --teachers alone they are for any: all count alike, and the first says
    how large the images are.
    """
    given = made_for_any(given_options(context)) | {"images": synthesis_method}
    alike = [] if model else ["calibration.synthesis.feature_mixing='turns'"]
    settings = settings_from(
        given,
        assignments=[*alike, *(assignments or ())],
        suffix="images",
        required=("model",),
        unused=("quantization", "pruning", "reconstruction", "distillation", "evaluation"),
    )
    from ptq.cli.run_page import print_images
    from ptq.reporting.facts import ImageFacts
    from ptq.run import pipeline

    images = pipeline.synthesize_images(settings, progress())
    print_images(ImageFacts.from_json({"count": len(images), **images.provenance}), Path(settings.output.folder))


@app.command()
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


@app.command()
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


@app.command()
@ranks.done_by_first
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run, finished or failed in validation.")],
) -> None:
    """Make report.html of a run anew, from what is in its directory; needs the extra `report`."""
    from ptq.reporting.html.page import write_html_report

    typer.echo(f"wrote {write_html_report(run_dir)}")


@app.command()
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
