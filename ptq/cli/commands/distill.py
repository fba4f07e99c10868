"""`ptq distill`."""

import typer

from ptq.cli import distill_options as distilling, options
from ptq.cli.messages import progress
from ptq.cli.parsing import given_options, settings_from
from ptq.config.recipe_file import recipe_text, toml_text
from ptq.config.settings import CalibrationSettings as Calibration, ExecutionSettings as Execution, ModelSettings
from ptq.errors import InputError

__all__ = ["distill"]

CALLED = {
    "model.name": "--teacher",
    "distillation.student": "--student",
    "distillation.student_weights": "--student-weights",
    "distillation.epochs": "--epochs",
}


def distill(
    context: typer.Context,
    model: distilling.Teacher = None,
    student: distilling.Student = None,
    student_weights: distilling.StudentWeights = None,
    epochs: distilling.Epochs = None,
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
    restart: options.Restart = False,
    config: options.Config = None,
    assignments: options.Assignments = None,
    dump_config: options.DumpConfig = False,
) -> None:
    """Teach a network of any kind what others say of images, and write it as weights and as a float ONNX file.

    Without --images they are synthesized from the teachers: eight times as many as `ptq quantize` makes with the same
    --preset, or --set calibration.count=N. `ptq quantize --from RUN_DIR` goes on from there.
    """
    file = None if student_weights is None else str(student_weights)
    own = {"student": student, "student_weights": file, "epochs": epochs}
    typed = [f"distillation.{name}={toml_text(value)}" for name, value in own.items() if value is not None]
    settings = settings_from(
        given_options(context),
        config=config,
        assignments=[*(assignments or ()), *typed],
        required=("model",),
        suffix="distilled",
        called=CALLED,
        unused=("quantization", "pruning", "reconstruction"),
    )
    if settings.distillation.student is None:
        raise InputError("--student is missing: name the network that shall learn")
    if dump_config:
        typer.echo(recipe_text(settings), nl=False)
        return
    from ptq.cli.run_page import print_distilled
    from ptq.run.distilled_network import distill_model

    made = distill_model(settings, progress(), restart=restart, say=typer.echo)
    print_distilled(made.facts, made.folder)
