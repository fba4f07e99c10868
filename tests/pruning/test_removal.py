"""Networks with channels removed: the same function where the channels count for nothing, smaller layers, other errors."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ptq
from ptq.graph.preparation import GraphModel, prepare
from ptq.pruning.coupling.channels import find_channels
from ptq.pruning.coupling.groups import find_groups
from ptq.pruning.removal import remove
from tests.helpers.branching_networks import BRANCHING, branching, two_heads
from tests.helpers.networks import NETWORKS, SHAPE, build, images
from tests.helpers.pruning import random_choice, without_readers


def same_without(graph_model: GraphModel, seed: int) -> GraphModel:
    """Remove channels that count for nothing, and see that the output stays."""
    channels = find_channels(graph_model)
    kept = random_choice(channels.count, find_groups(channels), seed)
    silent = without_readers(graph_model, channels, kept)
    pruned = remove(silent, channels, kept)
    x = images(3)
    for before, after in zip(outputs(silent, x), outputs(pruned, x), strict=True):
        torch.testing.assert_close(after, before)
    return pruned


def outputs(graph_model: GraphModel, x: Tensor) -> list[Tensor]:
    given = graph_model.module(x)
    return [given] if isinstance(given, Tensor) else list(given.values())


@pytest.mark.parametrize("name", [*NETWORKS, *BRANCHING])
@pytest.mark.parametrize("seed", [0, 1])
def test_output_stays_where_channels_count_for_nothing(name: str, seed: int) -> None:
    graph_model = prepare(build(name) if name in NETWORKS else branching(name), SHAPE)
    size = sum(p.numel() for p in graph_model.module.parameters())
    assert sum(p.numel() for p in same_without(graph_model, seed).module.parameters()) < size


def test_several_outputs_stay() -> None:
    same_without(two_heads(), 0)


class Written(nn.Module):
    """A function of convolutions 3 -> 8, 8 -> 8, 8 -> 16 and 16 -> 16, and a head that reads 8."""

    def __init__(self, function: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third, self.wide = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(8)
        self.slope = nn.PReLU(8)
        self.shift = nn.Parameter(torch.randn(8, 1, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = getattr(self, self.function)(F.relu(self.first(x)))
        z: Tensor = self.head(y.mean((2, 3)))
        return z

    def option_a(self, x: Tensor) -> Any:  # ResNets for CIFAR: the shortcut is padded with channels of zeros
        y = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)) + F.max_pool2d(self.wide(self.third(x)), 2)
        return self.second(y[:, 3:11])

    def sliced(self, x: Tensor) -> Any:
        y = self.third(x)
        return self.second(y[:, :8] * torch.sigmoid(y[:, 8:]))

    def narrowed(self, x: Tensor) -> Any:
        y = self.wide(self.third(x))
        return self.second(torch.cat([y.narrow(1, 12, 4), y[:, 2:6]], 1))

    def split(self, x: Tensor) -> Any:
        a, b, c = self.third(x).split([2, 6, 8], 1)
        return self.second(torch.cat([b, a], 1) + c)

    def shuffled(self, x: Tensor) -> Any:
        return self.second(F.pixel_shuffle(F.channel_shuffle(self.third(x), 4), 2).repeat_interleave(2, 1))

    def pixels(self, x: Tensor) -> Any:
        y = F.pixel_unshuffle(self.second(x), 2)  # 32 channels
        return self.second(F.pixel_shuffle(y, 2))

    def normalized(self, x: Tensor) -> Any:
        y = self.slope(self.norm(torch.cat([x[:, 4:], x[:, :4]], 1)))
        return self.second(y * self.shift + self.shift)

    def by_hand(self, x: Tensor) -> Any:
        n, _, h, w = x.shape
        y = self.third(x).view(n, 2, 2, 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, 4, 2 * h, 2 * w)
        return self.second(torch.cat([y, y.flip(1)], 1))

    def stacked(self, x: Tensor) -> Any:
        y = torch.stack([self.second(x), self.first.weight.sum() * x], 2)
        return self.second(y.amax(2))

    def expanded(self, x: Tensor) -> Any:
        gate = torch.sigmoid(self.second(x.mean((2, 3), keepdim=True))).expand_as(x)
        return self.second(gate * x)

    def tokens(self, x: Tensor) -> Any:
        y = self.third(x).flatten(2).transpose(1, 2)  # (N, pixels, 16)
        y = F.gelu(y)[:, 1:].unflatten(1, (5, -1)).mean(1).transpose(1, 2)  # (N, 16, 51)
        return self.second(y.unsqueeze(2)[:, :8])

    def mixed(self, x: Tensor) -> Any:
        return self.second(x.softmax(1) + F.normalize(x) + x[:, ::2].repeat(1, 2, 1, 1))


@pytest.mark.parametrize("name", [name for name in vars(Written) if not name.startswith("_") and name != "forward"])
def test_channels_are_followed_however_a_network_is_written(name: str) -> None:
    graph_model = prepare(Written(name).eval(), SHAPE)
    channels = find_channels(graph_model)
    assert bool(find_groups(channels))
    if name not in ("mixed", "shuffled"):
        assert all(int(i) not in channels.held for i in channels.of["first"].ids)
    for seed in range(3):
        same_without(graph_model, seed)


def test_what_must_stay_is_refused() -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    channels = find_channels(graph_model)
    for ids in (channels.writers["fc"][:1], channels.writers["stem_0"]):
        kept = torch.ones(channels.count, dtype=torch.bool)
        kept[ids] = False
        with pytest.raises(ptq.InputError):
            remove(graph_model, channels, kept)
