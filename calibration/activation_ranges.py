"""Calibration: from images to the range of every activation and weight of a quantized model."""

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from ptq.calibration.observers import OBSERVERS, reach, weight_range
from ptq.calibration.output_error import batches_of, least_output_error, output_errors, output_sqnr
from ptq.data.preprocess import Preprocess
from ptq.errors import InputError, ModelError
from ptq.graph.fx_helpers import watch
from ptq.models.inputs import take_input
from ptq.progress import SILENT, Progress
from ptq.quantization.activation_grids import observed
from ptq.quantization.affine import qparams
from ptq.quantization.integer_ops import finest_scale
from ptq.quantization.layers import QuantLayer
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.quantizers import Quantizer

__all__ = ["calibrate"]

OUTPUT = "output"  # the observer that looks at the network's output
WITHOUT_GRADIENT = "mse"  # what it leaves to another one
AUTO = "auto"  # the better of the two for the network
CLEAR = 0.3  # dB of the network's output by which the first has to be better: reconstruction likes the second
SHOWN = 32  # images that tell
Ranges = dict[str, tuple[Tensor, Tensor]]
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
    observer: str = AUTO,
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
        observer: of activations: a key of `OBSERVERS`; "output" for the range with which the network's output changes
            least, to first order (a backward pass over a part of the images); or "auto", which takes that where it
            leaves the output clearly less noise than "mse". Weights always take the search for the least error.
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
    if observer not in (known := (AUTO, OUTPUT, *OBSERVERS)):
        raise InputError(f"unknown observer {observer!r}; choose one of {', '.join(known)}.")
    quantizers = quantized_model.quantizers()
    batches = inputs.split(batch)
    samples = {name: _Sample(max(SAMPLE // len(batches), 64), seed + i) for i, name in enumerate(quantizers)}
    graph = float_model.module
    nodes = {node.name: node for node in graph.graph.nodes}
    device = next(graph.parameters()).device
    watchers = {name: sample.add for name, sample in samples.items()}
    looks_at_output = observer in (AUTO, OUTPUT)
    passes = len(batches_of(inputs)) if looks_at_output else 0
    with progress.stage("calibrate", len(batches) + passes + 1) as task:
        for part in batches:
            watch(graph, part.to(device), watchers)
            task.advance()
        rule = OBSERVERS[WITHOUT_GRADIENT if looks_at_output else observer]
        ranges: Ranges = {}
        ends: Ranges = {}
        for name, quantizer in quantizers.items():
            spec, values = quantizer.spec, samples[name].values()
            if not bool(torch.isfinite(values).all()):
                raise ModelError(f"the activations of {name} are NaN or infinite on the calibration images.")
            if spec.grid == "images":
                ranges[name] = reach(_possible(values, preprocess, nodes[name]), spec)
            else:
                values = observed(values, spec)
                ranges[name], ends[name] = rule(values, spec), (values.min(), values.max())
        if looks_at_output:
            errors = output_errors(graph, inputs, ends, sample=SAMPLE, seed=seed, step=task.advance)
            by_output = ranges | {name: least_output_error(e, quantizers[name].spec) for name, e in errors.items()}
            ranges = by_output if observer == OUTPUT else _better(graph, quantizers, ranges, by_output, inputs)
        _set_ranges(graph, quantizers, ranges)
        task.advance()
    for layer in quantized_model.layers().values():
        set_weight_range(layer)
    return quantized_model


def _better(
    graph: fx.GraphModule, quantizers: Mapping[str, Quantizer], usual: Ranges, other: Ranges, inputs: Tensor
) -> Ranges:
    """Return the other ranges, if they leave the network's output clearly less noise than the usual ones, or those."""
    decibels = []
    for ranges in (usual, other):
        _set_ranges(graph, quantizers, ranges)
        decibels.append(output_sqnr(graph, quantizers, batches_of(inputs[:SHOWN])))
    return other if decibels[1] >= decibels[0] + CLEAR else usual


def _set_ranges(graph: fx.GraphModule, quantizers: Mapping[str, Quantizer], ranges: Ranges) -> None:
    """Give every quantizer its range, or a wider one where the kernel that writes it needs that."""
    nodes = {node.name: node for node in graph.graph.nodes}
    scales: dict[str, float] = {}
    for name, quantizer in quantizers.items():
        low, high = ranges[name]
        finest = finest_scale(graph, nodes[name], scales)
        widest = low.clamp(max=0.0) + finest * (quantizer.spec.qmax - quantizer.spec.qmin)
        quantizer.set_range(low, torch.maximum(high, widest))
        scales[name] = float(quantizer.scale)


def _possible(seen: Tensor, preprocess: Preprocess | None, node: fx.Node) -> Tensor:
    """All that an input can be, if that is known and true of what was seen; otherwise what was seen."""
    if preprocess is None:
        return seen
    levels = preprocess.levels()
    if node.target is take_input:
        _, _, start, count = node.args
        levels = levels.narrow(0, start, count)  # type: ignore[arg-type]
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
    quantizer.set_scale(torch.maximum(scale, layer.least_weight_scale()))
