"""What computes in float, from costs that no clock gives."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import ptq
from ptq.calibration import calibrate
from ptq.export import export_qdq, ort
from ptq.placement import placing
from ptq.placement.cut import Cost
from ptq.placement.kernels import Kernel, Shape
from ptq.placement.placing import Time, place, placed_plan
from ptq.progress import Progress
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from tests.helpers.networks import SHAPE, build, images
from tests.helpers.placement import integers_are_faster

LAYERS = ("blocks_0_conv1", "blocks_0_conv2")


def slow_convolutions(
    kernels: Sequence[Kernel], shapes: Sequence[Shape], threads: int, progress: Progress
) -> dict[Kernel | Shape, Cost]:
    found: dict[Kernel | Shape, Cost] = {shape: Cost(1.0, 1.0) for shape in shapes}
    return found | {k: Cost(50.0 if k.weight == (8, 8, 1, 1) else 5.0, 9.0) for k in kernels}


def taking(**milliseconds: float) -> Time:
    def time(files: Mapping[str, Path], threads: int) -> Mapping[str, float]:
        assert all(path.exists() for path in files.values())
        return {name: milliseconds[name] for name in files}

    return time


@pytest.mark.parametrize(
    ("milliseconds", "in_float"),
    [
        ({"integers": 3.0, "placed": 2.0, "float": 4.0}, ("_2",)),
        ({"integers": 2.0, "placed": 1.97, "float": 4.0}, ()),  # no more than noise
        ({"integers": 3.0, "placed": 3.0, "float": 2.0}, ("_0", "_2", "_4")),
    ],
)
def test_the_whole_network_decides(
    milliseconds: dict[str, float], in_float: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    graph_model = ptq.prepare(nn.Sequential(*layers), (3, 8, 8))
    monkeypatch.setattr(placing, "export_qdq", written)
    found = place(
        graph_model,
        make_plan(graph_model, 8),
        1,
        float_path=written(None, tmp_path / "float.onnx"),
        measure=slow_convolutions,
        time=taking(**milliseconds),
    )
    assert found.in_float == in_float and found.milliseconds == milliseconds
    assert bool(found.note()) == bool(in_float)


def written(quantized_model: object, path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize(("times_longer", "in_float"), [(1, 0), (1000, 3)])
def test_times_of_kernels_that_were_kept_from_a_busy_machine_do_not_decide(
    times_longer: int, in_float: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    graph_model = ptq.prepare(nn.Sequential(*layers), (3, 8, 8))
    monkeypatch.setattr(placing, "export_qdq", written)

    def measure(
        kernels: Sequence[Kernel], shapes: Sequence[Shape], threads: int, progress: Progress
    ) -> dict[Kernel | Shape, Cost]:
        every = integers_are_faster(kernels, shapes, threads, progress)
        return {each: Cost(cost.integers, 100 * times_longer * cost.floats) for each, cost in every.items()}

    found = place(
        graph_model,
        make_plan(graph_model, 8),
        1,
        float_path=written(None, tmp_path / "float.onnx"),
        measure=measure,
        time=taking(integers=3.0, float=2.0),
    )
    assert len(found.in_float) == in_float


@pytest.mark.parametrize("bits", [8, 4])
def test_what_computes_in_float_has_weights_as_small_and_the_simulation_knows(bits: int, tmp_path: Path) -> None:
    graph_model = ptq.prepare(build("resnet"), SHAPE)
    plan = make_plan(graph_model, bits)
    files = []
    for in_float in ((), LAYERS):
        quantized_model = insert_quantizers(graph_model, placed_plan(graph_model, plan, in_float))
        calibrate(quantized_model, images(4))
        files.append(export_qdq(quantized_model, tmp_path / f"{len(in_float)}.onnx"))
        given = torch.from_numpy(ort.run(ort.session(files[-1]), images(4).numpy()))
        assert torch.allclose(given, quantized_model.integer_forward(images(4)), atol=1e-5)
    graph = ort.optimized(files[1])
    assert len(ort.float_layers(graph)) == 2
    # Their weights are constants once the file is loaded, and what is written beside them is no larger than the weights.
    assert sum(node.op_type == "DequantizeLinear" for node in graph.node) == 1
    assert files[1].stat().st_size < files[0].stat().st_size + 500
    file = onnx.load(files[1]).graph
    assert {weight.name for weight in file.initializer} <= {name for node in file.node for name in node.input}


def test_a_node_between_integers_that_shall_compute_in_float_does(tmp_path: Path) -> None:
    graph_model = ptq.prepare(build("resnet"), SHAPE)
    quantized_model = insert_quantizers(graph_model, placed_plan(graph_model, make_plan(graph_model, 8), ["add"]))
    calibrate(quantized_model, images(4))
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    assert [name.rpartition("/")[2] for name in ort.float_operators(ort.optimized(path))] == ["Clip", "Add"]
    given = torch.from_numpy(ort.run(ort.session(path), images(4).numpy()))
    assert torch.allclose(given, quantized_model.integer_forward(images(4)), atol=1e-5)
