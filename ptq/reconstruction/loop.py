"""Block reconstruction: tune every block so that it gives what it gave in float.

One loop over the blocks; what happens inside one is `ptq.reconstruction.optimization`, and the published methods are
configurations (`ptq.reconstruction.config`). Every block reads what the quantized blocks before it give, and is
fitted to what the float block gives on float inputs. What is alive between two blocks is kept, by name, twice: as it is in
float, and as the quantized blocks give it. Where learning did not beat nearest rounding on
the calibration images, nearest rounding stays. A block that has 8 bits and is good enough with nearest rounding is not tuned. Where
nearest rounding stays, a bias takes the mean error out. Blocks that an interrupted run finished are only run again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, fx

from ptq.graph.blocks import Block, Chain, compose, extract, named_inputs, split
from ptq.graph.fx_helpers import foldable, module_of, sole_input
from ptq.graph.passes import capture, device_of, output_sqnr, run_cached
from ptq.graph.rows import rows_of
from ptq.progress import SILENT, Progress, Task
from ptq.quantization.layers import QuantLayer
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.quantizers import Quantizer
from ptq.reconstruction.bias_correction import correct_bias
from ptq.reconstruction.config import METHODS, ReconstructConfig
from ptq.reconstruction.fisher import fisher_weights, share_that_counts
from ptq.reconstruction.optimization import Pair, optimize
from ptq.reconstruction.results import BlockResult, Curve
from ptq.reconstruction.soft_modules import is_low, learns
from ptq.tasks.task import Task as NetworkTask
from ptq.utils import ranks
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.work_store import WorkStore

__all__ = ["reconstruct"]

FEW = 16  # images that tell whether errors need weights
HARMLESS = 0.5  # the share of the noise that counts, below which they do: 0.9 to 1.9 in blocks that are better without


def reconstruct(
    quantized_model: QuantizedModel,
    inputs: Tensor | Sequence[Tensor],
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
        inputs: calibration images as the network takes them, (N, C, H, W); of a network with several inputs, one tensor for each.
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
    ranks.same_state(quantized_model.module)
    work = list(_work(quantized_model, config))
    total = sum(block.iterations(config) for block in work)
    images = named_inputs(quantized_model.module, *([inputs] if isinstance(inputs, Tensor) else inputs))
    device = device_of(quantized_model.module, next(iter(images.values())))
    cache, store = cache or ActivationCache(device=device), store or WorkStore()
    alive_float = alive_quantized = {name: cache.gather([x], len(x)) for name, x in images.items()}
    del inputs, images  # twice as large as what is left
    results = []
    with progress.stage("reconstruct", max(1, total)) as task:
        for block in work:
            target = run_cached(block.float_block, alive_float, cache)
            known = store.restore(block.key, block.quantized_block.module)
            if known is None:
                result = _tune(block, Pair(alive_quantized, alive_float, target), cache, config, task)
                ranks.same_state(block.quantized_block.module)
                store.save(block.key, block.quantized_block.module, result.to_json())
            else:
                result = BlockResult.from_json(known)
                task.advance(block.iterations(config))
            results.append(result)
            if on_block is not None:
                on_block(block.index, result)
            # Before the next tensors are made, because three sets of them are the most at a time.
            alive_float = block.rest.alive(alive_float, target)
            given = run_cached(block.quantized_block, alive_quantized, cache)
            alive_quantized = block.rest.alive(alive_quantized, given)
    return results


@dataclass(frozen=True)
class _Block:
    """A block in float and quantized, the (float, quantized) units of it to optimize, what follows it in float.

    `low` says that something in it has fewer than 8 bits.
    """

    index: int
    float_block: Block
    quantized_block: Block
    units: list[tuple[Block, Block]]
    low: bool
    rest: Chain
    task: NetworkTask

    @property
    def key(self) -> str:
        return f"block-{self.index:04d}"

    def iterations(self, config: ReconstructConfig) -> int:
        return len(self.units) * config.iterations * (1 if config.joint else 2)


def _work(quantized_model: QuantizedModel, config: ReconstructConfig) -> Iterator[_Block]:
    network = quantized_model.require_float_model().module
    float_blocks = split(network, quantized_model.blocks)
    for index, (float_block, block) in enumerate(zip(float_blocks, quantized_model.split(), strict=True)):
        units = _units(float_block, block, config)
        low = any(is_low(module_of(block.module, node)) for node in block.module.graph.nodes)
        rest = compose(network, float_blocks[index + 1 :])
        yield _Block(index, float_block, block, units, low, rest, quantized_model.task)


def _tune(block: _Block, pair: Pair, cache: ActivationCache, config: ReconstructConfig, task: Task) -> BlockResult:
    """Fit a block where there is something to gain, and keep that if it is better than nearest rounding."""
    started = time.perf_counter()
    quantized = block.quantized_block
    sqnr = nearest = output_sqnr(quantized, pair.x_quantized, pair.target)
    kept = "skipped"
    losses: tuple[Curve, ...] = ()
    weight = None
    if block.iterations(config) and (block.low or not nearest >= config.tune_below):
        before = {name: value.clone() for name, value in quantized.module.state_dict().items()}
        weight = _weights(block, pair, cache, config)
        nearest = output_sqnr(quantized, pair.x_quantized, pair.target, weight)
        seed = config.seed * 1_000_003 + block.index * 1_009  # whatever the blocks before it drew
        losses = _fit(block, replace(pair, weight=weight), cache, replace(config, seed=seed), task)
        sqnr, kept = output_sqnr(quantized, pair.x_quantized, pair.target, weight), "learned"
        if not sqnr >= nearest:  # NaN is no better either
            quantized.module.load_state_dict(before)
            sqnr, kept = nearest, "nearest"
    elif block.iterations(config):
        task.advance(block.iterations(config))  # the total has them
    if kept != "learned" and config.correct_bias:
        sqnr = correct_bias(block.float_block, quantized, pair, sqnr)
    graph = quantized.module
    layers = tuple(n.name for n in graph.graph.nodes if isinstance(module_of(graph, n), QuantLayer))
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
        weighted=weight is not None,
    )


def _weights(block: _Block, pair: Pair, cache: ActivationCache, config: ReconstructConfig) -> dict[str, Tensor] | None:
    """What errors of the block's outputs count by; None where all count the same."""
    if config.fisher == "off":
        return None
    if config.fisher == "auto":
        few, alive, target = (
            {name: x[:FEW] for name, x in tensors.items()} for tensors in (pair.x_quantized, pair.x_float, pair.target)
        )
        weights = fisher_weights(block.rest, target, alive, ActivationCache(), block.task)
        counts = share_that_counts(target, run_cached(block.quantized_block, few, ActivationCache()), weights)
        if ranks.by_first(lambda: counts) >= HARMLESS:
            return None
    return fisher_weights(block.rest, pair.target, pair.x_float, cache, block.task)


