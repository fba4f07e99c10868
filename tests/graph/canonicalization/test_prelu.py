"""PReLUs are written as what has integer kernels, and the output stays."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.calibration.activation_ranges import calibrate
from ptq.export import export_qdq, ort
from ptq.graph.fx_helpers import module_of
from ptq.graph.preparation import GraphModel, prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from tests.helpers.networks import SHAPE, images

SLOPES = {
    "between 0 and 1": ([0.1, 0.25, 0.0, 1.0], 2),
    "negative": ([-0.5, 0.25, 0.3, 0.4], 2),
    "above 1": ([1.5, 0.25, -0.3, 3.0], 3),
    "equal": ([0.25] * 4, 0),
    "one": ([0.25], 0),
}


class Bent(nn.Module):
    """A PReLU between convolutions."""

    def __init__(self, slopes: list[float]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6, 5)
        self.slopes = nn.Parameter(torch.tensor(slopes))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(F.prelu(self.first(x), self.slopes))
        logits: Tensor = self.head(y.mean((2, 3)))
        return logits


def products(graph_model: GraphModel) -> int:
    return sum(bool(node.meta.get("from_batchnorm")) for node in graph_model.module.graph.nodes)


@pytest.mark.parametrize("name", SLOPES)
def test_prelus_become_integers(name: str, tmp_path: Path) -> None:
    slopes, count = SLOPES[name]
    model, x = Bent(slopes).eval().requires_grad_(False), images(8)
    graph_model = prepare(model, SHAPE)
    torch.testing.assert_close(graph_model.module(x), model(x), rtol=1e-5, atol=1e-5)
    modules = [module_of(graph_model.module, node) for node in graph_model.module.graph.nodes]
    assert not any(isinstance(module, nn.PReLU) for module in modules)
    assert (products(graph_model), any(isinstance(m, nn.LeakyReLU) for m in modules)) == (count, count == 0)
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 8)), x, observer="minmax")
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    assert ort.float_operators(ort.optimized(path)) == []
    given = torch.from_numpy(ort.run(ort.session(path), x.numpy()))
    assert torch.equal(given, quantized_model.integer_forward(x))
    assert float((given - model(x)).norm() / model(x).norm()) < 0.05


def test_what_a_prelu_reads_keeps_8_bits() -> None:
    graph_model = prepare(Bent(SLOPES["negative"][0]), SHAPE)
    bits = {name: spec.bits for name, spec in make_plan(graph_model, 4, 4).activations.items()}
    assert [bits[name] for name in ("first", "prelu_slope", "prelu_relu", "prelu")] == [8, 8, 8, 4]
