"""Coupled channels and their groups: who must go with whom, and who must stay for what reason."""

import pytest
import torch
from torch import Tensor, nn

from ptq.graph.preparation import prepare
from ptq.pruning.coupling.channel_map import ChannelMap
from ptq.pruning.coupling.channels import find_channels
from ptq.pruning.coupling.groups import Group, find_groups
from ptq.pruning.coupling.indexing import slice_position
from ptq.pruning.coupling.union_find import UnionFind
from tests.helpers.networks import SHAPE, build


def channels_of(name: str) -> ChannelMap:
    return find_channels(prepare(build(name), SHAPE))


def test_a_depthwise_layer_hands_on_the_channels_it_reads() -> None:
    channels = channels_of("mobilenet")
    expand, depthwise = channels.of["features_1_conv_0"].ids, channels.of["features_1_conv_3"].ids
    assert torch.equal(expand, depthwise)
    assert "features_1_conv_3" not in channels.writers and "features_1_conv_3" not in channels.readers


def test_a_gate_belongs_to_what_it_gates() -> None:
    channels = channels_of("squeeze_excite")
    assert torch.equal(channels.of["conv"].ids, channels.of["excite"].ids)
    assert not set(channels.of["squeeze"].ids.tolist()) & set(channels.of["conv"].ids.tolist())


def test_concatenated_channels_lie_behind_one_another() -> None:
    channels = channels_of("densenet")
    grown = [channels.of[name].ids for name in ("stem", "convs_0", "convs_1")]
    assert torch.equal(channels.readers["head"], torch.cat(grown))


def test_halves_that_go_two_ways_are_groups_of_their_own() -> None:
    channels = channels_of("shufflenet")
    left, right = (group.ids.tolist() for group in find_groups(channels))
    assert channels.writers["stem"].tolist() == left + right
    assert channels.readers["branch_0"].tolist() == right
    assert channels.writers["branch_0"].tolist() == left  # which they are shuffled with


def test_groups_of_a_grouped_convolution_lose_the_same() -> None:
    ids = channels_of("upsampling").readers["up"].reshape(4, 2)
    assert torch.equal(ids, ids[:1].expand(4, 2))
    (group,) = [g for g in find_groups(channels_of("upsampling")) if g.name == "conv"]
    assert group.multiple == 4 and group.sizes(4) == [1, 2]


def test_outputs_of_the_network_are_fixed() -> None:
    channels = channels_of("resnet")
    assert list(channels.fixed) == ["fc"]
    assert set(channels.writers["fc"].tolist()) == set(channels.held)


class Attention(nn.Module):
    """A layer norm, a product of activations, and an MLP between them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.qk = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 16)
        self.inner, self.outer, self.head = nn.Linear(8, 24), nn.Linear(24, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        q, k = self.qk(x).chunk(2, -1)
        x = x + (q @ k.transpose(1, 2)).softmax(-1) @ x
        x = x + self.outer(torch.relu(self.inner(x)))
        y: Tensor = self.head(x.mean(1))
        return y


def test_what_mixes_channels_holds_them_and_says_so() -> None:
    channels = find_channels(prepare(Attention().eval(), SHAPE))
    assert [(group.name, len(group)) for group in find_groups(channels)] == [("inner", 24)]
    assert set(channels.fixed) == {"patches", "qk", "outer", "head"}
    assert "LayerNorm" in channels.fixed["patches"] and "matmul" in channels.fixed["qk"]


@pytest.mark.parametrize(("granule", "sizes"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (4, [4, 5]), (8, [5])])
def test_sizes_are_steps_of_the_granule(granule: int, sizes: list[int]) -> None:
    assert Group("conv", torch.arange(5), 1).sizes(granule) == sizes


def test_sets_are_joined_through_others() -> None:
    sets = UnionFind()
    sets.new(5)
    sets.join_rows(torch.tensor([[0, 1], [3, 4], [4, 1]]))
    assert sets.numbered().tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("index", "axis", "position"), [(0, 0, 0), (..., 2, None), ((0, ..., 1), 2, 2), ((None, 3), 0, 1)]
)
def test_an_index_speaks_of_dimensions(index: object, axis: int, position: int | None) -> None:
    assert slice_position(index, 3, axis) == position
