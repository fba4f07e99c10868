"""Pruning a network from Python: what it is given."""

import pytest
import torch
from torch import Tensor

import ptq
from ptq.graph.preparation import prepare
from ptq.pruning.selection.ranking import rank
from tests.helpers.networks import SHAPE, build, images

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


@pytest.mark.parametrize("budget", [1.5, "1.5", "3ms", "", None])
def test_a_budget_that_is_none_is_refused(budget: object) -> None:
    with pytest.raises(ptq.InputError):
        ptq.PruneConfig(budget)  # type: ignore[arg-type]
