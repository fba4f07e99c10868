"""Files of single groups of operators."""

import numpy as np
import onnx
import pytest

from ptq.export.ort import float_operators, kernel_times, optimized, session
from ptq.placement.kernels import Kernel, build, crossing

IMAGE = (1, 16, 6, 6)
CONV = (("kernel_shape", (3, 3)), ("strides", (1, 1)), ("pads", (1, 1, 1, 1)), ("dilations", (1, 1)), ("group", 16))
KERNELS = [
    Kernel("Add", (IMAGE, IMAGE), activation="Relu"),
    Kernel("Mul", (IMAGE, (1, 16, 1, 1)), gate="Sigmoid", codes="table"),
    Kernel("Mul", (IMAGE,), gate="Sigmoid", codes="table"),
    Kernel("Concat", (IMAGE, IMAGE), (("axis", 1),)),
    Kernel("GlobalAveragePool", (IMAGE,)),
    Kernel("Sigmoid", (IMAGE,)),
    Kernel("Gemm", ((1, 8),), (), (8, 4), bias=True),
    Kernel("Gemm", ((1, 8),), (), (8, 4), bias=True, gate="HardSigmoid", codes="clip"),
    Kernel("Conv", (IMAGE,), CONV, (16, 1, 3, 3), bias=True, activation="Clip"),
    Kernel("Conv", (IMAGE,), CONV, (16, 1, 3, 3), narrow=True, gate="HardSigmoid", codes="clip"),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_a_kernel_runs_in_integers_and_in_float(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("kernel") / "kernel.onnx"
    onnx.save(build(kernel, True), str(path))
    assert float_operators(optimized(path)) == []
    (output,) = session(path).run(None, {f"x{i}": np.full(s, 128, np.uint8) for i, s in enumerate(kernel.inputs)})
    assert output.dtype == np.uint8
    (times,) = kernel_times([build(kernel, False)], threads=1, runs=1)
    assert times and not any(kernel.operator.startswith("QLinear") for kernel in times)


@pytest.mark.parametrize("shape", [IMAGE, (1, 12)])
def test_a_tensor_is_turned_into_codes_and_back(shape: tuple[int, ...]) -> None:
    (times,) = kernel_times([crossing(shape)], threads=1, runs=1)
    operators = [kernel.operator for kernel in times]
    assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == 1
