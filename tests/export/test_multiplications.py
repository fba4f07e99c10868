"""Which share of the multiply-accumulates onnxruntime does in float."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ptq.calibration.activation_ranges import calibrate
from ptq.export import export_float, export_qdq, ort
from ptq.export.multiplications import float_share
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from tests.helpers.networks import SHAPE, images

DIM, TOKENS = 8, 16


class Attention(nn.Module):
    """One block of a transformer, with sums and products of tensors in float."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, DIM, 4, 4), nn.LayerNorm(DIM)
        self.qkv, self.proj, self.head = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.proj((q @ k.transpose(-1, -2) / 3).softmax(-1) @ v)
        logits: Tensor = self.head(x.mean(1))
        return logits


def test_products_of_tensors_and_what_computes_on_real_numbers_are_counted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph_model = prepare(Attention().eval().requires_grad_(False), SHAPE)
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 8)), images(4))
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    graph = ort.optimized(path)
    kinds = [node.op_type for node in graph.node if node.name in ort.float_operators(graph)]
    assert not {kind for kind in kinds if kind.startswith(("QLinear", "QGemm", "Dequantize", "MatMulInteger"))}
    assert {"Add", "LayerNormalization", "Softmax"} <= set(kinds)
    product = TOKENS * TOKENS * DIM
    layers = TOKENS * DIM * 3 * 16 + TOKENS * DIM * 4 * DIM + DIM * 5
    floats = [node.op_type for node in graph.node if node.name in ort.float_layers(graph)]
    assert abs(float_share(path) - 100 * len(floats) * product / (layers + 2 * product)) < 1e-6


def test_transposed_convolutions_are_counted(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 2, 2, groups=4)).eval().requires_grad_(False)
    graph_model = prepare(net, SHAPE)
    assert float_share(export_float(graph_model.module, tmp_path / "float.onnx", graph_model.example(2))) == 100.0
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 8)), images(4))
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    assert ort.float_layers(ort.optimized(path)) == ["1/ConvTranspose"]
    assert float_share(path) == 100 * 16 / (12 + 16)
