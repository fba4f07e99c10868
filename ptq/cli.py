"""The command line: checks options, calls `ptq.pipeline`, reports what came of it."""

from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from ptq import options
from ptq.figures import image_lines
from ptq.options import (
    DataOption,
    DeviceOption,
    ImagesOption,
    Method,
    MixedCopiesOption,
    ModelOption,
    OutOption,
    Preset,
    PresetOption,
    Recipe,
    RecipeOption,
    ResizeOption,
    SeedOption,
    SizeOption,
    TeachersOption,
    ThreadsOption,
    TripleOption,
    VerifierOption,
    WeightsOption,
)
from ptq.reporting import progress, reported, show
from ptq.settings import Settings

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
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def quantize(
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
    method: Annotated[
        Method, typer.Option(help="How the rounding of the weights is found.")
    ] = Method.qdrop,
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
) -> None:
    """Quantize a model and write an ONNX file that onnxruntime runs in integers.

    The run directory has the file, the images, the report and the student; see report.md first.
    """
    with reported():
        model = options.model_ref("--model", model)
        settings = Settings(
            model=model,
            bits=bits,
            act_bits=act_bits,
            preset=preset.value,
            method=method.value,
            out=str(options.out_folder(out, model, f"w{bits}a{act_bits}")),
            seed=seed,
            device=options.device_name(device),
            threads=threads,
            weights=options.existing("--weights", weights),
            size=options.input_size(size),
            resize=resize,
            mean=options.per_channel("--mean", mean),
            std=options.per_channel("--std", std),
            images=options.image_source(images),
            teachers=options.teacher_refs(teachers),
            verifier=verifier and options.weighted_ref("--verifier", verifier),
            mixed_copies=mixed_copies,
            data=options.existing("--data", data),
        )
        from ptq import pipeline  # torch takes seconds to import: options are checked before

        pipeline.run(settings, progress())
        show(Path(settings.out))


@app.command()
def synthesize(
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
        model = options.model_ref("--model", model)
        settings = Settings(
            model=model,
            bits=8,
            preset=preset.value,
            out=str(options.out_folder(out, model, "images")),
            seed=seed,
            device=options.device_name(device),
            threads=threads,
            weights=options.existing("--weights", weights),
            size=options.input_size(size),
            resize=resize,
            mean=options.per_channel("--mean", mean),
            std=options.per_channel("--std", std),
            images=recipe.value,
            teachers=options.teacher_refs(teachers),
            verifier=verifier and options.weighted_ref("--verifier", verifier),
        )
        from ptq import pipeline

        images = pipeline.synthesize_images(settings, progress())
        facts = {"count": len(images), **images.provenance}
        typer.echo("\n" + "\n".join(image_lines(facts)))
        show(Path(settings.out))


@app.command()
def validate(
    target: Annotated[
        Path,
        typer.Argument(metavar="RUN_DIR|model.onnx", help="A run, or the ONNX file in one."),
    ],
    data: DataOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure a finished run again: accuracy, agreement with float, latency, size."""
    with reported():
        options.existing("RUN_DIR|model.onnx", target)
        run_dir = target if target.is_dir() else target.parent
        evaluation = options.existing("--data", data)
        from ptq import pipeline

        pipeline.validate_run(run_dir, data=evaluation, threads=threads, progress=progress())
        show(run_dir)
