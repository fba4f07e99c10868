"""`ptq prune`."""

import typer

from ptq.cli import budget_options as budgets, options
from ptq.cli.messages import progress
from ptq.cli.parsing import given_options, settings_from
from ptq.config.recipe_file import recipe_text
from ptq.config.settings import CalibrationSettings as Calibration, ExecutionSettings as Execution, ModelSettings
from ptq.errors import InputError

__all__ = ["prune"]


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
