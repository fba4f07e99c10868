"""What channels are worth: nothing where they do nothing, and in the order of what removing them does."""

import pytest
import torch

from ptq.graph.preparation import GraphModel, prepare
from ptq.pruning.coupling.channels import find_channels
from ptq.pruning.selection.scores import SCORES
from tests.conftest import Digits
from tests.helpers.branching_networks import BRANCHING, branching
from tests.helpers.networks import NETWORKS, SHAPE, build, images
from tests.helpers.pruning import without_readers


@pytest.mark.parametrize("name", [*NETWORKS, *BRANCHING])
@pytest.mark.parametrize("score", SCORES)
def test_scores_are_numbers_of_every_channel(name: str, score: str) -> None:
    graph_model = prepare(build(name) if name in NETWORKS else branching(name), SHAPE)
    channels = find_channels(graph_model)
    worth = SCORES[score](graph_model, channels, images(4))
    assert worth.shape == (channels.count,) and bool(worth.isfinite().all()) and worth.min() >= 0
    assert worth.max() > 0


@pytest.mark.parametrize("score", ["activation", "gradient", "reconstruction", "divergence"])
def test_a_channel_that_nobody_weighs_is_worth_nothing(score: str) -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    channels = find_channels(graph_model)
    kept = torch.ones(channels.count, dtype=torch.bool)
    kept[channels.of["stem_0"].ids[2]] = False
    worth = SCORES[score](without_readers(graph_model, channels, kept), channels, images(8))
    assert float(worth[~kept]) == 0 and bool((worth[channels.of["stem_0"].ids] > 0).sum() == 7)


@pytest.mark.parametrize("score", ["reconstruction", "divergence"])
def test_of_two_channels_that_can_replace_each_other_one_is_worth_little(score: str) -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    stem = graph_model.module.get_submodule("blocks.0.conv1")
    assert isinstance(stem.weight, torch.Tensor) and isinstance(stem.bias, torch.Tensor)
    stem.weight.data[3], stem.bias.data[3] = stem.weight.data[5], stem.bias.data[5]
    channels = find_channels(graph_model)
    ids = channels.of["blocks_0_conv1"].ids
    worth = SCORES[score](graph_model, channels, images(256))[ids]
    assert worth[[3, 5]].max() > 100 * worth[[3, 5]].min()


def test_the_gradient_tells_what_the_predictions_lose(digits: Digits) -> None:
    graph_model = prepare(digits.model, SHAPE)
    x = digits.inputs(digits.train_images[:64])
    channels = find_channels(graph_model)
    ids = channels.of["blocks_2_conv1"].ids
    worth = SCORES["gradient"](graph_model, channels, x)[ids]
    lost = torch.tensor([divergence(graph_model, i, x) for i in ids.tolist()])
    ranks = torch.stack([worth.argsort().argsort(), lost.argsort().argsort()]).double()
    assert torch.corrcoef(ranks)[0, 1] > 0.6


def divergence(graph_model: GraphModel, channel: int, x: torch.Tensor) -> float:
    channels = find_channels(graph_model)
    kept = torch.ones(channels.count, dtype=torch.bool)
    kept[channel] = False
    silent = without_readers(graph_model, channels, kept)
    return float(graph_model.task.loss(silent.module(x), graph_model.module(x)))
