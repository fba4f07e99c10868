"""`ptq synthesize`."""

from pathlib import Path

import typer

from ptq.cli import options
from ptq.cli.messages import progress
from ptq.cli.parsing import given_options, made_for_any, settings_from
from ptq.config.settings import ExecutionSettings as Execution, ModelSettings

__all__ = ["synthesize"]


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
