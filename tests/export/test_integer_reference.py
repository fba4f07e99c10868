"""Exact integer arithmetic read from the file: what onnxruntime computes, and what it should have."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import ptq
from ptq.data.preprocess import Preprocess
from ptq.export import export_qdq, ort, validate
from ptq.export.checks import Evidence, run_checks
from ptq.export.integer_reference import ExactComparison, IntegerReference
from ptq.export.onnx_files import QuantizedFile
from ptq.export.results import Exact, failures
from tests.helpers import networks

PREPROCESS = Preprocess((16, 16), 16, "bilinear", (0.5,) * 3, (0.5,) * 3)
NAMES = (
    "resnet",
    "mobilenet",
    "squeeze_excite",
    "hard_gates",
    "shared",
    "functional",
    "densenet",
    "shufflenet",
    "upsampling",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [(8, 8), (2, 4)])
def test_onnxruntime_computes_it_bit_for_bit(name: str, bits: tuple[int, int], tmp_path: Path) -> None:
    path = export_qdq(networks.quantized_network(name, *bits), tmp_path / "model.onnx")
    x = networks.images(16, seed=3).numpy()
    given = ort.run(ort.session(path), x)
    assert np.array_equal(IntegerReference(path)(x), given)
    assert not np.array_equal(given[0], given[1])


def test_a_batch_is_its_images_one_by_one(tmp_path: Path) -> None:
    integer_reference = IntegerReference(
        export_qdq(networks.quantized_network("shufflenet", 4, 8), tmp_path / "model.onnx")
    )
    x = networks.images(3, seed=5).numpy()
    assert np.array_equal(integer_reference(x), np.concatenate([integer_reference(x[i : i + 1]) for i in range(3)]))


def test_validation_compares_and_says_where_they_differ(tmp_path: Path) -> None:
    quantized_model = networks.quantized_network("resnet", 4, 8)
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    images = torch.rand(70, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = validate(path, quantized_model, PREPROCESS, [(images, None)], runs=2, exact=True, baseline=False)
    assert found.exact == Exact(64, 0, 0.0)
    assert found.failed == ()

    comparison, x = ExactComparison(path), PREPROCESS.normalize(images[:4])
    given = torch.from_numpy(ort.run(ort.session(path), x.numpy()))
    given[1] += 0.01 * given.abs().max()
    comparison.add(x, given)
    exact = comparison.result()
    assert exact.differing == 1
    assert exact.largest == pytest.approx(0.01, rel=1e-3)
    (message,) = failures(run_checks(Evidence(QuantizedFile(path), exact=exact)))
    assert "1 of 4 images, by up to 1 %" in message


def test_a_file_that_is_no_onnx_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_text("no model")
    with pytest.raises(ptq.ExportError, match=r"bad\.onnx"):
        IntegerReference(tmp_path / "bad.onnx")


@pytest.mark.parametrize("operator", ["Mul", "Add"])
@pytest.mark.parametrize("zeros", [(0, 0), (10, 13), (128, 7), (255, 1)])
def test_ties_fall_where_the_kernel_lets_them(operator: str, zeros: tuple[int, int], tmp_path: Path) -> None:
    """All pairs of codes, with scales that put many results in the middle between two codes."""
    for step in (2.0, 8.0, 64.0, 256.0):
        scales = np.array([1 / 16, step / 16 / (16 if operator == "Mul" else 1)], np.float32)
        constants = [
            numpy_helper.from_array(np.array(v, t), n)
            for v, t, n in (
                (scales[0], np.float32, "s"),
                (scales[1], np.float32, "t"),
                (zeros[0], np.uint8, "z"),
                (zeros[1], np.uint8, "w"),
            )
        ]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
            helper.make_node("Transpose", ["q"], ["p"], "turn", perm=[1, 0]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["a"], "left"),
            helper.make_node("DequantizeLinear", ["p", "s", "z"], ["b"], "right"),
            helper.make_node(operator, ["a", "b"], ["c"], "both"),
            helper.make_node("QuantizeLinear", ["c", "t", "w"], ["r"], "round"),
            helper.make_node("DequantizeLinear", ["r", "t", "w"], ["y"], "out"),
        ]
        shapes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [256, 256]) for n in "xy"]
        graph = helper.make_graph(nodes, "pairs", shapes[:1], shapes[1:], constants)
        path = tmp_path / f"{step}.onnx"
        opsets = [helper.make_opsetid("", 21)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        kernels = {node.op_type for node in ort.optimized(path).node}
        assert f"QLinear{operator}" in kernels
        codes = np.arange(256, dtype=np.float32)
        x = np.repeat((codes - zeros[0])[:, None] * scales[0], 256, 1)
        assert np.array_equal(IntegerReference(path)(x), ort.run(ort.session(path), x))
