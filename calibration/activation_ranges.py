"""Calibration: from images to the range of every activation and weight of a quantized model."""

import torch
from torch import Tensor

from ptq.calibration.observers import OBSERVERS, reach, weight_range
from ptq.calibration.output_error import batches_of, least_output_error, output_errors
from ptq.data.preprocess import Preprocess
from ptq.errors import InputError, ModelError
from ptq.graph.fx_helpers import watch
from ptq.progress import SILENT, Progress
from ptq.quantization.activation_grids import observed
from ptq.quantization.affine import qparams
from ptq.quantization.integer_ops import finest_scale
from ptq.quantization.layers import QuantLayer
from ptq.quantization.quantized_model import QuantizedModel

__all__ = ["calibrate"]

OUTPUT = "output"  # the observer that looks at the network's output
WITHOUT_GRADIENT = "mse"  # what it leaves to another one
SAMPLE = 1 << 15  # numbers kept per activation


class _Sample:
    """A random sample of all values of one activation, with the smallest and the largest of each batch."""

    def __init__(self, per_batch: int, seed: int) -> None:
        self.per_batch = per_batch
        self.generator = torch.Generator().manual_seed(seed)
        self.parts: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        flat = values.detach().flatten()
        index = torch.randint(flat.numel(), (self.per_batch,), generator=self.generator)
        ends = torch.stack([flat.min(), flat.max()])
        self.parts.append(torch.cat([flat[index.to(flat.device)], ends]).float().cpu())

    def values(self) -> Tensor:
        return torch.cat(self.parts)


@torch.no_grad()
def calibrate(
    quantized_model: QuantizedModel,
    inputs: Tensor,
    *,
    preprocess: Preprocess | None = None,
    observer: str = OUTPUT,
    batch: int = 32,
    seed: int = 0,
    progress: Progress = SILENT,
) -> QuantizedModel:
    """Set every range of a quantized model from one pass of the float network, and return the model.

    Args:
        quantized_model: as `insert_quantizers` returns it; changed in place.
        inputs: calibration images as the network takes them, (N, C, H, W), normalized.
        preprocess: what made the inputs out of images. All that a pixel can be is known then, and the network's input
            gets the range of that, be the images as dull as they like; not where inputs lie beyond it.
        observer: of activations: "output" for the range with which the network's output changes least, to first order
            (one backward pass over a part of the images), or a key of `OBSERVERS`. Weights always take the search for
            the least error.
        batch: images per forward pass.
        seed: of the sampling of activations.

    Raises:
        InputError: for no images, images of the wrong shape, or an unknown observer.
        ModelError: for activations that are NaN or infinite.

    Example:
        >>> quantized_model = ptq.insert_quantizers(graph_model, ptq.make_plan(graph_model, 8))
        >>> calibrated = calibrate(quantized_model, images)
        >>> logits = calibrated.integer_forward(x)
    """
    float_model = quantized_model.require_float_model()
    if inputs.dim() != 4 or len(inputs) == 0 or tuple(inputs.shape[1:]) != float_model.input_shape:
        raise InputError(
            f"calibration needs images of shape (N, {', '.join(map(str, float_model.input_shape))}), "
            f"not {tuple(inputs.shape)}."
        )
    if observer not in (known := (OUTPUT, *OBSERVERS)):
        raise InputError(f"unknown observer {observer!r}; choose one of {', '.join(known)}.")
    quantizers = quantized_model.quantizers()
    free = [name for name, quantizer in quantizers.items() if quantizer.spec.grid != "images" and observer == OUTPUT]
    batches = inputs.split(batch)
    samples = {name: _Sample(max(SAMPLE // len(batches), 64), seed + i) for i, name in enumerate(quantizers)}
    device = next(float_model.module.parameters()).device
    watchers = {name: sample.add for name, sample in samples.items()}
    passes = len(batches_of(inputs)) if free else 0
    rule = OBSERVERS[WITHOUT_GRADIENT if observer == OUTPUT else observer]
    with progress.stage("calibrate", len(batches) + passes + len(quantizers)) as task:
        for part in batches:
            watch(float_model.module, part.to(device), watchers)
            task.advance()
        values = {name: sample.values() for name, sample in samples.items()}
        for name, seen in values.items():
            if not bool(torch.isfinite(seen).all()):
                raise ModelError(f"the activations of {name} are NaN or infinite on the calibration images.")
        ends = {name: _ends(observed(values[name], quantizers[name].spec)) for name in free}
        errors = (
            output_errors(float_model.module, inputs, ends, sample=SAMPLE, seed=seed, step=task.advance) if free else {}
        )
        nodes = {node.name: node for node in float_model.module.graph.nodes}
        scales: dict[str, float] = {}
        for name, quantizer in quantizers.items():
            spec, seen = quantizer.spec, values[name]
            if spec.grid == "images":
                low, high = reach(_possible(seen, preprocess), spec)
            elif name in errors:
                low, high = least_output_error(errors[name], spec)
            else:
                low, high = rule(observed(seen, spec), spec)
            finest = finest_scale(float_model.module, nodes[name], scales)
            widest = low.clamp(max=0.0) + finest * (spec.qmax - spec.qmin)
            quantizer.set_range(low, torch.maximum(high, widest))
            scales[name] = float(quantizer.scale)
            task.advance()
    for layer in quantized_model.layers().values():
        set_weight_range(layer)
    return quantized_model


def _ends(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.min(), values.max()


def _possible(seen: Tensor, preprocess: Preprocess | None) -> Tensor:
    """All that an input can be, if that is known and true of what was seen; otherwise what was seen."""
    if preprocess is None:
        return seen
    levels = preprocess.levels()
    low, high = levels.aminmax()
    slack = (high - low) / 1000  # arithmetic in float32
    return levels if low - slack <= seen.min() and seen.max() <= high + slack else seen


def set_weight_range(layer: QuantLayer) -> None:
    """Choose the scales of a layer's weights; its input must have been calibrated.

    A channel whose weights are nearly zero gets a scale that is large enough for its bias: biases are int32 codes of
    scale scale_x * scale_w.
    """
    quantizer = layer.weight_quantizer
    scale, _ = qparams(*weight_range(quantizer.float_weight, quantizer.spec), quantizer.spec)
    quantizer.set_scale(scale)
    quantizer.set_scale(torch.maximum(scale, layer.least_weight_scale()))
