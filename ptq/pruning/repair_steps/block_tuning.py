"""Repair block by block: all weights and biases of a block are tuned until it gives what the original's block gave.

A block reads what the pruned blocks before it give, so that it makes their errors good, too.
"""

import torch
from torch import Tensor, fx

from ptq.graph.fx_helpers import LAYERS, module_of
from ptq.graph.passes import device_of, rows_at
from ptq.progress import SILENT, Progress, Task
from ptq.pruning.config import PruneConfig
from ptq.pruning.repair_steps.side_by_side import BlockPair, Survivors, block_pairs
from ptq.pruning.repair_steps.trainable import Trainable
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.schedules import cosine

__all__ = ["tune_blocks"]

FEW = 16  # images that say what numbers vary by
TINY = 1e-20


def tune_blocks(
    original: fx.GraphModule,
    pruned: fx.GraphModule,
    survivors: Survivors,
    images: Tensor,
    held_out: int,
    config: PruneConfig,
    cache: ActivationCache,
    *,
    progress: Progress = SILENT,
) -> None:
    """Tune the blocks of a pruned network one after the other, in place.

    Args:
        original: the network before.
        pruned: what is left of it.
        survivors: what stayed.
        images: as the network takes them, (N, C, H, W).
        held_out: so many of the last ones are not learned from; a block stays as it was unless it comes nearer on them.
        config: `block_iterations` with `batch` images each, `lr_blocks`, `seed`.
        cache: keeps activations between blocks.
        progress: told of every iteration.
    """
    changed = survivors.changed(pruned)

    def layers_of(graph: fx.GraphModule) -> list[str]:
        """Those that changed; a tensor that a block reads may have the name of a layer, too."""
        return [n.name for n in graph.graph.nodes if n.name in changed and isinstance(module_of(graph, n), LAYERS)]

    with progress.stage("tune blocks", len(layers_of(pruned)) * config.block_iterations) as task:
        for index, pair in enumerate(block_pairs(original, pruned, survivors, images, cache)):
            if names := layers_of(pair.pruned.module):
                _tune(pair, names, len(images) - held_out, config, config.seed * 1_000_003 + index, task)


def _tune(pair: BlockPair, names: list[str], training: int, config: PruneConfig, seed: int, task: Task) -> None:
    block, count = pair.pruned, len(next(iter(pair.reads_pruned.values())))
    device = device_of(block.module, next(iter(pair.reads_pruned.values())))
    few, apart = torch.arange(min(FEW, training)), torch.arange(training, count)
    trainable = Trainable(block.module, names, _inputs(pair, few, device))
    size = {name: float(y.square().mean()) for name, y in pair.target(few).items() if y.is_floating_point()}
    if not size:
        return  # whole numbers have no gradients

    def error(index: Tensor) -> Tensor:
        given = block.named(trainable(*_inputs(pair, index, device)))
        wanted = pair.target(index)
        parts = [(wanted[name] - given[name]).square().mean() / max(size[name], TINY) for name in size]
        return torch.stack(parts).sum()

    def judged() -> float:
        with torch.no_grad():
            return sum(float(error(index)) * len(index) for index in apart.split(FEW))

    before = judged()
    optimizer = torch.optim.Adam(trainable.moves, lr=config.lr_blocks)
    generator = torch.Generator().manual_seed(seed)
    for iteration in range(config.block_iterations):
        optimizer.param_groups[0]["lr"] = config.lr_blocks * cosine(iteration / config.block_iterations)
        with torch.enable_grad():
            loss = error(torch.randint(training, (min(config.batch, training),), generator=generator))
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        task.advance(len(names))
    if judged() < before:  # NaN is no better either
        trainable.commit()


def _inputs(pair: BlockPair, index: Tensor, device: torch.device) -> list[Tensor]:
    """What the pruned block reads for some images.

    Not in channels-last order, in which it is cached: oneDNN then writes past the end of memory in the backward pass of
    1x1 convolutions with stride 2 and, for one, 6 input channels (torch 2.14). No trained network has those, a pruned one may.
    """
    return [rows_at(pair.reads_pruned[name], index, device).contiguous() for name in pair.pruned.inputs]
