"""What the channels of a network are worth and what they cost: all that a choice for a budget needs."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ptq.config.budgets import Budget
from ptq.config.choices import Allocation, Score
from ptq.errors import InputError
from ptq.graph.preparation import GraphModel
from ptq.pruning.coupling.channel_map import ChannelMap
from ptq.pruning.coupling.channels import find_channels
from ptq.pruning.coupling.groups import Group, find_groups
from ptq.pruning.selection.allocation import allocate, keep_best
from ptq.pruning.selection.costs import Costs, find_costs
from ptq.pruning.selection.scores import SCORES, WITH_GRADIENTS

__all__ = ["Ranking", "check_images", "check_score", "rank", "unranked"]


@dataclass(frozen=True)
class Ranking:
    """The channels of a network, ranked; budgets of any size are met from it.

    Args:
        channels: the coupled channels.
        groups: those that can be removed.
        costs: of the layers, as a function of what the groups keep.
        scores: of every coupled channel, what is lost without it, float64 (channels.count,).
    """

    channels: ChannelMap
    groups: tuple[Group, ...]
    costs: Costs
    scores: Tensor

    def choose(self, budget: Budget, granule: int, allocation: Allocation) -> tuple[Tensor, Tensor]:
        """Return how many coupled channels each group keeps, and whether each of them stays, bool (channels.count,).

        Raises:
            InputError: for a budget that cannot be met.
        """
        counts = allocate(self.groups, self.scores, self.costs, budget, granule, allocation)
        return counts, keep_best(self.groups, self.scores, counts, self.channels.count)

    def most(self, granule: int) -> float:
        """Return how many times fewer multiply-accumulates there can be."""
        least = torch.tensor([group.sizes(granule)[0] for group in self.groups])
        return 1 / float(self.costs.share(least, Budget("macs", 1.0)))


def unranked(graph_model: GraphModel) -> Ranking:
    """Find the channels of a network that can be removed, all of them worth the same: what can be met needs no images.

    Raises:
        InputError: for a network that has no channels to remove.

    Example:
        >>> unranked(graph_model).most(granule=2) > 1.5
        True
    """
    channels = find_channels(graph_model)
    groups = find_groups(channels)
    if not groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in channels.fixed.items())
        raise InputError(f"the network has no channels that can be removed ({reasons or 'it has no layers'}).")
    scores = torch.zeros(channels.count, dtype=torch.float64)
    return Ranking(channels, groups, find_costs(graph_model, channels, groups), scores)


def rank(graph_model: GraphModel, images: Tensor, score: Score) -> Ranking:
    """Find the channels of a network that can be removed, and what they are worth on images.

    Args:
        graph_model: as `ptq.prepare` gives it.
        images: as the network takes them, (N, C, H, W), on its device.
        score: what a channel is worth.

    Raises:
        InputError: without images, for images of another shape, for a score that the network cannot have, and for a network that has no
            channels to remove.

    Example:
        >>> from ptq.config.budgets import Budget
        >>> ranking = rank(graph_model, images, "l1")
        >>> counts, kept = ranking.choose(Budget("macs", 0.5), 4, "uniform")
        >>> len(kept) == ranking.channels.count
        True
    """
    check_images(graph_model, images)
    check_score(graph_model, score)
    found = unranked(graph_model)
    return replace(found, scores=SCORES[score](graph_model, found.channels, images))


def check_score(graph_model: GraphModel, score: Score) -> None:
    """Refuse a score that asks for gradients of a network that has none.

    Raises:
        InputError: for such a score.
    """
    if score in WITH_GRADIENTS and not graph_model.task.learnable:
        raise InputError(
            f"the network gives whole numbers alone, which have no gradients, and the score {score!r} needs them: take another, "
            "--set pruning.score=reconstruction, or leave out what makes them (argmax)."
        )


def check_images(graph_model: GraphModel, images: Tensor) -> None:
    """Refuse images that a network does not take, and ones that are no numbers.

    Raises:
        InputError: for these, and for none.
    """
    if len(images) < 1:
        raise InputError("pruning needs images to see what channels are worth: give at least one.")
    if not images.is_floating_point() or tuple(images.shape[1:]) != graph_model.input_shape:
        wanted = ", ".join(map(str, graph_model.input_shape))
        raise InputError(
            f"pruning needs images as the network takes them, normalized floats of shape (N, {wanted}), not "
            f"{str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}."
        )
    if not bool(images.isfinite().all()):
        raise InputError("pruning needs images of numbers: some are NaN or infinite.")
