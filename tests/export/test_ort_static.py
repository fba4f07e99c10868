"""onnxruntime's own static quantization, which files are compared with."""

import contextlib
from pathlib import Path

import pytest

from ptq.errors import ExportError
from ptq.export.ort_static import quantize_static
from ptq.export.qdq import export_float
from ptq.graph.preparation import prepare
from tests.helpers.networks import NETWORKS, SHAPE, build, images


@pytest.mark.parametrize("name", NETWORKS)
def test_it_leaves_the_file_and_nothing_else(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph_model = prepare(build(name), SHAPE)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    source = export_float(graph_model.module, tmp_path / "float.onnx", graph_model.example(2))
    with contextlib.suppress(ExportError):  # it has no axis of channels for transposed convolutions
        quantize_static(source, tmp_path / "static.onnx", images(2).numpy())
    assert (tmp_path / "static.onnx").exists() == (name != "upsampling")
    assert {path.name for path in tmp_path.rglob("*")} <= {"float.onnx", "here", "static.onnx"}
