"""Pruning a network from Python: what it is given."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

import ptq
from ptq.config.choices import Score
from ptq.graph.preparation import prepare
from ptq.pruning.selection.ranking import rank
from ptq.pruning.selection.scores import WITH_GRADIENTS
from tests.helpers.networks import SHAPE, build, images
from tests.helpers.pruning import counted_costs

WRONG = {
    "none": images(0),
    "of another size": torch.zeros(2, 3, 20, 20),
    "of other channels": torch.zeros(2, 4, 16, 16),
    "one alone": torch.zeros(3, 16, 16),
    "bytes": torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
    "NaN": torch.full((2, 3, 16, 16), torch.nan),
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG)
def test_images_that_the_network_does_not_take_are_refused(given: Tensor) -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    config = ptq.PruneConfig("1.2x", granule=2, block_iterations=0, network_iterations=0)
    ranking = rank(graph_model, images(2), "l1")
    for known in (None, ranking):
        with pytest.raises(ptq.InputError):
            ptq.prune(graph_model, given, config, ranking=known)


class Masks(nn.Module):
    """Class indices for every pixel, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x))))).argmax(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("score", get_args(Score))
def test_whole_numbers_have_no_gradients(score: Score) -> None:
    graph_model = prepare(Masks(), SHAPE)
    config = ptq.PruneConfig("1.2x", score=score, granule=2, block_iterations=2, network_iterations=2)
    if score in WITH_GRADIENTS:
        with pytest.raises(ptq.InputError):
            ptq.prune(graph_model, images(4), config)
    else:
        assert [step.name for step in ptq.prune(graph_model, images(4), config)[1].steps][-1] == "blocks"


@pytest.mark.parametrize("budget", ["2x", "50%"])
def test_a_budget_is_kept_with_the_biases_that_repair_adds(budget: str) -> None:
    graph_model = prepare(build("densenet"), SHAPE)
    for layer in graph_model.module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.bias = None
    config = ptq.PruneConfig(budget, granule=1, block_iterations=0, network_iterations=2)
    pruned, result = ptq.prune(graph_model, images(4), config)
    x = images(1)
    assert counted_costs(graph_model.module, x, all_biased=False) == (result.macs[0], result.parameters[0])
    assert counted_costs(pruned.module, x, all_biased=False) == (result.macs[1], result.parameters[1])
    before, after = result.macs if budget == "2x" else result.parameters
    assert 0.25 * before < after <= 0.5 * before


@pytest.mark.parametrize("budget", [1.5, "1.5", "3ms", "", None])
def test_a_budget_that_is_none_is_refused(budget: object) -> None:
    with pytest.raises(ptq.InputError):
        ptq.PruneConfig(budget)  # type: ignore[arg-type]
