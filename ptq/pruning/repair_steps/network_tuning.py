"""Repair of the whole network: it learns what the original makes of views of images, as both see the same ones.

Blocks are fitted one by one; what their errors make together, no block sees. Images are few, so no view is shown twice: they
are flipped, shifted, and pasted into one another (MixMix; CutMix, Yun et al., ICCV 2019). The original says what it makes of a
view, so that no label is needed, and a view may be far from an image.

features   of a classifier (`ptq.graph.features`): a view has thousands of them, and a synthesized one is not sure of these
outputs    class scores softened by a temperature (Hinton et al., 2015): a trained network is so sure that the other classes would
           hardly count
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from ptq.data.views import mixed_views
from ptq.distillation.learning import learn
from ptq.graph.features import giving
from ptq.graph.fx_helpers import LAYERS, module_of
from ptq.graph.passes import device_of
from ptq.progress import SILENT, Progress
from ptq.pruning.config import PruneConfig
from ptq.pruning.repair_steps.side_by_side import Survivors
from ptq.pruning.repair_steps.trainable import Trainable
from ptq.tasks.outputs import Output
from ptq.tasks.task import Task

__all__ = ["tune_features", "tune_outputs"]

FEW = 64  # images that say what numbers vary by
BATCH = 16  # images at a time where nothing is learned
LOOKS = 8  # how often the images apart are looked at
TINY = 1e-12


def tune_features(
    original: fx.GraphModule,
    pruned: fx.GraphModule,
    features: Sequence[fx.Node],
    survivors: Survivors,
    images: Tensor,
    apart: Tensor,
    config: PruneConfig,
    *,
    progress: Progress = SILENT,
) -> None:
    """Tune the weights and biases of all but the last layers to the original's features, in place.

    Args:
        original: the network before.
        pruned: what is left of it, on the same device.
        features: nodes of the original.
        survivors: what stayed.
        images, apart, progress: as for `tune_outputs`.
        config: `feature_iterations` (a number), and what `tune_outputs` takes of it.
    """
    names = {node.name for node in features}
    before, after = giving(original, features), giving(pruned, [n for n in pruned.graph.nodes if n.name in names])

    def loss_of(given: Output, wanted: Output) -> Tensor:
        pairs = [(given[node.name], survivors.of(node, wanted[node.name])) for node in features]
        return torch.stack(
            [(ours - theirs).square().mean() / theirs.var().clamp(min=TINY) for ours, theirs in pairs]
        ).sum()

    _tune(before, after, loss_of, images, apart, config, config.feature_iterations, progress, "learn features")


def tune_outputs(
    original: fx.GraphModule,
    pruned: fx.GraphModule,
    images: Tensor,
    apart: Tensor,
    task: Task,
    config: PruneConfig,
    *,
    progress: Progress = SILENT,
) -> None:
    """Tune all weights and biases of a pruned network to the original's outputs, in place.

    Args:
        original: the network before.
        pruned: what is left of it, on the same device.
        images: to learn from, as the network takes them, (N, C, H, W).
        apart: not learned from; of what was learned, that stays which is nearest to the original on them.
        task: says what counts in outputs (`Task.loss`).
        config: `network_iterations` (a number) with `batch` images each, `lr_network`, `temperature`, `seed`.
        progress: told of every iteration.
    """

    def loss_of(given: Output, wanted: Output) -> Tensor:
        return task.loss(given, wanted, config.temperature)

    _tune(original, pruned, loss_of, images, apart, config, config.network_iterations, progress, "learn outputs")


def _tune(
    original: fx.GraphModule,
    pruned: fx.GraphModule,
    loss_of: Callable[[Output, Output], Tensor],
    images: Tensor,
    apart: Tensor,
    config: PruneConfig,
    iterations: int | None,
    progress: Progress,
    stage: str,
) -> None:
    assert iterations is not None
    device = device_of(pruned, images)
    layers = [node.name for node in pruned.graph.nodes if isinstance(module_of(pruned, node), LAYERS)]
    trainable = Trainable(pruned, layers, [images[:FEW].to(device)])

    @torch.no_grad()
    def judged() -> float:
        parts = [part.to(device) for part in apart.split(BATCH)]
        return sum(float(loss_of(trainable(x), original(x))) * len(x) for x in parts)

    best, least = trainable.state(), judged()
    optimizer = torch.optim.AdamW(trainable.moves, lr=config.lr_network, weight_decay=0.0)
    generator = torch.Generator().manual_seed(config.seed)
    every = max(1, iterations // LOOKS)

    def views() -> list[Tensor]:
        index = torch.randint(len(images), (min(config.batch, len(images)),), generator=generator)
        return [mixed_views(images[index], generator).to(device)]

    # In float32: a step is small beside the weight that it is added to.
    descent = learn(trainable, original, views, loss_of, optimizer, iterations, autocast=False)
    with progress.stage(stage, iterations) as task:
        for iteration, loss in enumerate(descent, 1):
            if iteration % every == 0 or iteration == iterations:
                if (now := judged()) < least:
                    best, least = {name: value.detach() for name, value in trainable.state().items()}, now
                task.advance(loss=float(loss))
            else:
                task.advance()
    trainable.commit(best)
