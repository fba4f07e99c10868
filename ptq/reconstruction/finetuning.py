"""Fine-tuning: the whole quantized network learns the float network's predictions, once its blocks are done.

Blocks are fitted one by one, each to its own output. What their errors make of the predictions together, no block sees.
Here scales of activations, scales of weights and biases move together; all of them cost nothing at run time. Codes stay
as they were learned: from few images a whole network of roundings would learn the images. Both networks see the same
flipped and shifted view of an image, so that no label is needed.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ptq.graph.fx_helpers import watch
from ptq.progress import SILENT, Progress, Task
from ptq.quantization.affine import per_channel
from ptq.quantization.layers import QuantLayer, apply_layer
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.config import ReconstructConfig
from ptq.reconstruction.optimization import averaged
from ptq.reconstruction.results import FinetuneResult
from ptq.reconstruction.soft_modules import LearnedScale, SoftBlock, StandIn, in_precision, soften
from ptq.utils.autocast import fast_autocast
from ptq.utils.metrics import decibels
from ptq.utils.work_store import WorkStore

__all__ = ["TunedLayer", "finetune", "prediction_error", "tunable"]

KEY = "finetuning"
HELD_OUT = 8  # every eighth image takes no part, and tells whether it was worth it
SHIFT = 8  # images move by up to an eighth of their sides
BATCH = 16  # images at a time where nothing is learned


def finetune(
    quantized_model: QuantizedModel,
    inputs: Tensor,
    config: ReconstructConfig,
    *,
    store: WorkStore | None = None,
    progress: Progress = SILENT,
) -> FinetuneResult | None:
    """Tune scales and biases of a reconstructed quantized model to the float network's predictions, in place.

    What was learned is kept where it helps on images that took no part. A network whose output has `tune_below` dB or
    more is left alone.

    Args:
        quantized_model: calibrated; with its float network, on the same device.
        inputs: calibration images as the network takes them, (N, C, H, W).
        config: `finetune` iterations with `batch` images; `lr_finetune`, `tune_below` and `seed`.
        store: keeps what was learned, and gives it back.
        progress: told of every iteration.

    Returns:
        What it brought; None where there was nothing to do.

    Raises:
        InputError: when the quantized model has not been calibrated, or was loaded without its float network.

    Example:
        >>> own = ptq.calibrate(ptq.insert_quantizers(graph_model, ptq.make_plan(graph_model, 4, 4)), images)
        >>> result = ptq.finetune(own, images, ptq.ReconstructConfig(finetune=5, batch=4, tune_below=99.0))
        >>> result.after <= result.before
        True
    """
    quantized_model.require_calibrated()
    float_network = quantized_model.require_float_model().module
    store = store or WorkStore()
    if not config.finetune or len(inputs) < 2:
        return None
    if (known := store.restore(KEY, quantized_model.module)) is not None:
        return FinetuneResult.from_json(known) if known else None
    started = time.perf_counter()
    held_out = torch.arange(len(inputs)) % HELD_OUT == (HELD_OUT - 1 if len(inputs) >= HELD_OUT else len(inputs) - 1)
    apart, training = inputs[held_out], inputs[~held_out]
    if _output_sqnr(float_network, quantized_model.module, apart) >= config.tune_below:
        store.save(KEY, quantized_model.module)
        return None
    before = prediction_error(float_network, quantized_model.module, apart)
    state = {name: value.clone() for name, value in quantized_model.module.state_dict().items()}
    spread = _spread(float_network, quantized_model, inputs)
    block = tunable(quantized_model.module, spread)
    with progress.stage("fine-tune", config.finetune) as task:
        curve = averaged(_descend(block, float_network, training, config, task), config.finetune, task)
    block.commit()
    after = prediction_error(float_network, quantized_model.module, apart)
    if not after < before:  # NaN is no better either
        quantized_model.module.load_state_dict(state)
    result = FinetuneResult(
        iterations=config.finetune,
        images=len(apart),
        before=before,
        after=min(after, before) if after == after else before,
        kept=after < before,
        seconds=time.perf_counter() - started,
        losses=curve,
    )
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
        super().__init__()
        self._layer, self.float32 = (layer,), float32
        with torch.no_grad():
            self.register_buffer("rounded", layer.weight_quantizer())
        self.register_buffer("spread", spread)
        self.gain = nn.Parameter(torch.ones_like(layer.weight_quantizer.scale))
        self.shift = None if layer.op.bias is None else nn.Parameter(torch.zeros_like(layer.op.bias))

    @property
    def layer(self) -> QuantLayer:
        """The layer that this one stands in for."""
        return self._layer[0]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; shapes as the layer."""
        layer = self.layer
        weight = self.rounded * per_channel(self.gain, self.rounded, layer.weight_quantizer.spec.axis)
        return in_precision(lambda part: apply_layer(layer.op, part, weight, self._bias()), x, self.float32)

    def _bias(self) -> Tensor | None:
        op = self.layer.op
        if op.bias is None or self.shift is None:
            return None
        bias = op.bias.detach() + self.shift * self.spread
        if self.input_scale is None:
            return bias
        scale = self.layer.weight_quantizer.scale * self.gain
        grid = self.input_scale() * scale.repeat(op.bias.numel() // scale.numel())
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
    block: SoftBlock, float_network: nn.Module, inputs: Tensor, config: ReconstructConfig, task: Task
) -> Iterator[Tensor]:
    """Yield the loss of every iteration."""
    parameters = [p for p in block.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.lr_finetune, fused=True)
    generator = torch.Generator().manual_seed(config.seed)
    device = parameters[0].device
    for iteration in range(config.finetune):
        optimizer.param_groups[0]["lr"] = config.lr_finetune * (1 + math.cos(math.pi * iteration / config.finetune)) / 2
        x = _view(inputs[torch.randint(len(inputs), (config.batch,), generator=generator)], generator).to(device)
        with fast_autocast(device):
            with torch.no_grad():
                wanted = float_network(x)
            loss = _difference(block(x).float(), wanted.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        yield loss.detach()


def _view(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images flipped at random and shifted together, with what lies behind their edges mirrored; same shape."""
    flipped = torch.rand(len(x), generator=generator) < 0.5
    x = torch.where(flipped[:, None, None, None], x.flip(3), x)
    height, width = x.shape[2:]
    up, left = height // SHIFT, width // SHIFT
    top, start = (int(torch.randint(2 * side + 1, (), generator=generator)) for side in (up, left))
    return F.pad(x, (left, left, up, up), "reflect")[:, :, top : top + height, start : start + width]


def _difference(given: Tensor, wanted: Tensor) -> Tensor:
    """The mean divergence of predictions (N, classes); of other outputs the squared error over their variance."""
    if wanted.dim() == 2 and wanted.shape[1] > 1:
        return F.kl_div(given.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean")
    return (given - wanted).square().mean() / wanted.var().clamp(min=1e-12)


@torch.no_grad()
def prediction_error(float_network: nn.Module, network: nn.Module, inputs: Tensor) -> float:
    """Return the mean divergence of a quantized network's predictions from the float network's, in nats.

    Of outputs that are not (N, classes), the squared error over their variance.
    """
    pairs = list(_both(float_network, network, inputs))
    return float(_difference(torch.cat([given for _, given in pairs]), torch.cat([wanted for wanted, _ in pairs])))


def _output_sqnr(float_network: nn.Module, network: nn.Module, inputs: Tensor) -> float:
    """dB of the whole network's output."""
    signal = noise = 0.0
    for wanted, given in _both(float_network, network, inputs):
        signal += float(wanted.double().square().sum())
        noise += float((given - wanted).double().square().sum())
    return decibels(signal, noise)


@torch.no_grad()
def _both(float_network: nn.Module, network: nn.Module, inputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    device = next(float_network.parameters()).device
    for part in inputs.split(BATCH):
        x = part.to(device)
        yield float_network(x), network(x)


def _spread(
    float_network: fx.GraphModule, quantized_model: QuantizedModel, inputs: Tensor
) -> Mapping[QuantLayer, Tensor]:
    """The standard deviation of every output channel of every layer on a few images."""
    layers = quantized_model.layers()
    found: dict[QuantLayer, Tensor] = {}

    def look(layer: QuantLayer, values: Tensor) -> None:
        channel = -1 if isinstance(layer.op, nn.Linear) else 1
        found[layer] = values.movedim(channel, 0).flatten(1).float().std(1)

    watchers = {name: lambda values, layer=layer: look(layer, values) for name, layer in layers.items()}
    device = next(float_network.parameters()).device
    watch(float_network, inputs[:BATCH].to(device), watchers)
    return found
