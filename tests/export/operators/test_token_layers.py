"""Linear layers over tokens are one integer kernel each, bit for bit what was simulated."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ptq
from ptq.export import ort
from ptq.export.integer_reference import IntegerReference
from ptq.export.stepwise import compare_stepwise


class Tokens(nn.Module):
    """Layers that write codes and floats; one reads a few tokens, one windows, and the last writes one output per token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.wide, self.narrow = nn.Linear(16, 24), nn.Linear(24, 16, bias=False)
        self.few = nn.Linear(16, 16)
        self.windowed, self.last = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        x = x + self.narrow(self.wide(x).relu())  # a sum of floats
        x = x + self.few(x[:, :1])  # of another number of tokens
        windows = x.reshape(-1, 2, 2, 2, 2, 16).transpose(2, 3).reshape(-1, 4, 16)
        y: Tensor = self.last(nn.functional.relu6(self.windowed(windows)))
        return y.reshape(-1, 16, 5)


@pytest.mark.parametrize("bits", [(8, 8), (4, 4)])
def test_the_file_computes_what_was_simulated(bits: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph_model = ptq.prepare(Tokens().eval(), (3, 16, 16))
    images = graph_model.example(6)
    quantized_model = ptq.insert_quantizers(graph_model, ptq.make_plan(graph_model, *bits))
    ptq.calibrate(quantized_model, images, observer="mse")
    path = ptq.export_qdq(quantized_model, tmp_path / "tokens.onnx")
    kinds = Counter(node.op_type for node in ort.optimized(path).node)
    assert kinds["QGemm"] == 5
    assert not {"MatMul", "MatMulIntegerToFloat", "Gemm"} & set(kinds)
    simulated = quantized_model.integer_forward(images)
    assert isinstance(simulated, Tensor)
    for given in (ort.run(ort.session(path), images.numpy()), IntegerReference(path)(images.numpy())):
        assert torch.equal(torch.from_numpy(given), simulated)
    stepwise = compare_stepwise(path, quantized_model, images)
    assert sum(tensor.differing for tensor in stepwise.tensors) == 0
