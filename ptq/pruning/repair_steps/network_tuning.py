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
from ptq.graph.fx_helpers import LAYERS, module_of
from ptq.graph.passes import device_of
from ptq.progress import SILENT, Progress
from ptq.pruning.config import PruneConfig
from ptq.pruning.repair_steps.side_by_side import Survivors
from ptq.pruning.repair_steps.trainable import Trainable
from ptq.tasks.outputs import Output

__all__ = ["feature_loss", "tune_network"]

FEW = 64  # images that say what numbers vary by
BATCH = 16  # images at a time where nothing is learned
LOOKS = 8  # how often the images apart are looked at
TINY = 1e-12


Loss = Callable[[Output, Output], Tensor]
"""Between what the pruned network gives and what the original gives."""


def feature_loss(features: Sequence[fx.Node], survivors: Survivors) -> Loss:
    """Return the loss between features: the mean squared error of those that stayed, as a share of their variance.

    Args:
        features: nodes of the original.
        survivors: what stayed.
    """

    def loss_of(given: Output, wanted: Output) -> Tensor:
        pairs = [(given[node.name], survivors.of(node, wanted[node.name])) for node in features]
        errors = [(ours - theirs).square().mean() / theirs.var().clamp(min=TINY) for ours, theirs in pairs]
        return torch.stack(errors).sum()

    return loss_of


def tune_network(
    original: fx.GraphModule,
    pruned: fx.GraphModule,
    loss_of: Loss,
    iterations: int | None,
    images: Tensor,
    apart: Tensor,
    config: PruneConfig,
    *,
    stage: str,
    progress: Progress = SILENT,
) -> bool:
    """Tune all weights and biases of a pruned network to what the original gives, in place; return whether it came nearer on the images apart.

    Args:
        original: the network before, or the part of it that gives what is learned.
        pruned: what is left of it, on the same device.
        loss_of: what is learned.
        iterations: a number, as `PruneConfig.for_images` gives it.
        images: to learn from, as the network takes them, (N, C, H, W).
        apart: not learned from; of what was learned, that stays which is nearest to the original on them.
        config: as `PruneConfig.for_images` gives it: `batch` images in an iteration, `lr_network`, `seed`.
        stage: what progress calls it.
        progress: told of every iteration.
    """
    assert iterations is not None and config.lr_network is not None
    device = device_of(pruned, images)
    layers = [node.name for node in pruned.graph.nodes if isinstance(module_of(pruned, node), LAYERS)]
    trainable = Trainable(pruned, layers, [images[:FEW].to(device)])

    @torch.no_grad()
    def judged() -> float:
        parts = [part.to(device) for part in apart.split(BATCH)]
        return sum(float(loss_of(trainable(x), original(x))) * len(x) for x in parts)

    best, least = trainable.state(), (before := judged())
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
    return least < before
