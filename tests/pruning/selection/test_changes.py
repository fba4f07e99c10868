"""What the loss changes to first order is what it changes, and sums of images say the same."""

import pytest
import torch
from torch import Tensor, nn

from ptq.graph.preparation import GraphModel, prepare
from ptq.pruning.coupling.channels import find_channels
from ptq.pruning.coupling.groups import find_groups
from ptq.pruning.selection import changes as subject
from ptq.pruning.selection.changes import TEMPERATURE, exchanges, growth, rows_of_exchanges
from ptq.pruning.selection.reading import Reading, readings
from tests.helpers.networks import SHAPE, build, images


def one_reading(network: str = "resnet", reader: str = "blocks_0_conv2") -> tuple[GraphModel, Reading, Tensor]:
    """A network, what one layer of it reads, and images."""
    graph_model, x = prepare(build(network), SHAPE), images(12)
    channels = find_channels(graph_model)
    found = readings(graph_model, channels, find_groups(channels), x)
    return graph_model, next(one for _, several in found for one in several if one.name == reader), x


@pytest.mark.parametrize(("gone", "stands_in"), [(2, 2), (2, 5), (5, 2)])
def test_an_exchange_is_the_derivative_of_the_loss(gone: int, stands_in: int) -> None:
    graph_model, reading, x = one_reading()
    amount, mean = torch.zeros((), requires_grad=True), reading.mean.float()

    def more(layer: nn.Module, given: tuple[Tensor]) -> Tensor:
        brought = (given[0][:, stands_in] - mean[stands_in]) * amount
        return given[0] + brought.unsqueeze(1) * (torch.arange(8) == gone).float().reshape(1, 8, 1, 1)

    hook = reading.layer.register_forward_pre_hook(more)
    loss = graph_model.task.surprise(graph_model.module(x), torch.Generator().manual_seed(0), TEMPERATURE)
    (wanted,) = torch.autograd.grad(loss, amount)
    hook.remove()
    (found,) = exchanges(graph_model, [reading], x)
    assert found.shape == (8, 8, 12)
    assert torch.allclose(found[gone, stands_in].sum(), wanted, rtol=1e-3, atol=1e-6)


def test_sums_of_images_say_what_all_of_them_say(monkeypatch: pytest.MonkeyPatch) -> None:
    graph_model, reading, _ = one_reading()
    (every,) = exchanges(graph_model, [reading], images(200))
    monkeypatch.setattr(subject, "LARGEST", 8**2 * 100)
    (sums,) = exchanges(graph_model, [reading], images(200))
    assert sums.shape == (8, 8, 100) and rows_of_exchanges(8, 200) == 100
    share = growth(sums.flatten(0, 1).T).sum() / growth(every.flatten(0, 1).T).sum()
    assert 0.8 < float(share) < 1.25
