"""Calibration without data and nothing else: a network in, a calibrated quantized model and its images out."""

from dataclasses import dataclass

from torch import nn

from ptq.calibration.activation_ranges import calibrate
from ptq.calibration.dataset import CalibrationSet
from ptq.calibration.synthesis_config import synthesis_preset
from ptq.config.settings import QuantizationSettings
from ptq.data.preprocess import Preprocess
from ptq.models.model import Model, load_model
from ptq.progress import SILENT, Progress
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.quantized_model import QuantizedModel
from ptq.run.inputs import ImageSource, calibration_images, own_network
from ptq.run.planning import plan_by_images, prepare_network
from ptq.utils.device import use_device

__all__ = ["Calibrated", "calibrate_datafree"]


@dataclass(frozen=True)
class Calibrated:
    """A calibrated quantized model and the images that did it."""

    quantized_model: QuantizedModel
    images: CalibrationSet


def calibrate_datafree(
    model: str | nn.Module | Model,
    bits: int = 8,
    act_bits: int = 8,
    *,
    teachers: tuple[Model, ...] = (),
    preprocess: Preprocess | None = None,
    task: str = "auto",
    preset: str = "default",
    seed: int = 0,
    device: str | None = None,
    progress: Progress = SILENT,
) -> Calibrated:
    """Return a calibrated quantized model of `model` and the images synthesized for it; no data is needed.

    Args:
        model: a name, your own trained module, or a `Model`. It comes out untouched.
        bits: of the weights, 2..8.
        act_bits: of the activations, 2..8.
        teachers: further models to synthesize from (feature mixing).
        preprocess: of your own module; ImageNet's at 224 by default.
        task: what the network is for, as `ptq.find_task` takes it.
        preset: "fast", "default" or "best".
        seed: same seed, same machine: same result.
        device: None takes a GPU where there is one.
        progress: told of every long stage.

    Raises:
        PtqError: for a network without BatchNorm, or one that cannot be traced.

    Example:
        >>> found = calibrate_datafree(net)  # doctest: +SKIP
        >>> logits = found.quantized_model.integer_forward(x)  # doctest: +SKIP
    """
    own = {} if task == "auto" else {"task": task}
    network = load_model(model, task=task) if isinstance(model, str) else own_network(model, preprocess, own)
    settings = QuantizationSettings(bits, act_bits)
    graph_model = prepare_network(network, settings)
    source = ImageSource("mixmix", synthesis_preset(preset, network.preprocess, seed=seed))
    images = calibration_images(network, source, teachers, device=use_device(device), progress=progress)
    inputs = network.preprocess.normalize(images.floats())
    plan = plan_by_images(graph_model, settings, inputs)
    quantized_model = insert_quantizers(graph_model, plan)
    calibrate(quantized_model, inputs, preprocess=network.preprocess, seed=seed, progress=progress)
    return Calibrated(quantized_model, images)
