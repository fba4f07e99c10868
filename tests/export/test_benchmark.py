"""Latency and size beside the float network and onnxruntime's own quantization."""

from pathlib import Path

import pytest
import torch

import ptq
from ptq.export import checks, export_qdq, onnx_files, ort
from ptq.export.benchmark import measure_costs
from tests.helpers import networks

LAUNCH = 0.1  # ms; that other tests set it is undone here


@pytest.fixture(autouse=True)
def _speed_is_judged_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LAUNCH", LAUNCH)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_qdq(networks.quantized_network("resnet", 4, 8), tmp_path_factory.mktemp("c") / "m.onnx")


def test_everything_is_measured_in_one_run(exported: Path, tmp_path: Path) -> None:
    kept = tmp_path / "float.onnx"
    image = networks.images(1).numpy()
    costs = measure_costs(exported, {"float": networks.build("resnet")}, image, threads=1, runs=3, float_path=kept)
    assert set(costs.latency_ms) == {"float", "onnx", "quantize_static", "threads"}
    assert costs.size_bytes["float"] == kept.stat().st_size
    assert costs.size_bytes["onnx"] == exported.stat().st_size
    assert min(costs.latency_ms.values()) > 0 and costs.unmeasured == ()
    assert sorted(tmp_path.iterdir()) == [kept]


def test_networks_too_large_for_one_file_have_weights_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "LARGE", 1000)
    quantized_model, x = networks.quantized_network("resnet", 4, 8), networks.images(3)
    path, kept = export_qdq(quantized_model, tmp_path / "m.onnx"), tmp_path / "float.onnx"
    costs = measure_costs(path, {"float": networks.build("resnet")}, x[:1].numpy(), threads=1, runs=2, float_path=kept)
    assert costs.unmeasured == () and {"float", "onnx", "quantize_static"} < set(costs.latency_ms)
    for file, name in ((path, "onnx"), (kept, "float")):
        weights = onnx_files.data_file(file)
        assert weights.stat().st_size > file.stat().st_size / 10
        assert costs.size_bytes[name] == file.stat().st_size + weights.stat().st_size
    opened = ort.run(ort.session(path), x.numpy())
    assert torch.equal(torch.from_numpy(opened), quantized_model.integer_forward(x))
    assert not [
        check for check in checks.run_checks(checks.Evidence(onnx_files.QuantizedFile(path))) if not check.passed
    ]
    assert ort.float_layers(ort.optimized(path)) == []
    # The next one that is small leaves nothing of it.
    monkeypatch.setattr(onnx_files, "LARGE", 1_000_000)
    export_qdq(quantized_model, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["float.onnx", "float.onnx.data", "m.onnx"]


def test_the_file_alone(exported: Path) -> None:
    costs = measure_costs(exported, {}, networks.images(1).numpy(), threads=1, runs=2)
    assert set(costs.latency_ms) == {"onnx", "threads"} and set(costs.size_bytes) == {"onnx"}


def test_what_quantize_static_cannot_do_is_a_note(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxruntime import quantization

    def fails(*args: object, **kwargs: object) -> None:
        raise ValueError("no such shape\nand more")

    monkeypatch.setattr(quantization, "quantize_static", fails)
    network, image = networks.build("resnet"), networks.images(1).numpy()
    costs = measure_costs(exported, {"float": network}, image, threads=1, runs=2)
    (note,) = costs.unmeasured
    assert note.endswith("no such shape")
    assert "quantize_static" not in costs.latency_ms


def test_a_network_that_looks_slow_is_measured_again(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([9.0, 1.0, 1.0])
    monkeypatch.setattr(ort, "latencies", lambda *args: {"onnx": next(measured), "float": 2.0})
    network, image = networks.build("resnet"), networks.images(1).numpy()
    costs = measure_costs(exported, {"float": network}, image, threads=1, baseline=False)
    assert costs.latency_ms["onnx"] == 1.0
    monkeypatch.setattr(ort, "latencies", lambda *args: {"onnx": 9.0, "float": 2.0})
    costs = measure_costs(exported, {"float": network}, image, threads=1, baseline=False)
    assert costs.latency_ms["onnx"] == 9.0


def test_a_missing_file_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ptq.InputError, match=r"none\.onnx"):
        measure_costs(tmp_path / "none.onnx", {}, networks.images(1).numpy(), threads=1)
