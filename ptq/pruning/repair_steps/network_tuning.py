"""Repair of the whole network: it learns what the original makes of views of images, as both see the same ones.

Blocks are fitted one by one; what their errors make together, no block sees. Images are few, so no view is shown twice: they
are flipped, shifted, and pasted into one another (MixMix; CutMix, Yun et al., ICCV 2019). The original says what it makes of a
view, so that no label is needed, and a view may be far from an image.

A classifier learns the original's features (`ptq.graph.features`), of which a view has thousands: with synthesized images that brings twice
as much as the predictions, which are sure of one class. Where there are none, it is the outputs; class scores among them are
softened by a temperature (Hinton et al., 2015).
"""

import torch
from torch import Tensor, fx

from ptq.data.views import mixed_views
from ptq.distillation.learning import learn
from ptq.graph.features import feature_nodes, giving
from ptq.graph.fx_helpers import LAYERS, module_of
from ptq.graph.passes import device_of
from ptq.progress import SILENT, Progress
from ptq.pruning.config import PruneConfig
from ptq.pruning.repair_steps.side_by_side import Survivors
from ptq.pruning.repair_steps.trainable import Trainable
from ptq.tasks.outputs import Output
from ptq.tasks.task import Task

__all__ = ["tune_network"]

FEW = 64  # images that say what numbers vary by
BATCH = 16  # images at a time where nothing is learned
LOOKS = 8  # how often the images apart are looked at
TINY = 1e-12


def tune_network(
    original: fx.GraphModule,
    pruned: fx.GraphModule,
    survivors: Survivors,
    images: Tensor,
    apart: Tensor,
    network_task: Task,
    config: PruneConfig,
    *,
    progress: Progress = SILENT,
) -> None:
    """Tune the weights and biases of a pruned network to what the original makes of images, in place.

    The last layers of a classifier stay as they are: they read what is learned.

    Args:
        original: the network before.
        pruned: what is left of it, on the same device.
        survivors: what stayed.
        images: to learn from, as the network takes them, (N, C, H, W).
        apart: not learned from; of what was learned, that stays which is nearest to the original on them.
        network_task: says whether there are features, and what counts in outputs (`Task.loss`).
        config: `network_iterations` (a number) with `batch` images each, `lr_network`, `temperature`, `seed`.
        progress: told of every iteration.
    """
    device, iterations = device_of(pruned, images), config.network_iterations
    assert iterations is not None
    features = feature_nodes(original, network_task)
    if features:
        names = [node.name for node in features]
        original, pruned = (
            giving(original, features),
            giving(pruned, [n for n in pruned.graph.nodes if n.name in names]),
        )
    layers = [node.name for node in pruned.graph.nodes if isinstance(module_of(pruned, node), LAYERS)]
    trainable = Trainable(pruned, layers, [images[:FEW].to(device)])

    def loss_of(given: Output, wanted: Output) -> Tensor:
        if not features:
            return network_task.loss(given, wanted, config.temperature)
        pairs = [(given[node.name], survivors.of(node, wanted[node.name])) for node in features]
        return torch.stack(
            [(ours - theirs).square().mean() / theirs.var().clamp(min=TINY) for ours, theirs in pairs]
        ).sum()

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
    with progress.stage("tune network", iterations) as task:
        for iteration, loss in enumerate(descent, 1):
            if iteration % every == 0 or iteration == iterations:
                if (now := judged()) < least:
                    best, least = {name: value.detach() for name, value in trainable.state().items()}, now
                task.advance(loss=float(loss))
            else:
                task.advance()
    trainable.commit(best)
