"""What a pruned network costs, told before it is made."""

import pytest
import torch

from ptq.config.budgets import Budget, parse_budget
from ptq.errors import InputError
from ptq.graph.preparation import prepare
from ptq.pruning.coupling.channels import find_channels
from ptq.pruning.coupling.groups import find_groups
from ptq.pruning.removal import remove
from ptq.pruning.selection.costs import find_costs
from ptq.pruning.selection.ranking import unranked
from tests.helpers.branching_networks import BRANCHING, branching
from tests.helpers.networks import NETWORKS, SHAPE, build, images
from tests.helpers.pruning import counted_costs, random_choice


@pytest.mark.parametrize("name", [*NETWORKS, *BRANCHING])
def test_costs_are_those_of_the_network_that_is_left(name: str) -> None:
    graph_model = prepare(build(name) if name in NETWORKS else branching(name), SHAPE)
    channels = find_channels(graph_model)
    groups = find_groups(channels)
    costs = find_costs(graph_model, channels, groups)
    for seed in range(3):
        kept = random_choice(channels.count, groups, seed)
        left = torch.tensor([int(kept[group.ids].sum()) for group in groups])
        told = tuple(round(float(costs.cost(left, quantity))) for quantity in ("macs", "parameters"))
        pruned = remove(graph_model, channels, kept).module
        assert told == counted_costs(pruned, images(1), all_biased=not bool(kept.all()))


@pytest.mark.parametrize("budget", [Budget("macs", 1e-9), Budget("parameters", 1e-9)])
@pytest.mark.parametrize("granule", [1, 2, 3, 8])
@pytest.mark.parametrize("name", ["resnet", "mobilenet", "shufflenet", "densenet"])
def test_a_refusal_says_what_can_be_met(name: str, granule: int, budget: Budget) -> None:
    ranking = unranked(prepare(build(name), SHAPE))
    with pytest.raises(InputError) as refusal:
        ranking.choose(budget, granule, "uniform")
    least = str(refusal.value).partition("there are still ")[2].partition(" ")[0]
    ranking.choose(parse_budget(least), granule, "loss-per-cost")
