"""Repair step by step: every step comes nearer or is taken back, and nothing is learned from the images it is judged by."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import ptq
from ptq.graph.preparation import prepare
from ptq.pruning.config import PruneConfig
from ptq.pruning.removal import remove
from ptq.pruning.repair import repair, split_images
from ptq.pruning.results import RepairStep
from tests.conftest import Digits
from tests.helpers.branching_networks import BRANCHING, branching
from tests.helpers.networks import NETWORKS, SHAPE, build, images
from tests.helpers.pruning import nearness, random_survivors

CONFIG = PruneConfig("2x", granule=2, block_iterations=20, network_iterations=40, batch=16)
SHORT = replace(CONFIG, block_iterations=2, network_iterations=2, batch=4)


def suffice(steps: Sequence[RepairStep]) -> bool:
    """Whether features were learned and brought a tenth or more."""
    names = [step.name for step in steps]
    at = names.index("features") if "features" in names else 0
    return at > 0 and steps[at].loss <= 0.9 * steps[at - 1].loss


def test_each_step_brings_something_on_images_that_none_has_seen(digits: Digits) -> None:
    graph_model = prepare(digits.model, SHAPE)
    seen, unseen = digits.inputs(digits.train_images[:64]), digits.inputs(digits.images[:200])
    pruned, result = ptq.prune(graph_model, seen, CONFIG)
    assert [step.name for step in result.steps] == ["removal", "closed form", "blocks", "features"]
    losses = [step.loss for step in result.steps]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.5 * losses[0]
    assert result.images == (56, 8)
    bare, _ = ptq.prune(graph_model, seen, replace(CONFIG, closed_form=False, block_iterations=0, network_iterations=0))
    assert nearness(graph_model.module, pruned.module, unseen) > nearness(graph_model.module, bare.module, unseen) + 3


@pytest.mark.parametrize("name", [*NETWORKS, *BRANCHING])
def test_all_steps_run_on_every_kind_of_network(name: str) -> None:
    graph_model = prepare(build(name) if name in NETWORKS else branching(name), SHAPE)
    survivors = random_survivors(graph_model, 1)
    pruned = remove(graph_model, survivors.channels, survivors.kept)
    fitted, steps = repair(graph_model, pruned, survivors, images(16), SHORT)
    classes = set(graph_model.task.kinds.values()) == {"classify"}
    steps_before = ["removal", "closed form", "blocks", *["features"] * classes]
    assert [step.name for step in steps] == [*steps_before, *["outputs"] * (not suffice(steps))]
    assert steps[-1].loss <= steps[0].loss
    assert torch.isfinite(torch.tensor(nearness(graph_model.module, fitted.module, images(4))))


@pytest.mark.parametrize(
    ("left_out", "names"),
    [
        ({"closed_form": False}, ["removal", "blocks", "features", "outputs"]),
        ({"block_iterations": 0}, ["removal", "closed form", "features", "outputs"]),
        ({"network_iterations": 0}, ["removal", "closed form", "blocks"]),
        ({"feature_iterations": 0}, ["removal", "closed form", "blocks", "outputs"]),
        ({"network_iterations": 0, "feature_iterations": 2}, ["removal", "closed form", "blocks", "features"]),
    ],
)
def test_a_step_can_be_left_out(left_out: dict[str, Any], names: list[str]) -> None:
    _, result = ptq.prune(prepare(build("resnet"), SHAPE), images(8), replace(SHORT, **left_out))
    assert [step.name for step in result.steps] == names


def test_outputs_are_learned_where_features_bring_nothing(digits: Digits) -> None:
    graph_model, x = prepare(digits.model, SHAPE), digits.inputs(digits.train_images[:32])
    for lr, count in ((None, 30), (1e4, 3)):
        plain = replace(CONFIG, closed_form=False, block_iterations=0, network_iterations=1)
        config = replace(plain, feature_iterations=count, lr_network=lr)
        steps = ptq.prune(graph_model, x, config)[1].steps
        assert ("outputs" in [step.name for step in steps]) == (lr == 1e4) == (not suffice(steps))


def test_whoever_asks_sees_the_network_after_every_step() -> None:
    graph_model, seen = prepare(build("resnet"), SHAPE), []
    pruned, result = ptq.prune(
        graph_model, images(8), SHORT, on_step=lambda step, network: seen.append((step, network(images(2))))
    )
    assert [step for step, _ in seen] == list(result.steps)
    assert torch.equal(seen[-1][1], pruned.module(images(2)))


def test_what_does_not_help_is_taken_back(digits: Digits) -> None:
    graph_model = prepare(digits.model, SHAPE)
    x = digits.inputs(digits.train_images[:32])
    gentle = replace(CONFIG, block_iterations=0, network_iterations=0)
    known, before = ptq.prune(graph_model, x, gentle)
    same, after = ptq.prune(graph_model, x, replace(gentle, network_iterations=3, lr_network=1e4))
    assert not after.steps[-1].kept and after.steps[-1].loss == before.steps[-1].loss
    assert all(torch.equal(a, b) for a, b in zip(known.module.parameters(), same.module.parameters(), strict=True))


def test_the_same_seed_gives_the_same_network() -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    first, second = (ptq.prune(graph_model, images(8), SHORT)[0].module for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_single_image_is_learned_from_and_judged_by() -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    assert ptq.prune(graph_model, images(1), SHORT)[1].images == (1, 1)
    assert [len(part) for part in split_images(images(3))] == [2, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 0},
        {"block_iterations": -1},
        {"network_iterations": -1},
        {"feature_iterations": -1},
        {"lr_blocks": 0.0},
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ptq.InputError):
        replace(CONFIG, **changes)  # type: ignore[arg-type]
