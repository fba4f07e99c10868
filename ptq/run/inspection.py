"""Inspecting a finished run, before and after reconstruction, or a network that is yet to be quantized."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from ptq.analysis.sensitivity import measure_sensitivity
from ptq.calibration.activation_ranges import calibrate
from ptq.calibration.data_mixing import mixed_copies
from ptq.calibration.dataset import CalibrationSet
from ptq.config.settings import Settings
from ptq.data.preprocess import Preprocess
from ptq.errors import InputError
from ptq.models.model import Model, as_model
from ptq.progress import SILENT, Progress
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.storage import load_quantized, read_metadata, settings_of
from ptq.reporting.inspection import Inspection
from ptq.reporting.report import ImageFacts
from ptq.reporting.report_files import read_report
from ptq.run.inputs import calibration_images, image_source, load_network
from ptq.run.planning import plan_by_images, plan_by_settings, prepare_network
from ptq.utils.device import use_device

__all__ = ["inspect_model", "inspect_run"]


def inspect_run(
    folder: Path | str,
    model: nn.Module | Model | None = None,
    *,
    count: int = 32,
    device: str | None = None,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Inspection:
    """Measure what every layer of a finished run costs, before and after its reconstruction.

    The state before is built anew: the float weights, and ranges from the run's images and seed.

    Args:
        folder: as `quantize` wrote it.
        model: the float network, where the run was made from a module; the `Model` of a network of several inputs.
        count: images of the run to measure on.
        device: where to measure; None takes a GPU where there is one.
        threads: of the CPU; None takes all cores.
        progress: told of every layer.

    Raises:
        InputError: when files are missing, or the network is not the one that the run was made from.

    Example:
        >>> found = inspect_run("runs/resnet18-w4a8")  # doctest: +SKIP
        >>> found.before.network.loss > found.after.network.loss  # doctest: +SKIP
        True
    """
    folder, where = Path(folder), use_device(device, threads)
    about = read_metadata(folder / "quantized.safetensors")["about"]
    settings = settings_of(folder)
    seed = settings.execution.seed
    network = _network(folder, settings, about, model)
    images = CalibrationSet.load(folder / "images.safetensors")
    many = mixed_copies(images, settings.calibration.mixed_copies, seed)
    after = load_quantized(folder, network.module)
    before = insert_quantizers(after.require_float_model(), after.plan)
    inputs = network.preprocess.normalize(many.floats())
    calibrate(before.to(where), inputs, preprocess=network.preprocess, seed=seed, progress=progress)
    after.module.to(where)
    used = inputs[: len(images)]  # mixed copies are for reconstruction alone
    found = [
        measure_sensitivity(quantized_model, used, images=count, progress=progress)
        for quantized_model in (before, after)
    ]
    facts = ImageFacts.from_json({"count": len(images), **images.provenance})
    return Inspection(settings, network.name, facts, found[0], found[1])


def inspect_model(
    settings: Settings, model: Model | None = None, *, count: int = 32, progress: Progress = SILENT
) -> Inspection:
    """Measure what every layer of a network would cost with nearest rounding; nothing is written.

    Args:
        settings: model, bits, images and what they need; images are best those of an earlier run or of
            `synthesize`.
        model: the network, where it is not to be loaded by ``settings.model``.
        count: images to measure on.
        progress: told of every layer.

    Raises:
        InputError: whatever a user can act on.

    Example:
        >>> settings = ptq.make_settings("resnet18", bits=4, images="runs/a/images.safetensors")
        >>> found = inspect_model(settings)  # doctest: +SKIP
        >>> sorted(found.before.layers, key=lambda layer: layer.cost.loss)[-1].name  # doctest: +SKIP
        'conv1'
    """
    device = use_device(settings.execution.device, settings.execution.threads)
    network = model or load_network(settings.model)
    graph_model = prepare_network(network, settings.quantization)
    plan_by_settings(graph_model, settings.quantization)  # what it refuses, it refuses before images are made
    source = image_source(settings.calibration, settings.execution, network.preprocess)
    images = calibration_images(network, source, device=device, progress=progress)
    inputs = network.preprocess.normalize(images.floats())
    seed = settings.execution.seed
    graph_model.module.to(device)
    quantized_model = insert_quantizers(graph_model, plan_by_images(graph_model, settings.quantization, inputs))
    calibrate(quantized_model, inputs, preprocess=network.preprocess, seed=seed, progress=progress)
    found = measure_sensitivity(quantized_model, inputs, images=count, progress=progress)
    facts = ImageFacts.from_json({"count": len(images), **images.provenance})
    return Inspection(settings, network.name, facts, found, None)


def _network(folder: Path, settings: Settings, about: dict[str, Any], module: nn.Module | Model | None) -> Model:
    """The float network of a run, and no other."""
    if isinstance(module, Model):
        model = module
    elif module is not None:
        preprocess = asdict(Preprocess.from_json(about["preprocess"]))
        model = as_model(module, **preprocess, task=settings.model.task)
    elif about["model"] is None:
        raise InputError(f"{folder} was made from a Python module: use ptq.inspect_run(folder, model) from Python.")
    else:
        model = load_network(settings.model)
    if model.sha256 != read_report(folder).model.sha256:
        raise InputError(f"{model.name} has other weights now than when {folder} was made.")
    return model
