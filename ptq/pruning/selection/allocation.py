"""How many channels every group keeps, for a budget.

uniform         the same share of every group
global          the channels of the least score go first, wherever they are
loss-per-cost   the channels go first whose removal costs the least score for what it saves
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ptq.config.budgets import Budget
from ptq.config.choices import Allocation
from ptq.errors import InputError
from ptq.pruning.coupling.groups import Group
from ptq.pruning.selection.costs import Costs

__all__ = ["allocate", "keep_best"]


def allocate(
    groups: Sequence[Group], scores: Tensor, costs: Costs, budget: Budget, granule: int, allocation: Allocation
) -> Tensor:
    """Return how many coupled channels every group keeps, int64 (groups,).

    Args:
        scores: of every coupled channel, what is lost without it; those of a group add up.
        costs: of the same groups.
        budget: not exceeded; what is left of it is spent on channels that still fit.
        granule: kept channels come in multiples of it; no group keeps fewer.

    Raises:
        InputError: for a budget that cannot be met; it says what can.
    """
    sizes = [group.sizes(granule) for group in groups]
    least = float(costs.share(torch.tensor([s[0] for s in sizes]), budget))
    if not budget.met_by(least):
        raise InputError(
            f"{budget} cannot be met: with {granule} channels left in every group there are still "
            f"{Budget(budget.quantity, least).limit()}. Ask for no more than that, or for a smaller granule."
        )
    if allocation == "uniform":
        return _uniform(groups, sizes, costs, budget)
    losses = [_losses(group, scores, at) for group, at in zip(groups, sizes, strict=True)]
    return _greedy(sizes, losses, costs, budget, per_cost=allocation == "loss-per-cost")


def keep_best(groups: Sequence[Group], scores: Tensor, counts: Tensor, count: int) -> Tensor:
    """Return which of `count` coupled channels stay, bool (count,): of every group those of the largest scores."""
    kept = torch.ones(count, dtype=torch.bool)
    for group, size in zip(groups, counts.tolist(), strict=True):
        kept[group.ids[scores[group.ids].argsort(descending=True, stable=True)[size:]]] = False
    return kept


def _uniform(groups: Sequence[Group], sizes: list[list[int]], costs: Costs, budget: Budget) -> Tensor:
    """The largest share of all groups that the budget allows."""
    shares = sorted({size / len(group) for group, at in zip(groups, sizes, strict=True) for size in at}, reverse=True)
    for share in [*shares, 0.0]:
        fitting = [
            max((s for s in at if s <= share * len(group) + 1e-9), default=at[0])
            for group, at in zip(groups, sizes, strict=True)
        ]
        if budget.met_by(float(costs.share(torch.tensor(fitting), budget))):
            return torch.tensor(fitting)
    raise AssertionError("the least of all groups met the budget before")


def _losses(group: Group, scores: Tensor, sizes: list[int]) -> list[float]:
    """What is lost with each of the sizes: the sum of the least scores."""
    gone = torch.cat([torch.zeros(1).double(), scores[group.ids].sort().values.cumsum(0)])
    return [float(gone[len(group) - size]) for size in sizes]


def _greedy(
    sizes: list[list[int]], losses: list[list[float]], costs: Costs, budget: Budget, *, per_cost: bool
) -> Tensor:
    """Step by step the removal that is worth most; then what still fits comes back, the most valuable first."""
    at = [len(s) - 1 for s in sizes]

    def counts() -> Tensor:
        return torch.tensor([s[i] for s, i in zip(sizes, at, strict=True)])

    def steps(by: int) -> tuple[list[int], list[float]]:
        """The groups that can take a step, and what the network then costs."""
        movable = [g for g, i in enumerate(at) if 0 <= i + by < len(sizes[g])]
        rows = counts().repeat(len(movable), 1)
        for row, g in zip(rows, movable, strict=True):
            row[g] = sizes[g][at[g] + by]
        return movable, costs.share(rows, budget).tolist()

    def price(g: int, by: int, saved: float) -> float:
        """What is lost by a step of a group, for a unit of what it saves."""
        lost = abs(losses[g][at[g] + by] - losses[g][at[g]])
        return lost / max(saved if per_cost else abs(sizes[g][at[g] + by] - sizes[g][at[g]]), 1e-30)

    while not budget.met_by(cost := float(costs.share(counts(), budget))):
        movable, after = steps(-1)
        prices = {g: price(g, -1, abs(cost - share)) for g, share in zip(movable, after, strict=True)}
        at[min(prices, key=prices.__getitem__)] -= 1
    while True:
        cost = float(costs.share(counts(), budget))
        movable, after = steps(1)
        fitting = [(g, share) for g, share in zip(movable, after, strict=True) if budget.met_by(share)]
        if not fitting:
            return counts()
        prices = {g: price(g, 1, abs(cost - share)) for g, share in fitting}
        at[max(prices, key=prices.__getitem__)] += 1
