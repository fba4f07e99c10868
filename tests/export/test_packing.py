"""Packed weights: smaller files that compute the same, in integers."""

from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, strategies as st
from onnx import TensorProto

import ptq
from ptq.config.choices import Format
from ptq.export import export_qdq, ort, packing, qdq
from ptq.export.onnx_files import QuantizedFile
from ptq.export.packing import CONTAINERS, LEAST, Container, supported
from tests.helpers import networks

WIDTHS = {2: TensorProto.INT2, 3: TensorProto.INT4, 4: TensorProto.INT4, 5: TensorProto.INT8}


def types(path: Path) -> Counter[int]:
    """How many weights there are in each type."""
    codes = [t for t in onnx.load(str(path)).graph.initializer if t.name.endswith(".weight.codes")]
    return Counter(t.data_type for t in codes)


@pytest.mark.parametrize(
    ("name", "bits"), [*(("resnet", bits) for bits in WIDTHS), ("mobilenet", 4), ("upsampling", 3)]
)
def test_packed_and_plain_files_compute_the_same(name: str, bits: int, tmp_path: Path) -> None:
    quantized_model, x = (networks.quantized_network(name, bits, 8), networks.images(16, seed=3).numpy())
    made = {f: export_qdq(quantized_model, tmp_path / f"{f}.onnx", format=f) for f in get_args(Format)}
    sizes = {n: layer.weight_quantizer.codes.numel() for n, layer in quantized_model.layers().items()}
    widths = (
        WIDTHS.get(spec.bits, TensorProto.INT8) if sizes[n] >= LEAST else TensorProto.INT8
        for n, spec in quantized_model.plan.weights.items()
    )
    assert types(made["packed"]) == Counter(widths)
    assert set(types(made["int8"])) == {TensorProto.INT8}
    for optimize in (True, False):
        packed, plain = (ort.run(ort.session(p, optimize=optimize), x) for p in made.values())
        assert np.array_equal(packed, plain)
    assert ort.float_layers(ort.optimized(made["packed"])) == ort.float_layers(ort.optimized(made["int8"]))
    file = QuantizedFile(made["packed"])
    assert file.unquantized() == [] and file.wrong_bias_scales() == []
    assert file.metadata["ptq.format"] == ("packed" if set(types(made["packed"])) != {TensorProto.INT8} else "int8")
    if bits < 5 and any(size >= LEAST for size in sizes.values()):
        assert made["packed"].stat().st_size < made["int8"].stat().st_size


@given(st.lists(st.integers(-128, 127), max_size=8))
def test_a_container_holds_what_comes_back_from_it(codes: list[int]) -> None:
    values = np.array(codes, np.int8)
    for container in CONTAINERS:
        back = values.astype(container.numpy).astype(np.int8)
        assert container.holds(values) == (bool(codes) and np.array_equal(back, values))


def test_containers_that_onnxruntime_cannot_load_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    future = Container(2, ir.DataType.INT2, CONTAINERS[0].numpy, 999)  # an opset of the future
    monkeypatch.setattr(packing, "CONTAINERS", (future, CONTAINERS[-1]))
    assert supported.__wrapped__() == CONTAINERS[-1:]
    monkeypatch.setattr(qdq, "supported", lambda: ())
    quantized_model = networks.quantized_network("resnet", 4, 8)
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    assert set(types(path)) == {TensorProto.INT8}
    assert QuantizedFile(path).metadata["ptq.format"] == "int8"
    with pytest.raises(ptq.MachineError, match="--format int8"):
        export_qdq(quantized_model, path, format="packed")
    with pytest.raises(ptq.InputError):
        export_qdq(quantized_model, path, format="int3")
