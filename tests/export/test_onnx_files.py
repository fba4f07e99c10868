"""ONNX files: read where they are sound, refused with a message elsewhere."""

from pathlib import Path

import onnx
import pytest

import ptq
from ptq.export import export_qdq
from ptq.export.onnx_files import read_onnx
from tests.helpers.networks import quantized_network


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "a.onnx"
    export_qdq(quantized_network("resnet"), path)
    return path


def test_a_sound_file_is_read_as_it_is(file: Path) -> None:
    assert read_onnx(file).SerializeToString() == file.read_bytes()


def test_a_constant_of_no_known_type_is_refused(file: Path, tmp_path: Path) -> None:
    model = onnx.load(str(file))
    model.graph.initializer[0].data_type = 127  # the checker of onnx finds nothing wrong with it
    onnx.checker.check_model(model)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ptq.ExportError, match=r"a\.onnx.*127"):
        read_onnx(tmp_path / "a.onnx")


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_what_is_cut_off_is_refused(cut: int, file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ptq.ExportError):
        read_onnx(tmp_path / "a.onnx")
    with pytest.raises(ptq.InputError):
        read_onnx(tmp_path / "b.onnx")
