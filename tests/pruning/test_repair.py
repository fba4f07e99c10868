"""Repair: exact where nothing was lost, better on images it has not seen, and never for unchanged layers."""

import pytest
import torch
from torch import nn

import ptq
from ptq.graph.preparation import prepare
from ptq.pruning.channels import find_channels
from ptq.pruning.config import PruneConfig
from ptq.pruning.groups import find_groups
from ptq.pruning.least_squares import fit, moments
from ptq.pruning.pruning import output_decibels
from ptq.pruning.removal import remove
from ptq.pruning.repair import repair
from tests.conftest import Digits
from tests.helpers.branching_networks import BRANCHING, branching
from tests.helpers.networks import NETWORKS, SHAPE, build, images
from tests.helpers.pruning import random_choice


def test_combinations_of_kept_channels_are_made_up_for_exactly() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1176, 5))
    first = net[0]
    assert isinstance(first, nn.Conv2d)
    mixing = torch.randn(4, 4)
    first.weight.data[4:] = torch.einsum("oi,ichw->ochw", mixing, first.weight.data[:4])
    assert first.bias is not None
    first.bias.data[4:] = mixing @ first.bias.data[:4]
    # A convolution pads with zeros, and so does what it reads: combinations hold at the border, too.
    graph_model = prepare(net.eval(), SHAPE)
    channels = find_channels(graph_model)
    kept = torch.ones(channels.count, dtype=torch.bool)
    kept[channels.of["_0"].ids[4:]] = False
    pruned = remove(graph_model, channels, kept)
    repaired = repair(graph_model, pruned, channels, kept, images(16))
    unseen = images(8, seed=5)
    assert output_decibels(graph_model, pruned, unseen) < 20
    assert output_decibels(graph_model, repaired, unseen) > 90


@pytest.mark.parametrize("allocation", ["uniform", "loss-per-cost"])
def test_repair_lowers_the_error_on_images_it_has_not_seen(digits: Digits, allocation: str) -> None:
    graph_model = prepare(digits.model, SHAPE)
    seen, unseen = digits.inputs(digits.train_images[:64]), digits.inputs(digits.images[:200])
    config = PruneConfig("2x", granule=2, allocation=allocation, repair=False)  # type: ignore[arg-type]
    bare, result = ptq.prune(graph_model, seen, config)
    assert result.repaired_db is None
    repaired, _ = ptq.prune(graph_model, seen, PruneConfig("2x", granule=2, allocation=allocation))  # type: ignore[arg-type]
    before, after = (output_decibels(graph_model, m, unseen) for m in (bare, repaired))
    assert after > before + 3


@pytest.mark.parametrize("name", [*NETWORKS, *BRANCHING])
def test_repair_runs_on_every_kind_of_network_and_helps(name: str) -> None:
    graph_model = prepare(build(name) if name in NETWORKS else branching(name), SHAPE)
    channels = find_channels(graph_model)
    kept = random_choice(channels.count, find_groups(channels), 1)
    pruned = remove(graph_model, channels, kept)
    repaired = repair(graph_model, pruned, channels, kept, images(32))
    assert output_decibels(graph_model, repaired, images(32)) > output_decibels(graph_model, pruned, images(32))


def test_a_network_from_which_nothing_went_stays_as_it_is() -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    channels = find_channels(graph_model)
    kept = torch.ones(channels.count, dtype=torch.bool)
    same = repair(graph_model, remove(graph_model, channels, kept), channels, kept, images(4))
    assert all(
        torch.equal(a, b) for a, b in zip(same.module.parameters(), graph_model.module.parameters(), strict=True)
    )


def test_without_samples_to_speak_of_the_matrix_stays() -> None:
    matrix, noise = torch.randn(1, 2, 30), torch.randn(1, 2, 20)
    x = torch.randn(1, 30, 20)
    known, apart = (moments(x[..., part], noise[..., part]) for part in (slice(0, 10), slice(10, 20)))
    fitted, _ = fit(known, apart, torch.zeros_like(matrix))
    assert fitted.abs().max() < 0.5
