"""Inspecting a finished run, before and after reconstruction, or a network that is yet to be quantized."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ptq.allocation.allocate import find_choices
from ptq.allocation.results import Tradeoffs
from ptq.allocation.widths import change_widths
from ptq.analysis.sensitivity import measure_sensitivity
from ptq.calibration.activation_ranges import calibrate
from ptq.calibration.data_mixing import mixed_copies
from ptq.calibration.dataset import CalibrationSet
from ptq.config.choices import MAX_BITS, REDUCED_BITS
from ptq.config.settings import Settings
from ptq.data.preprocess import Preprocess
from ptq.errors import InputError
from ptq.models.model import Model, as_model
from ptq.progress import SILENT, Progress
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import layers_matched
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.storage import read_metadata, settings_of
from ptq.reporting.facts import ImageFacts
from ptq.reporting.inspection import Inspection
from ptq.reporting.report_files import read_report
from ptq.run.activation_bits import plan_activations
from ptq.run.allocation import held_apart
from ptq.run.finished_runs import load
from ptq.run.inputs import IMAGES, calibration_images, image_source, load_network
from ptq.run.placing import forecast_placement
from ptq.run.planning import plan_by_images, plan_by_settings, prepare_network
from ptq.utils.device import use_device

__all__ = ["inspect_model", "inspect_run"]


def inspect_run(
    folder: Path | str,
    model: nn.Module | Model | None = None,
    *,
    count: int = 32,
    frontier: bool = False,
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
        frontier: whether to measure, too, what files of other sizes can hold.
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
    images, _ = held_apart(CalibrationSet.load(folder / IMAGES), settings)
    many = mixed_copies(images, settings.calibration.mixed_copies, seed)
    after = load(folder, network.module)
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
    costs = _tradeoffs(settings, before, used, count, progress) if frontier else None
    return Inspection(settings, network.name, facts, found[0], found[1], costs)


def inspect_model(
    settings: Settings,
    model: Model | None = None,
    *,
    count: int = 32,
    frontier: bool = False,
    progress: Progress = SILENT,
) -> Inspection:
    """Measure what every layer of a network would cost with nearest rounding; nothing is written.

    Args:
        settings: model, bits, images and what they need; images are best those of an earlier run or of
            `synthesize`.
        model: the network, where it is not to be loaded by ``settings.model``.
        count: images to measure on.
        frontier: whether to measure, too, what files of other sizes can hold.
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
    plan = forecast_placement(graph_model, plan_by_images(graph_model, settings.quantization, inputs), settings)
    ranges = partial(calibrate, inputs=inputs, preprocess=network.preprocess, seed=seed, progress=progress)
    if settings.quantization.act_bits == "auto":
        plan = plan_activations(graph_model, plan, settings.quantization, inputs, ranges, progress=progress)
    quantized_model = insert_quantizers(graph_model, plan)
    ranges(quantized_model)
    found = measure_sensitivity(quantized_model, inputs, images=count, progress=progress)
    facts = ImageFacts.from_json({"count": len(images), **images.provenance})
    costs = _tradeoffs(settings, quantized_model, inputs, count, progress) if frontier else None
    return Inspection(settings, network.name, facts, found, None, costs)


def _tradeoffs(
    settings: Settings, quantized_model: QuantizedModel, inputs: Tensor, count: int, progress: Progress
) -> Tradeoffs:
    """What widths cost, where every layer but those given by hand may have all bits."""
    by_hand = [name for name, bits in settings.quantization.layers.items() if bits]
    fixed = layers_matched(quantized_model.require_float_model(), by_hand)
    most = REDUCED_BITS if settings.quantization.reduce_range else MAX_BITS
    wide = change_widths(quantized_model, {name: most for name in quantized_model.plan.weights if name not in fixed})
    format = settings.output.format
    return find_choices(wide, inputs, fixed=fixed, format=format, count=count, progress=progress).tradeoffs


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
