"""Maps inside networks: the last one of every size, as it is in the end, and the same output as ever."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.distillation.hints import Hints, WithMaps


class InPlace(nn.Module):
    """One module is called at two sizes, and what a convolution gave is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU()
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = F.relu_(self.second(self.relu(x)))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def test_the_last_map_of_every_size_is_kept_and_the_output_stays() -> None:
    torch.manual_seed(0)
    network, x = InPlace(), torch.randn(2, 3, 8, 8)
    output, maps = WithMaps(network)(x)
    assert torch.equal(output, network(x))
    assert {size: found.shape[1] for size, found in maps.items()} == {"8x8": 4, "4x4": 6}
    assert all(float(found.detach().min()) >= 0 for found in maps.values())  # behind the ReLUs, in place or not


def test_a_network_that_failed_gives_maps_again() -> None:
    network = WithMaps(InPlace())
    with pytest.raises(RuntimeError):
        network(torch.randn(2, 4, 8, 8))
    assert network(torch.randn(2, 3, 8, 8))[1].keys() == {"8x8", "4x4"}


def test_maps_are_of_that_call_alone() -> None:
    network = InPlace()
    reader, x = WithMaps(network), torch.randn(2, 3, 8, 8)
    _, maps = reader(x)
    kept = dict(maps)
    network(torch.randn(2, 3, 16, 16))
    assert maps.keys() == kept.keys() and all(maps[size] is kept[size] for size in kept)
    assert reader(x[:1])[1]["8x8"].shape[0] == 1


def test_a_student_that_has_the_maps_under_other_names_loses_nothing() -> None:
    torch.manual_seed(0)
    theirs = {"8x8": torch.randn(16, 3, 8, 8), "2x2": torch.randn(16, 5, 2, 2)}
    ours = {"8x8": theirs["8x8"].flip(1) * 7 + 1, "4x4": torch.randn(16, 2, 4, 4)}
    hints = Hints(ours, theirs)
    assert hints.sizes == ["8x8"]
    optimizer = torch.optim.LBFGS(hints.parameters(), max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = hints.loss(ours, theirs)
        loss.backward()
        return loss

    began = float(closure().detach())
    optimizer.step(closure)
    assert float(closure().detach()) < 1e-3 < 0.5 < began


def test_gradients_reach_the_student_and_not_the_teacher() -> None:
    torch.manual_seed(0)
    student, teacher, x = InPlace(), InPlace(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        theirs = WithMaps(teacher)(x)[1]
    ours = WithMaps(student)(x)[1]
    hints = Hints(ours, theirs)
    hints.loss(ours, theirs).backward()
    assert all(layer.weight.grad is not None for layer in (student.first, student.second))
    assert all(p.grad is None for p in teacher.parameters())


def test_weights_are_no_maps() -> None:
    layers = (
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
    )
    assert WithMaps(nn.Sequential(*layers))(torch.rand(4, 3, 8, 8))[1].keys() == {"6x6", "4x4"}
