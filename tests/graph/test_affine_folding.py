"""BatchNorm disappears into the layer before it, and the output stays."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ptq.graph.affine_folding import fold_affine_maps, gain_and_shift
from ptq.graph.tracing import trace
from tests.helpers.networks import images, with_statistics

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def conv(layer: nn.Conv2d | nn.ConvTranspose2d, **norm: bool) -> nn.Module:
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels, **norm), nn.ReLU())


CASES: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: conv(nn.Conv2d(3, 6, 3)),
    "conv_without_bias": lambda: conv(nn.Conv2d(3, 6, 3, bias=False)),
    "depthwise": lambda: conv(nn.Conv2d(3, 6, 3, groups=3)),
    "transposed": lambda: conv(nn.ConvTranspose2d(3, 6, 3, 2)),
    "transposed_groups": lambda: conv(nn.ConvTranspose2d(3, 6, 3, 2, groups=3, bias=False)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 6), nn.BatchNorm1d(6)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("half_dead", [False, True])
def test_folding_keeps_the_output_and_leaves_no_batchnorm(case: str, half_dead: bool) -> None:
    torch.manual_seed(0)
    model, x = with_statistics(CASES[case]()), images(4)
    if half_dead:  # a channel that was constant in training
        for module in model.modules():
            if isinstance(module, BatchNorm):
                assert module.running_var is not None
                module.running_var[0] = 1e-12
    expected = model(x)
    graph = trace(model, x).requires_grad_(False)
    fold_affine_maps(graph)
    graph.recompile()
    assert not any(
        isinstance(graph.get_submodule(str(node.target)), BatchNorm)
        for node in graph.graph.nodes
        if node.op == "call_module"
    )
    torch.testing.assert_close(graph(x), expected, rtol=1e-4, atol=1e-4)


class Branching(nn.Module):
    """A convolution read by a BatchNorm and by others: it must not be scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        result: Tensor = self.norm(y) + y
        return result


@pytest.mark.parametrize("model", [Branching(), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3))])
def test_without_a_layer_to_fold_into_it_becomes_a_marked_depthwise_convolution(model: nn.Module) -> None:
    model, x = with_statistics(model), images(4)
    expected = model(x)
    graph = trace(model, x)
    fold_affine_maps(graph)
    graph.recompile()
    torch.testing.assert_close(graph(x), expected)
    (node,) = [node for node in graph.graph.nodes if node.meta.get("from_batchnorm")]
    layer = graph.get_submodule(str(node.target))
    assert isinstance(layer, nn.Conv2d)
    assert layer.groups == layer.in_channels == layer.out_channels
    assert not any("running" in name for name in graph.state_dict())


@pytest.mark.parametrize("affine", [True, False])
def test_affine_form_is_the_batchnorm(affine: bool) -> None:
    norm = nn.BatchNorm1d(5, affine=affine).eval()
    norm.running_mean = torch.randn(5)
    norm.running_var = torch.rand(5) + 0.1
    gain, shift = gain_and_shift(norm)
    x = torch.randn(7, 5)
    torch.testing.assert_close((x * gain + shift).float(), norm(x))


def test_batchnorm_without_statistics_stays() -> None:
    model, x = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), images(4))
    graph = trace(model.eval(), x)
    fold_affine_maps(graph)
    assert any(isinstance(module, nn.BatchNorm2d) for module in graph.modules())
