"""Fine-tuning: the whole quantized network learns the float network's outputs, once its blocks are done.

Blocks are fitted one by one, each to its own output. What their errors make of the predictions together, no block sees.
Here scales of activations, scales of weights and biases move together; all of them cost nothing at run time. Codes stay
as they were learned: to let them move as well was tried, and brings less. Both networks see the same view of an image,
flipped, shifted, and half of the times with another image in it, so that no label is needed.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from ptq.data.views import mixed_views, random_views
from ptq.distillation.learning import learn
from ptq.graph.fx_helpers import watch
from ptq.graph.passes import device_of
from ptq.progress import SILENT, Progress
from ptq.quantization.affine import per_channel
from ptq.quantization.layers import QuantLayer
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.config import ReconstructConfig
from ptq.reconstruction.optimization import averaged
from ptq.reconstruction.results import FinetuneResult
from ptq.reconstruction.soft_modules import LearnedScale, SoftBlock, StandIn, soften
from ptq.tasks.outputs import Output, named
from ptq.utils import ranks
from ptq.utils.metrics import energies, joint_decibels
from ptq.utils.work_store import WorkStore

__all__ = ["TunedLayer", "finetune", "outputs_of", "tunable", "views_apart"]

KEY = "finetuning"
VIEWS = 8  # of every image that tells whether it was worth it
BATCH = 16  # images at a time where nothing is learned


def finetune(
    quantized_model: QuantizedModel,
    inputs: Tensor | Sequence[Tensor],
    apart: Tensor | Sequence[Tensor],
    config: ReconstructConfig,
    *,
    store: WorkStore | None = None,
    progress: Progress = SILENT,
) -> FinetuneResult | None:
    """Tune scales and biases of a reconstructed quantized model to the float network's outputs, in place.

    What counts in them its task says (`Task.loss`). What was learned is kept where it helps on views of images apart. A network whose output has `tune_below` dB or
    more is left alone.

    Args:
        quantized_model: calibrated; with its float network, on the same device.
        inputs: calibration images as the network takes them, (N, C, H, W); of a network with several inputs, one tensor for each.
        apart: images that no block was fitted to, in the same way: on those it was, blocks as they are look better than they are.
        config: `finetune` iterations with `batch` images; `lr_finetune`, `tune_below` and `seed`.
        store: keeps what was learned, and gives it back.
        progress: told of every iteration.

    Returns:
        What it brought; None where there was nothing to do.

    Raises:
        InputError: when the quantized model has not been calibrated, or was loaded without its float network.

    Example:
        >>> own = ptq.calibrate(ptq.insert_quantizers(graph_model, ptq.make_plan(graph_model, 4, 4)), images)
        >>> result = ptq.finetune(own, images[:-1], images[-1:], ptq.ReconstructConfig(finetune=5, batch=4, tune_below=99.0))
        >>> result.after <= result.before
        True
    """
    quantized_model.require_calibrated()
    float_network = quantized_model.require_float_model().module
    store = store or WorkStore()
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    apart = (apart,) if isinstance(apart, Tensor) else tuple(apart)
    if not config.finetune:
        return None
    ranks.same_state(quantized_model.module)
    if (known := store.restore(KEY, quantized_model.module)) is not None:
        return FinetuneResult.from_json(known)
    started = time.perf_counter()
    judging = views_apart(apart, config.seed)
    wanted, given = outputs_of(float_network, *judging), outputs_of(quantized_model.module, *judging)
    if not any(value.is_floating_point() for value in wanted.values()):
        return None  # whole numbers have no gradients
    pairs = [energies(value, given[name]) for name, value in wanted.items()]
    good = joint_decibels([signal for signal, _ in pairs], [noise for _, noise in pairs]) >= config.tune_below
    if ranks.by_first(lambda: good):
        return None
    loss = quantized_model.task.loss
    before = float(loss(given, wanted))
    state = {name: value.clone() for name, value in quantized_model.module.state_dict().items()}
    block = tunable(quantized_model.module, _spread(float_network, quantized_model, inputs))
    with progress.stage("fine-tune", config.finetune) as task:
        curve = averaged(_descend(block, float_network, inputs, config, loss), config.finetune, task)
    block.commit()
    after = float(loss(outputs_of(quantized_model.module, *judging), wanted))
    kept = ranks.by_first(lambda: after < before)  # NaN is no better either
    if not kept:
        quantized_model.module.load_state_dict(state)
    result = FinetuneResult(
        iterations=config.finetune,
        images=len(apart[0]),
        before=before,
        after=after if kept else before,
        kept=kept,
        seconds=time.perf_counter() - started,
        losses=curve,
    )
    ranks.same_state(quantized_model.module)
    store.save(KEY, quantized_model.module, result.to_json())
    return result


class TunedLayer(StandIn):
    """A layer whose codes are decided; it learns a factor of the scale per channel, and a shift of the bias.

    The bias lies on its grid, as it does in the kernel: at 4 bits, that grid is coarse.

    Args:
        layer: calibrated.
        float32: compute in float32 even within autocast.
        spread: the standard deviation of every output channel, (C,): the unit of the shift.

    Attributes:
        input_scale: that of the layer's input, while it is learned; None where the input is float.
    """

    rounded: Tensor
    spread: Tensor
    input_scale: Callable[[], Tensor] | None = None

    def __init__(self, layer: QuantLayer, float32: bool, spread: Tensor) -> None:
        super().__init__(layer, float32)
        with torch.no_grad():
            self.register_buffer("rounded", layer.weight_quantizer())
        self.register_buffer("spread", spread)
        self.gain = nn.Parameter(torch.ones_like(layer.weight_quantizer.scale))
        self.shift = None if layer.op.bias is None else nn.Parameter(torch.zeros_like(layer.op.bias))

    def weight(self) -> Tensor:
        """The weight with its scale as it stands."""
        return self.rounded * per_channel(self.gain, self.rounded, self.layer.weight_quantizer.spec.axis)

    def bias(self) -> Tensor | None:
        """The bias as it stands, on the grid that it has with these scales."""
        bias = self.layer.op.bias
        if bias is None or self.shift is None:
            return None
        bias = bias.detach() + self.shift * self.spread
        if self.input_scale is None:
            return bias
        grid = self.layer.bias_grid(self.input_scale(), self.layer.weight_quantizer.scale * self.gain)
        codes = bias / grid
        return (codes + (codes.round() - codes).detach()) * grid

    @torch.no_grad()
    def commit(self) -> None:
        """Give the quantized model's layer the scale and the bias that were learned; its codes stay."""
        layer = self.layer
        if layer.op.bias is not None and self.shift is not None:
            layer.op.bias += self.shift * self.spread
        layer.weight_quantizer.rescale(
            torch.maximum(layer.weight_quantizer.scale * self.gain, layer.least_weight_scale())
        )


