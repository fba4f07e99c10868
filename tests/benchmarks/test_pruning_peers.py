"""Networks that another tool pruned: its history says which channels are left, and shortcuts are what they were."""

import torch
from torch import Tensor, nn

from benchmarks.models.cifar_resnet import CifarResNet
from benchmarks.pruning_peers import kept_by, share_of, with_projections
from ptq.graph.preparation import prepare
from ptq.pruning.removal import remove
from ptq.pruning.selection.ranking import unranked

SHAPE = (3, 16, 16)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 4, 3, padding=1)
        self.outer = nn.Conv2d(4, 6, 3, padding=1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.outer(torch.relu(self.inner(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def test_positions_in_a_history_count_what_is_left_by_then() -> None:
    torch.manual_seed(0)
    graph_model = prepare(Residual().eval(), SHAPE)
    ranking = unranked(graph_model)
    # Of 0 1 2 3 4 5 go 0 and 2; of 1 3 4 5 goes 3, by the name of another layer of the stream; and of the hidden ones 3.
    history = [("stem", True, [0, 2]), ("outer", True, [1]), ("inner", True, [3]), ("inner", True, [])]
    every = torch.ones(ranking.channels.count, dtype=torch.bool)
    kept = kept_by(graph_model, ranking.channels, history, every)
    assert every.all()
    step_by_step = every
    for entry in history:
        step_by_step = kept_by(graph_model, ranking.channels, [entry], step_by_step)
    assert torch.equal(kept, step_by_step)
    stream, hidden = (ranking.channels.of[name].ids for name in ("stem", "inner"))
    assert stream[kept[stream]].equal(stream[[1, 4, 5]]) and hidden[kept[hidden]].equal(hidden[:3])
    pruned = remove(graph_model, ranking.channels, kept).module
    before, after = (dict(module.named_parameters())["outer.weight"] for module in (graph_model.module, pruned))
    assert torch.equal(after, before[[1, 4, 5]][:, :3])


def test_nothing_removed_is_the_whole_cost_and_half_of_a_layer_half_of_its_own() -> None:
    graph_model = prepare(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(), SHAPE)
    ranking = unranked(graph_model)
    every = torch.ones(ranking.channels.count, dtype=torch.bool)
    half = kept_by(graph_model, ranking.channels, [("0", True, [0, 1, 2, 3])], every)
    assert share_of(ranking, every) == 1.0 and share_of(ranking, half) == 0.5


def test_shortcuts_that_pad_become_convolutions_with_the_same_function() -> None:
    torch.manual_seed(0)
    network, x = CifarResNet(1).eval(), torch.randn(2, 3, 32, 32)
    projected = with_projections(network, x)
    torch.testing.assert_close(projected(x), network(x))
    sizes = [m.weight.shape for m in projected.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert sizes == [(32, 16, 1, 1), (64, 32, 1, 1)]
    assert not any(m.kernel_size == (1, 1) for m in network.modules() if isinstance(m, nn.Conv2d))
