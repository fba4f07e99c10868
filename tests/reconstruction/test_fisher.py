"""What an error costs: squared gradients, on one scale for every image."""

import pytest
import torch
from torch import Tensor, fx, nn

from ptq.graph.blocks import Block, Chain, compose, named_inputs, split
from ptq.graph.cutting import assign_blocks
from ptq.reconstruction.fisher import fisher_weights
from ptq.tasks.task import Task
from ptq.utils.activation_cache import ActivationCache
from tests.helpers.branching_networks import two_heads
from tests.helpers.networks import images

CLASSIFIER, GENERIC = Task({"output": "classify"}, 5), Task({"output": "generic"})


def chain_of(network: nn.Module) -> Chain:
    """A network as what follows a block whose output is "x"."""
    graph = fx.symbolic_trace(network)
    return Chain([Block(graph, ("x",), ("y",))], Block(fx.symbolic_trace(nn.Identity()), ("y",), ()))


def test_weights_are_squared_gradients_on_one_scale_for_every_image() -> None:
    torch.manual_seed(0)
    rest = nn.Sequential(nn.Flatten(), nn.Linear(8, 5))
    x = torch.randn(6, 2, 2, 2) * torch.tensor([0.1, 1, 1, 1, 1, 30.0]).reshape(-1, 1, 1, 1)
    weight = fisher_weights(chain_of(rest), {"x": x}, {}, ActivationCache(), CLASSIFIER)["x"]
    torch.testing.assert_close(weight.mean((1, 2, 3)), torch.ones(6))
    for image, row in zip(x, weight, strict=True):
        leaf = image[None].clone().requires_grad_()
        logits = rest(leaf)
        nn.functional.cross_entropy(logits, logits.argmax(1)).backward()
        assert leaf.grad is not None
        squared = leaf.grad[0].square()
        torch.testing.assert_close(row, squared / squared.mean(), rtol=1e-4, atol=1e-6)


def test_of_other_outputs_weights_are_the_gauss_newton_diagonal() -> None:
    """Squared gradients with random signs, averaged over many images that are all alike; the dense output is linear here."""
    torch.manual_seed(0)
    rest = nn.Conv2d(2, 3, 3, padding=1)
    x = torch.randn(1, 2, 4, 4)
    weight = fisher_weights(chain_of(rest), {"x": x.expand(4096, -1, -1, -1)}, {}, ActivationCache(), GENERIC)["x"]
    jacobian = torch.autograd.functional.jacobian(rest, x).reshape(-1, 32)
    wanted = jacobian.square().sum(0)
    wanted = (wanted / wanted.mean()).reshape(2, 4, 4)
    assert float((weight.mean(0) - wanted).norm() / wanted.norm()) < 0.1


@pytest.mark.parametrize("index", [0, 4])
def test_the_outputs_of_a_block_share_one_scale(index: int) -> None:
    graph_model, x = two_heads(), images(6)
    graph = graph_model.module
    blocks, alive = split(graph, assign_blocks(graph)), named_inputs(graph, x)
    before: dict[str, Tensor] = {}
    for i, block in enumerate(blocks[: index + 1]):
        before, target = alive, block(alive)
        alive = compose(graph, blocks[i + 1 :]).alive(before, target)
    weights = fisher_weights(compose(graph, blocks[index + 1 :]), target, before, ActivationCache(), graph_model.task)
    assert weights.keys() == target.keys()
    numbers = torch.cat([w.flatten(1) for w in weights.values()], 1)
    torch.testing.assert_close(numbers.mean(1), torch.ones(6))
    assert bool((numbers >= 0).all())