def _fit(
    block: _Block, whole: Pair, cache: ActivationCache, config: ReconstructConfig, task: Task
) -> tuple[Curve, ...]:
    """Fit a block, or one after the other the layers in it; return a curve for each descent."""
    curves: list[Curve] = []
    for number, (float_unit, unit) in enumerate(block.units):
        pair = whole
        if unit is not block.quantized_block:
            x_float = _input_of(block.float_block, float_unit, whole.x_float, cache)
            x_quantized = _input_of(block.quantized_block, unit, whole.x_quantized, cache)
            pair = Pair(x_quantized, x_float, run_cached(float_unit, x_float, cache))
        curves += optimize(unit, pair, replace(config, seed=config.seed + number), task)
    return tuple(curves)


def _units(float_block: Block, block: Block, config: ReconstructConfig) -> list[tuple[Block, Block]]:
    """Return (float, quantized) graphs to optimize one after the other; none where nothing can be gained.

    Layers are, where that is asked for and each reads and gives rows that belong to one image; else the block is.
    """
    graph, float_graph = block.module, float_block.module
    learnable = [n for n in graph.graph.nodes if learns(module_of(graph, n))]
    if not learnable:
        return []
    layers = [n for n in learnable if isinstance(module_of(graph, n), QuantLayer)]
    if config.unit == "block" or not all(rows_of(n) and rows_of(sole_input(n)) for n in layers):
        return [(float_block, block)]
    floats = {n.name: n for n in float_graph.graph.nodes}
    return [
        (
            extract(float_graph, _layer_and_activation(float_graph, floats[node.name])),
            extract(graph, _layer_and_activation(graph, node)),
        )
        for node in layers
    ]


def _layer_and_activation(graph: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    nodes = [node]
    while len(nodes[-1].users) == 1:
        (user,) = nodes[-1].users
        if not (foldable(graph, user) or isinstance(module_of(graph, user), Quantizer)):
            break
        nodes.append(user)
    return nodes


def _input_of(block: Block, unit: Block, alive: Mapping[str, Tensor], cache: ActivationCache) -> dict[str, Tensor]:
    """Run a block and return what flows into `unit`, a layer in it."""
    first = next(n.name for n in unit.module.graph.nodes if n.op == "call_module")
    layer = next(n for n in block.module.graph.nodes if n.name == first)
    return {unit.inputs[0]: capture(block, sole_input(layer), alive, cache)}
