"""Block reconstruction: tune every block so that it gives what it gave in float.

One loop over the blocks; what happens inside one is `ptq.reconstruction.optimization`, and the published methods are
configurations (`ptq.reconstruction.config`). Every block reads what the quantized blocks before it give, and is
fitted to what the float block gives on float inputs. Where learning did not beat nearest rounding on
the calibration images, nearest rounding stays. A block that has 8 bits and is good enough with nearest rounding is not tuned. Where
nearest rounding stays, a bias takes the mean error out. Blocks that an interrupted run finished are only run again.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ptq.graph.blocks import compose, extract, split
from ptq.graph.fx_helpers import foldable, module_of, sole_input
from ptq.progress import SILENT, Progress, Task
from ptq.quantization.layers import QuantLayer
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.quantizers import Quantizer
from ptq.reconstruction.activation_cache import ActivationCache
from ptq.reconstruction.bias_correction import correct_bias
from ptq.reconstruction.config import METHODS, ReconstructConfig
from ptq.reconstruction.optimization import Pair, optimize
from ptq.reconstruction.passes import capture, in_parts, output_sqnr, run_cached
from ptq.reconstruction.results import BlockResult, Curve
from ptq.reconstruction.soft_modules import is_low, learns
from ptq.utils.work_store import WorkStore

__all__ = ["reconstruct"]


def reconstruct(
    quantized_model: QuantizedModel,
    inputs: Tensor,
    config: ReconstructConfig = METHODS["qdrop"],
    *,
    cache: ActivationCache | None = None,
    store: WorkStore | None = None,
    progress: Progress = SILENT,
    on_block: Callable[[int, BlockResult], None] | None = None,
) -> list[BlockResult]:
    """Reconstruct a calibrated quantized model block by block, in place.

    Args:
        quantized_model: calibrated; it computes on the device its modules are on.
        inputs: calibration images as the network takes them, (N, C, H, W).
        config: see `ptq.reconstruction.config`.
        cache: holds activations, in bfloat16; an `ActivationCache()` of its own when not given.
        store: keeps every block that is done, and gives back those that were: bit for bit, for the same
            quantized_model, inputs and config.
        progress: told of every iteration, and now and then of the loss relative to nearest rounding.
        on_block: called after every block.

    Returns:
        One result per block.

    Raises:
        InputError: when the quantized model has not been calibrated, or was loaded without its float network.

    Example:
        >>> own = ptq.calibrate(ptq.insert_quantizers(graph_model, ptq.make_plan(graph_model, 4)), images)
        >>> results = reconstruct(own, images, ReconstructConfig(iterations=5, batch=4))
        >>> all(result.sqnr >= result.sqnr_nearest for result in results)
        True
    """
    quantized_model.require_calibrated()
    cache, store = cache or ActivationCache(), store or WorkStore()
    work = list(_work(quantized_model, config))
    total = sum(block.iterations(config) for block in work)
    x_float = x_quantized = cache.gather([inputs], len(inputs))
    del inputs  # twice as large as what is left
    results = []
    with progress.stage("reconstruct", max(1, total)) as task:
        for block in work:
            target = run_cached(block.float_block, x_float, cache)
            known = store.restore(block.key, block.quantized_block)
            if known is None:
                result = _tune(block, Pair(x_quantized, x_float, target), cache, config, task)
                store.save(block.key, block.quantized_block, result.to_json())
            else:
                result = BlockResult.from_json(known)
                task.advance(block.iterations(config))
            results.append(result)
            if on_block is not None:
                on_block(block.index, result)
            x_float = target  # before the next tensor is made, because three of them are the most at a time
            x_quantized = run_cached(block.quantized_block, x_quantized, cache)
    return results


@dataclass(frozen=True)
class _Block:
    """A block in float and quantized, the (float, quantized) units of it to optimize, what follows it in float.

    `low` says that something in it has fewer than 8 bits.
    """

    index: int
    float_block: fx.GraphModule
    quantized_block: fx.GraphModule
    units: list[tuple[fx.GraphModule, fx.GraphModule]]
    low: bool
    rest: list[fx.GraphModule]

    @property
    def key(self) -> str:
        return f"block-{self.index:04d}"

    def iterations(self, config: ReconstructConfig) -> int:
        return len(self.units) * config.iterations * (1 if config.joint else 2)


def _work(quantized_model: QuantizedModel, config: ReconstructConfig) -> Iterator[_Block]:
    float_blocks = split(quantized_model.require_float_model().module, quantized_model.blocks)
    for index, (float_block, block) in enumerate(zip(float_blocks, quantized_model.split(), strict=True)):
        units = list(_units(float_block, block, config))
        low = any(is_low(module_of(block, node)) for node in block.graph.nodes)
        yield _Block(index, float_block, block, units, low, float_blocks[index + 1 :])


def _tune(block: _Block, pair: Pair, cache: ActivationCache, config: ReconstructConfig, task: Task) -> BlockResult:
    """Fit a block where there is something to gain, and keep that if it is better than nearest rounding."""
    started = time.perf_counter()
    quantized = block.quantized_block
    sqnr = nearest = output_sqnr(quantized, pair.x_quantized, pair.target)
    kept = "skipped"
    losses: tuple[Curve, ...] = ()
    if block.iterations(config) and (block.low or not nearest >= config.tune_below):
        before = {name: value.clone() for name, value in quantized.state_dict().items()}
        weight = _fisher(compose(block.rest), pair.target, cache) if config.fisher else None
        seed = config.seed * 1_000_003 + block.index * 1_009  # whatever the blocks before it drew
        losses = _fit(block, replace(pair, weight=weight), cache, replace(config, seed=seed), task)
        sqnr, kept = output_sqnr(quantized, pair.x_quantized, pair.target), "learned"
        if not sqnr >= nearest:  # NaN is no better either
            quantized.load_state_dict(before)
            sqnr, kept = nearest, "nearest"
    elif block.iterations(config):
        task.advance(block.iterations(config))  # the total has them
    if kept != "learned" and config.correct_bias:
        sqnr = correct_bias(block.float_block, quantized, pair, sqnr)
    layers = tuple(n.name for n in quantized.graph.nodes if isinstance(module_of(quantized, n), QuantLayer))
    return BlockResult(
        name=layers[-1] if layers else f"block{block.index}",
        layers=layers,
        sqnr_nearest=nearest,
        sqnr=sqnr,
        kept=kept,
        seconds=time.perf_counter() - started,
        memory=cache.peak,
        disk=cache.peak_disk,
        losses=losses,
    )


def _fit(
    block: _Block, whole: Pair, cache: ActivationCache, config: ReconstructConfig, task: Task
) -> tuple[Curve, ...]:
    """Fit a block, or one after the other the layers in it; return a curve for each descent."""
    if config.unit == "block":
        return optimize(block.quantized_block, whole, config, task)
    curves: list[Curve] = []
    for number, (float_unit, unit) in enumerate(block.units):
        x_float = _input_of(block.float_block, float_unit, whole.x_float, cache)
        x_quantized = _input_of(block.quantized_block, unit, whole.x_quantized, cache)
        pair = Pair(x_quantized, x_float, run_cached(float_unit, x_float, cache))
        curves += optimize(unit, pair, replace(config, seed=config.seed + number), task)
    return tuple(curves)


def _units(
    float_block: fx.GraphModule, block: fx.GraphModule, config: ReconstructConfig
) -> Iterator[tuple[fx.GraphModule, fx.GraphModule]]:
    """Yield (float, quantized) graphs to optimize one after the other; none where nothing can be gained."""
    learnable = [n for n in block.graph.nodes if learns(module_of(block, n))]
    if not learnable:
        return
    if config.unit == "block":
        yield float_block, block
        return
    floats = {n.name: n for n in float_block.graph.nodes}
    for node in learnable:
        if isinstance(module_of(block, node), QuantLayer):
            yield (
                extract(float_block, _layer_and_activation(float_block, floats[node.name])),
                extract(block, _layer_and_activation(block, node)),
            )


def _layer_and_activation(graph: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    nodes = [node]
    while len(nodes[-1].users) == 1:
        (user,) = nodes[-1].users
        if not (foldable(graph, user) or isinstance(module_of(graph, user), Quantizer)):
            break
        nodes.append(user)
    return nodes


def _input_of(graph: fx.GraphModule, unit: fx.GraphModule, x: Tensor, cache: ActivationCache) -> Tensor:
    """Run `graph` on `x` and return what flows into `unit`, a part of it."""
    first = next(n for n in unit.graph.nodes if n.op == "call_module")
    return capture(graph, sole_input(next(n for n in graph.graph.nodes if n.name == first.name)).name, x, cache)


def _fisher(network: nn.Module, target: Tensor, cache: ActivationCache) -> Tensor:
    """Squared gradients of the network's loss with respect to a block's output (BRECQ, eq. 10), mean 1 for every image.

    The loss is the cross-entropy with the float network's own prediction. What the network is sure of has gradients
    next to 0: if images were not put on one scale, a few would decide everything (ResNet-20 W2A4: 79 % for 85 %).
    """

    def parts() -> Iterator[Tensor]:
        for part in in_parts(target, network):
            with torch.enable_grad():
                leaf = part.requires_grad_()
                logits = network(leaf).flatten(1)
                loss = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
                (grad,) = torch.autograd.grad(loss, leaf)
            weight = grad.square().flatten(1)
            yield (weight / weight.mean(1, keepdim=True).clamp(min=1e-30)).view_as(grad)

    return cache.gather(parts(), len(target), torch.float32)
