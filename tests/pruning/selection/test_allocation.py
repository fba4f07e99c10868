"""Budgets: met, not exceeded, in steps of the granule, and refused where nothing meets them."""

from typing import get_args

import pytest
import torch

import ptq
from ptq.config.budgets import parse_budget
from ptq.config.choices import Allocation
from ptq.graph.preparation import GraphModel, prepare
from ptq.pruning.config import PruneConfig
from ptq.pruning.coupling.channels import find_channels
from ptq.pruning.coupling.groups import find_groups
from ptq.pruning.removal import remove
from ptq.pruning.selection.allocation import allocate, keep_best
from ptq.pruning.selection.costs import find_costs
from tests.helpers.networks import NETWORKS, SHAPE, build
from tests.helpers.pruning import random_choice


def macs(graph_model: GraphModel) -> int:
    """Multiply-accumulates, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        graph_model.module(graph_model.example())
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "densenet"])
def test_multiply_accumulates_are_those_that_torch_counts(name: str) -> None:
    graph_model = prepare(build(name), SHAPE)
    channels = find_channels(graph_model)
    groups = find_groups(channels)
    costs = find_costs(graph_model, channels, groups)
    kept = random_choice(channels.count, groups)
    counts = torch.tensor([int(kept[group.ids].sum()) for group in groups])
    pruned = remove(graph_model, channels, kept)
    assert int(costs.cost(costs.full, "macs")) == macs(graph_model)
    assert int(costs.cost(counts, "macs")) == macs(pruned)


@pytest.mark.parametrize("allocation", get_args(Allocation))
@pytest.mark.parametrize("budget", ["1x", "1.5x", "3x", "60%"])
def test_a_budget_is_met_in_steps(allocation: Allocation, budget: str) -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    channels = find_channels(graph_model)
    groups = find_groups(channels)
    costs = find_costs(graph_model, channels, groups)
    scores = torch.rand(channels.count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = allocate(groups, scores, costs, parse_budget(budget), 2, allocation)
    assert costs.share(counts, parse_budget(budget)) <= parse_budget(budget).share
    assert costs.share(counts, parse_budget(budget)) > 0.8 * parse_budget(budget).share
    assert all(count in group.sizes(2) for group, count in zip(groups, counts.tolist(), strict=True))
    kept = keep_best(groups, scores, counts, channels.count)
    for group in groups:
        stays = kept[group.ids]
        assert bool(stays.all()) or scores[group.ids][stays].min() >= scores[group.ids][~stays].max()


def test_a_budget_that_cannot_be_met_is_refused() -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    with pytest.raises(ptq.InputError):
        ptq.prune(graph_model, torch.randn(2, *SHAPE), PruneConfig("50x"))


@pytest.mark.parametrize("budget", ["0.5x", "x", "2", "0%", "120%", "nan%", "infx", ""])
def test_a_budget_that_says_nothing_is_refused(budget: str) -> None:
    with pytest.raises(ptq.InputError):
        PruneConfig(budget)


def test_a_network_without_channels_to_remove_is_refused() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 5))
    with pytest.raises(ptq.InputError):
        ptq.prune(prepare(net, SHAPE), torch.randn(2, *SHAPE))
