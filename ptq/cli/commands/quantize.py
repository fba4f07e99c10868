"""`ptq quantize`."""

from pathlib import Path

import typer

from ptq.cli import budget_options as budgets, distill_options as distilling, options
from ptq.cli.messages import progress
from ptq.cli.parsing import given_options, settings_from
from ptq.config.choices import DEFAULT_METHOD
from ptq.config.distilled_run import settings_of_student
from ptq.config.recipe_file import recipe_text
from ptq.config.settings import (
    CalibrationSettings as Calibration,
    ExecutionSettings as Execution,
    ModelSettings,
    QuantizationSettings as Quantization,
)
from ptq.errors import InputError
from ptq.utils import ranks

__all__ = ["quantize"]


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
