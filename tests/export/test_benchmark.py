"""Latency and size beside the float network and onnxruntime's own quantization."""

from pathlib import Path

import pytest

import ptq
from ptq.export import checks, export_qdq
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
    costs = measure_costs(exported, networks.build("resnet"), image, threads=1, runs=3, float_path=kept)
    assert set(costs.latency_ms) == {"float", "onnx", "quantize_static", "threads"}
    assert costs.size_bytes["float"] == kept.stat().st_size
    assert costs.size_bytes["onnx"] == exported.stat().st_size
    assert min(costs.latency_ms.values()) > 0 and costs.unmeasured == ()
    assert sorted(tmp_path.iterdir()) == [kept]


def test_the_file_alone(exported: Path) -> None:
    costs = measure_costs(exported, None, networks.images(1).numpy(), threads=1, runs=2)
    assert set(costs.latency_ms) == {"onnx", "threads"} and set(costs.size_bytes) == {"onnx"}


def test_what_quantize_static_cannot_do_is_a_note(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxruntime import quantization

    def fails(*args: object, **kwargs: object) -> None:
        raise ValueError("no such shape\nand more")

    monkeypatch.setattr(quantization, "quantize_static", fails)
    network, image = networks.build("resnet"), networks.images(1).numpy()
    costs = measure_costs(exported, network, image, threads=1, runs=2)
    (note,) = costs.unmeasured
    assert note.endswith("no such shape")
    assert "quantize_static" not in costs.latency_ms


def test_a_network_that_looks_slow_is_measured_again(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptq.export import ort

    measured = iter([9.0, 1.0, 1.0])
    monkeypatch.setattr(ort, "latencies", lambda *args: {"onnx": next(measured), "float": 2.0})
    network, image = networks.build("resnet"), networks.images(1).numpy()
    costs = measure_costs(exported, network, image, threads=1, baseline=False)
    assert costs.latency_ms["onnx"] == 1.0
    monkeypatch.setattr(ort, "latencies", lambda *args: {"onnx": 9.0, "float": 2.0})
    costs = measure_costs(exported, network, image, threads=1, baseline=False)
    assert costs.latency_ms["onnx"] == 9.0


def test_a_missing_file_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ptq.InputError, match=r"none\.onnx"):
        measure_costs(tmp_path / "none.onnx", None, networks.images(1).numpy(), threads=1)
