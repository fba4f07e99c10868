"""Groups of operators and the tensors between them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.calibration import calibrate
from ptq.export.ort import kernel_times
from ptq.graph.preparation import prepare
from ptq.placement.kernels import build, crossing
from ptq.placement.network import Network, divide
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from tests.helpers.networks import NETWORKS, quantized_network

SHAPE = (3, 8, 8)


def divided(net: nn.Module, bits: int = 8) -> Network:
    graph_model = prepare(net.eval(), SHAPE)
    return divide(
        calibrate(
            insert_quantizers(graph_model, make_plan(graph_model, bits)), graph_model.example(2), observer="minmax"
        )
    )


def test_every_operator_of_a_residual_network_can_be_timed() -> None:
    network = divide(quantized_network("resnet"))
    operators = [group.kernel.operator for group in network.groups if group.kernel is not None]
    assert len(operators) == len(network.groups) and operators.count("Add") == 3
    readers = {tensor.readers for tensor, _, _ in network.tensors}
    assert any(len(some) == 2 for some in readers)  # what a block and its shortcut read


@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_takes_the_file_of_every_group_and_conversion(name: str) -> None:
    network = divide(quantized_network(name))
    kernels = {group.kernel for group in network.groups if group.kernel is not None}
    models = [build(kernel, integers) for kernel in kernels for integers in (True, False)]
    models += [crossing(shape) for shape in {shape for _, shape, _ in network.tensors}]
    assert all(kernel_times(models, threads=1, runs=1))


class Gated(nn.Module):
    """A SiLU, a hard swish behind a layer, and a gate of a pooled tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(c, 8, 1) for c in (3, 8, 8))
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.second(F.silu(self.first(x))))
        x = x * torch.sigmoid(self.third(F.adaptive_avg_pool2d(x, 1)))
        y: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return y


def test_a_gate_is_with_its_product_and_a_hard_swish_with_its_layer() -> None:
    kernels = {len(group.nodes): [] for group in divided(Gated()).groups}  # type: ignore[var-annotated]
    for group in divided(Gated(), 4).groups:
        kernels[len(group.nodes)].append(group.kernel)
    gates = [(kernel.operator, kernel.gate, len(kernel.inputs)) for kernel in kernels[2]]
    assert gates == [("Mul", "Sigmoid", 1), ("Conv", "HardSigmoid", 1), ("Mul", "Sigmoid", 2)]
    assert {kernel.narrow for kernel in kernels[2]} == {False, True}  # of 4 bits is the middle layer alone
