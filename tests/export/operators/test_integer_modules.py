"""What the file computes in other operators is what torch computes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ptq.calibration.activation_ranges import calibrate
from ptq.export import export_qdq, ort
from ptq.export.operators.integer_modules import Mish, PixelShuffle, Softplus
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.utils.metrics import sqnr_db
from tests.helpers.networks import SHAPE, images


@pytest.mark.parametrize(("made", "plain"), [(Mish(), nn.Mish()), (Softplus(), nn.Softplus())])
def test_activations_in_other_operators_are_the_same(made: nn.Module, plain: nn.Module) -> None:
    x = torch.cat([torch.linspace(-200, 200, 4001), torch.tensor([0.0, -0.0, 1e30, -1e30])])
    torch.testing.assert_close(made(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 12, 5, 7), (2, 3, 12, 5, 7)])
def test_a_shuffle_without_cuts_is_torchs(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert torch.equal(PixelShuffle((2, 2))(x), nn.PixelShuffle(2)(x))


def test_the_file_of_a_mish_has_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Mish(), nn.Conv2d(4, 4, 3), nn.Softplus(), nn.Conv2d(4, 2, 3))
    graph_model, x = prepare(net.eval().requires_grad_(False), SHAPE), images(4)
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 8)), x)
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    assert {"Mish", "Softplus"}.isdisjoint(node.op_type for node in ort.optimized(path).node)
    given = torch.from_numpy(ort.run(ort.session(path), x.numpy()))
    assert sqnr_db(quantized_model.integer_forward(x), given) > 60
