"""A runtime that shares no code with onnxruntime reads the same files and computes the same classes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ptq
from ptq.data.preprocess import Preprocess
from ptq.export import export_qdq, ort, validate
from ptq.export.openvino import open_openvino
from tests.helpers import networks

PREPROCESS = Preprocess((16, 16), 16, "bilinear", (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "hard_gates", "squeeze_excite", "densenet"])
@pytest.mark.parametrize("bits", [(8, 8), (4, 4)])
def test_openvino_computes_the_same(name: str, bits: tuple[int, int], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    # Without VNNI OpenVINO's sums of 8-bit products saturate, in the first and last layer of any width.
    made = networks.quantized_network(name, *bits, reduce_range=not ort.exact_by_default())
    path = export_qdq(made, tmp_path / "model.onnx")
    x = networks.images(32, seed=3).numpy()
    ours = ort.run(ort.session(path), x)
    theirs = open_openvino(path)(x)[0]
    # It rounds in other places; a file it read wrongly would have nothing in common.
    noise = float(np.square(ours - theirs).mean() / np.square(ours).mean())
    assert noise < 0.02


def test_validation_runs_it(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    quantized_model = networks.quantized_network("resnet", 8, 8)
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    images = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = validate(
        path, quantized_model, PREPROCESS, [(images, None)], runs=2, baseline=False, runtimes=("openvino",)
    )
    assert {"onnx", "openvino"} <= set(found.agreement) and found.latency_ms["openvino"] > 0
    assert found.failed == ()


def test_a_file_it_cannot_read_is_one_message(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "bad.onnx").write_text("no model")
    with pytest.raises(ptq.ExportError, match=r"bad\.onnx"):
        open_openvino(tmp_path / "bad.onnx")


def test_without_the_package_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ptq.MachineError, match=r"ptq\[openvino\]"):
        open_openvino(tmp_path / "model.onnx")


def test_an_unknown_runtime_is_refused(tmp_path: Path) -> None:
    path = export_qdq(networks.quantized_network("resnet", 8, 8), tmp_path / "model.onnx")
    with pytest.raises(ptq.InputError, match="tvm"):
        validate(path, None, PREPROCESS, [], runtimes=("tvm",))
