"""Networks compute the same in the layout that is fastest for them, whatever they are given."""

import pytest
import torch
from torch import Tensor, nn

from ptq.utils.memory_layout import use_fastest_layout


class Viewed(nn.Module):
    def __init__(self, five: bool) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 36, 2)
        self.factor = nn.Parameter(torch.ones((1,) * 5 if five else 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.conv(x).view(len(x), -1) * self.factor.view(1))
        return y


@pytest.mark.parametrize("five", [False, True])
@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last])
def test_a_network_with_a_view_runs_whatever_it_is_given(five: bool, given: torch.memory_format) -> None:
    torch.manual_seed(0)
    network, x = Viewed(five), torch.rand(2, 3, 6, 6)
    wanted = network(x)
    use_fastest_layout(network, x[:1])
    assert torch.allclose(network(x.contiguous(memory_format=given)), wanted, atol=1e-6)
    assert network.conv.weight.is_contiguous()


def test_others_compute_with_channels_last() -> None:
    network, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.rand(2, 3, 6, 6)
    wanted = network(x)
    use_fastest_layout(network, x[:1])
    found = network(x)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