def tunable(network: fx.GraphModule, spread: Mapping[QuantLayer, Tensor]) -> SoftBlock:
    """Make what computes the same as a quantized network, and learns its scales and biases.

    Args:
        network: calibrated.
        spread: the standard deviation of every output channel of every layer, (C,).
    """
    block = soften(network, None, lambda layer, float32: TunedLayer(layer, float32, spread[layer]))
    scales = {m.quantizer: m for m in block.graph.modules() if isinstance(m, LearnedScale)}
    for module in block.graph.modules():
        if isinstance(module, TunedLayer) and (quantizer := module.layer.input_quantizer) is not None:
            module.input_scale = scales[quantizer].current
    return block


def _descend(
    block: SoftBlock,
    float_network: nn.Module,
    inputs: Sequence[Tensor],
    config: ReconstructConfig,
    loss_of: Callable[[Output, Output], Tensor],
) -> Iterator[Tensor]:
    """Return what takes every iteration, and gives its loss."""
    parameters = [p for p in block.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.lr_finetune, fused=True)
    generator = torch.Generator().manual_seed(config.seed)
    device = parameters[0].device

    def views() -> list[Tensor]:
        index = torch.randint(len(inputs[0]), (config.batch,), generator=generator)
        return [x.to(device) for x in _views([x[index] for x in inputs], generator)]

    return learn(block, float_network, views, loss_of, optimizer, config.finetune)


def views_apart(inputs: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return the views that tell whether it was worth it, of images apart, (N, ...) for each input: `VIEWS` times as many."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.cat(drawn) for drawn in zip(*(_views(inputs, generator) for _ in range(VIEWS)), strict=True)]


def _views(inputs: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Other views of images, each time; images alone are pasted into one another, too."""
    alone = len(inputs) == 1 and inputs[0].dim() == 4
    return [mixed_views(inputs[0], generator)] if alone else random_views(inputs, generator)


@torch.no_grad()
def outputs_of(network: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """Return what a network gives for all images by name, a few at a time."""
    device = device_of(network, inputs[0])
    batches = zip(*(x.split(BATCH) for x in inputs), strict=True)
    parts = [named(network(*(x.to(device) for x in batch))) for batch in batches]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _spread(
    float_network: fx.GraphModule, quantized_model: QuantizedModel, inputs: Sequence[Tensor]
) -> Mapping[QuantLayer, Tensor]:
    """The standard deviation of every output channel of every layer on a few images."""
    layers = quantized_model.layers()
    found: dict[QuantLayer, Tensor] = {}

    def look(layer: QuantLayer, values: Tensor) -> None:
        channel = -1 if isinstance(layer.op, nn.Linear) else 1
        found[layer] = values.movedim(channel, 0).flatten(1).float().std(1)

    watchers = {name: lambda values, layer=layer: look(layer, values) for name, layer in layers.items()}
    device = next(float_network.parameters()).device
    watch(float_network, [x[:BATCH].to(device) for x in inputs], watchers)
    return found
