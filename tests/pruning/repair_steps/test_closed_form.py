"""Repair in closed form: exact where nothing was lost, better on images it has not seen, and never for unchanged layers."""

from pathlib import Path

import pytest
import torch
from torch import fx, nn

from ptq.config.budgets import parse_budget
from ptq.graph.preparation import GraphModel, prepare
from ptq.pruning.removal import remove
from ptq.pruning.repair_steps.closed_form import fit_layers
from ptq.pruning.repair_steps.least_squares import fit, moments, samples
from ptq.pruning.repair_steps.side_by_side import Survivors
from ptq.pruning.selection.ranking import rank
from ptq.utils.activation_cache import ActivationCache
from tests.conftest import Digits
from tests.helpers.branching_networks import BRANCHING, branching
from tests.helpers.networks import NETWORKS, SHAPE, build, images
from tests.helpers.pruning import nearness, random_survivors, survivors_without


def repaired(graph_model: GraphModel, survivors: Survivors, x: torch.Tensor, limit: int = 1 << 30) -> fx.GraphModule:
    pruned = remove(graph_model, survivors.channels, survivors.kept).module
    fit_layers(graph_model.module, pruned, survivors, x, ActivationCache(limit))
    return pruned


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
    survivors = survivors_without(graph_model, "_0", slice(4, None))
    unseen = images(8, seed=5)
    bare = remove(graph_model, survivors.channels, survivors.kept).module
    assert nearness(graph_model.module, bare, unseen) < 20
    assert nearness(graph_model.module, repaired(graph_model, survivors, images(16)), unseen) > 90


@pytest.mark.parametrize("allocation", ["uniform", "loss-per-cost"])
def test_the_error_falls_on_images_it_has_not_seen(digits: Digits, allocation: str) -> None:
    graph_model = prepare(digits.model, SHAPE)
    seen, unseen = digits.inputs(digits.train_images[:64]), digits.inputs(digits.images[:200])
    ranking = rank(graph_model, seen, "reconstruction")
    _, kept = ranking.choose(parse_budget("2x"), 2, allocation)  # type: ignore[arg-type]
    survivors = Survivors(ranking.channels, kept)
    bare = remove(graph_model, ranking.channels, kept).module
    before = nearness(graph_model.module, bare, unseen)
    assert nearness(graph_model.module, repaired(graph_model, survivors, seen), unseen) > before + 3


@pytest.mark.parametrize("name", [*NETWORKS, *BRANCHING])
def test_it_runs_on_every_kind_of_network_and_helps(name: str) -> None:
    graph_model = prepare(build(name) if name in NETWORKS else branching(name), SHAPE)
    survivors, x = random_survivors(graph_model, 1), images(32)
    bare = remove(graph_model, survivors.channels, survivors.kept).module
    fitted = repaired(graph_model, survivors, x)
    assert nearness(graph_model.module, fitted, x) > nearness(graph_model.module, bare, x)


def test_a_network_from_which_nothing_went_stays_as_it_is() -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    same = repaired(graph_model, survivors_without(graph_model, "stem_0", slice(0, 0)), images(4))
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), graph_model.module.parameters(), strict=True))


def test_activations_on_disk_give_the_same_weights(tmp_path: Path) -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    survivors, x = random_survivors(graph_model, 1), images(20)
    in_memory, on_disk = (repaired(graph_model, survivors, x, limit) for limit in (1 << 30, 0))
    assert all(torch.equal(a, b) for a, b in zip(in_memory.parameters(), on_disk.parameters(), strict=True))


def test_without_samples_to_speak_of_the_matrix_stays() -> None:
    matrix, noise = torch.randn(1, 2, 30), torch.randn(1, 2, 20)
    x = torch.randn(1, 30, 20)
    known, apart = (moments(x[..., part], noise[..., part]) for part in (slice(0, 10), slice(10, 20)))
    fitted, _ = fit(known, apart, torch.zeros_like(matrix))
    assert fitted.abs().max() < 0.5


@pytest.mark.parametrize(("inputs", "count"), [(20, 8), (6, 40), (5, 1)])
def test_samples_give_what_their_moments_give(inputs: int, count: int) -> None:
    torch.manual_seed(0)
    first, second, apart = [(torch.randn(2, inputs, count), torch.randn(2, 3, count)) for _ in range(3)]
    matrix = torch.randn(2, 3, inputs)
    summed = fit(moments(*first) + moments(*second), moments(*apart), matrix)
    alone = fit(samples(*first) + samples(*second), samples(*apart), matrix)
    for ours, theirs in zip(summed, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_layer_of_many_inputs_behind_a_flatten_is_fitted_from_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptq.pruning.repair_steps.closed_form.moments", None)  # gigabytes, and minutes
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 256, 8))
    graph_model = prepare(net.eval(), SHAPE)
    survivors, x = survivors_without(graph_model, "_0", slice(32, None)), images(24)
    bare = remove(graph_model, survivors.channels, survivors.kept).module
    fitted = repaired(graph_model, survivors, x)
    assert nearness(graph_model.module, fitted, x) > nearness(graph_model.module, bare, x) + 1
