"""The command line: checks options, calls `ptq.run.pipeline`, reports what came of it."""

from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from ptq.cli import run_commands
from ptq.cli.messages import progress, reported
from ptq.cli.options import (
    ConfigOption,
    DataOption,
    DeviceOption,
    DryRunOption,
    DumpConfigOption,
    FormatOption,
    ImagesOption,
    LayerOption,
    MemoryLimitOption,
    Method,
    MixedCopiesOption,
    ModelOption,
    OutOption,
    Preset,
    PresetOption,
    Recipe,
    RecipeOption,
    ResizeOption,
    RestartOption,
    Runtime,
    SeedOption,
    SizeOption,
    TeachersOption,
    ThreadsOption,
    TripleOption,
    VerifierOption,
    WeightsOption,
)
from ptq.cli.parsing import device_name, existing, settings_from
from ptq.config.recipe_file import recipe_text
from ptq.errors import InputError

__all__ = ["app", "main"]

app = typer.Typer(
    name="ptq",
    help="Quantize vision networks without data: from PyTorch to integer ONNX.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; ends the process with its exit status."""
    app(prog_name="ptq")


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            version = metadata.version("ptq")
        except metadata.PackageNotFoundError:
            version = "(a checkout that is not installed)"
        typer.echo(f"ptq {version}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def quantize(
    context: typer.Context,
    model: ModelOption,
    bits: Annotated[
        int,
        typer.Option(
            min=2,
            max=8,
            help="Bits of the weights. Activations stay at 8 unless --act-bits says otherwise: "
            "8 bits is what integer kernels compute in, fewer save no time.",
        ),
    ],
    act_bits: Annotated[int, typer.Option(min=2, max=8, help="Bits of the activations.")] = 8,
    reduce_range: Annotated[
        bool,
        typer.Option(
            "--reduce-range",
            help="At most 7 bits for any weight: exact and fast on x86 CPUs without VNNI, where "
            "onnxruntime's kernels saturate with 8.",
        ),
    ] = False,
    preset: PresetOption = Preset.default,
    method: Annotated[Method, typer.Option(help="How the rounding of the weights is found.")] = Method.qdrop,
    out: OutOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    weights: WeightsOption = None,
    size: SizeOption = None,
    resize: ResizeOption = None,
    mean: TripleOption = None,
    std: TripleOption = None,
    images: ImagesOption = "mixmix",
    teachers: TeachersOption = "",
    verifier: VerifierOption = None,
    mixed_copies: MixedCopiesOption = 0,
    data: DataOption = None,
    format: FormatOption = None,
    memory_limit: MemoryLimitOption = None,
    restart: RestartOption = False,
    layer: LayerOption = None,
    config: ConfigOption = None,
    dump_config: DumpConfigOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Quantize a model and write an ONNX file that onnxruntime runs in integers.

    The run directory has the file, the images, the report and the quantized model; see report.html first, or report.md
    without the extra `report`. A run that was interrupted continues when the same command is given again.
    """
    with reported():
        settings = settings_from(context.params, f"w{bits}a{act_bits}")
        if dump_config:
            typer.echo(recipe_text(settings), nl=False)
            return
        if dry_run:
            from ptq.cli import estimate_page
            from ptq.run import estimate

            estimate_page.print_estimate(estimate.estimate_run(settings, progress()))
            return
        from ptq.cli.run_page import print_run
        from ptq.run import pipeline  # torch takes seconds to import: options are checked before

        pipeline.run(settings, progress(), restart=restart, say=typer.echo)
        print_run(Path(settings.out))


@app.command()
def synthesize(
    context: typer.Context,
    model: ModelOption,
    preset: PresetOption = Preset.default,
    out: OutOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    weights: WeightsOption = None,
    size: SizeOption = None,
    resize: ResizeOption = None,
    mean: TripleOption = None,
    std: TripleOption = None,
    recipe: RecipeOption = Recipe.mixmix,
    teachers: TeachersOption = "",
    verifier: VerifierOption = None,
) -> None:
    """Synthesize calibration images alone; `ptq quantize --images` takes them."""
    with reported():
        settings = settings_from(context.params | {"bits": 8, "images": recipe}, "images")
        from ptq.cli.run_page import print_images
        from ptq.reporting.report import ImageFacts
        from ptq.run import pipeline

        images = pipeline.synthesize_images(settings, progress())
        print_images(ImageFacts.from_json({"count": len(images), **images.provenance}), Path(settings.out))


@app.command()
def validate(
    target: Annotated[Path, typer.Argument(metavar="RUN_DIR|model.onnx", help="A run, or the ONNX file in one.")],
    data: DataOption = None,
    threads: ThreadsOption = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with exact integer arithmetic, too, on up to 64 images; slow.")
    ] = False,
    runtime: Annotated[
        list[Runtime] | None, typer.Option("--runtime", help="Run the file in this runtime, too: openvino (an extra).")
    ] = None,
) -> None:
    """Measure a finished run again: accuracy, agreement with float, latency, size."""
    with reported():
        existing("RUN_DIR|model.onnx", target)
        run_dir = target if target.is_dir() else target.parent
        evaluation = existing("--data", data)
        from ptq.cli.run_page import print_run
        from ptq.run.finished_runs import validate_run

        validate_run(
            run_dir,
            data=evaluation,
            threads=threads,
            exact=exact,
            runtimes=[one.value for one in runtime or ()],
            progress=progress(),
        )
        print_run(run_dir)


@app.command()
def inspect(
    context: typer.Context,
    run_dir: Annotated[
        Path | None, typer.Argument(metavar="RUN_DIR", help="A finished run: before and after reconstruction.")
    ] = None,
    model: ModelOption = "",
    bits: Annotated[int | None, typer.Option(min=2, max=8, help="Bits of the weights, with --model.")] = None,
    act_bits: Annotated[int, typer.Option(min=2, max=8, help="Bits of the activations.")] = 8,
    reduce_range: Annotated[bool, typer.Option("--reduce-range", help="At most 7 bits for any weight.")] = False,
    images: Annotated[
        str,
        typer.Option(
            metavar="FILE|DIR|noise",
            help="What gives the ranges: images.safetensors of a run or of ptq synthesize, a folder or "
            ".npz of images. Nothing is synthesized here.",
            rich_help_panel="Images",
        ),
    ] = "noise",
    weights: WeightsOption = None,
    size: SizeOption = None,
    resize: ResizeOption = None,
    mean: TripleOption = None,
    std: TripleOption = None,
    seed: SeedOption = 0,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Images to measure on, spread over all.")] = 32,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Layers to show.")] = 10,
    everything: Annotated[bool, typer.Option("--all", help="Show all layers.")] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write all figures; RUN_DIR/inspect.json else.")
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Show which layers and blocks cost most: noise, ranges, and how far the output moves.

    RUN_DIR is a finished run, shown before and after reconstruction. --model and --bits show a network as it
    is with nearest rounding.
    """
    with reported():
        if json is not None and json.is_dir():
            raise InputError(f"--json: {json} is a folder; give a file")
        if run_dir is not None:
            existing("RUN_DIR", run_dir)
            _refuse_a_model(context, run_dir)
            device_name(device)
            from ptq.reporting import inspection_page as findings
            from ptq.run import inspection

            found = inspection.inspect_run(run_dir, count=count, device=device, threads=threads, progress=progress())
            wrote = findings.write_inspection(found, run_dir, json)
        elif not model or bits is None:
            raise InputError("give the directory of a finished run, or --model and --bits")
        else:
            if images in tuple(Recipe):
                raise InputError(
                    f"--images: nothing is synthesized here; give the images.safetensors of "
                    f"ptq synthesize --model {model}"
                )
            settings = settings_from(context.params | {"preset": Preset.fast}, "inspect")
            from ptq.reporting import inspection_page as findings
            from ptq.run import inspection

            found = inspection.inspect_model(settings, count=count, progress=progress())
            wrote = findings.write_inspection(found, None, json)
        findings.print_inspection(found, None if everything else top)
        for path in wrote:
            typer.echo(f"wrote {path}")


app.command()(run_commands.report)
app.command()(run_commands.compare)


def _refuse_a_model(context: typer.Context, run_dir: Path) -> None:
    """Refuse options that a run directory answers by itself."""
    for name in _OF_A_MODEL:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise InputError(f"--{name.replace('_', '-')}: {run_dir} says this by itself; give one of the two")


_OF_A_MODEL = (
    "model",
    "bits",
    "act_bits",
    "reduce_range",
    "images",
    "weights",
    "size",
    "resize",
    "mean",
    "std",
    "seed",
)
