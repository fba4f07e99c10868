"""The exported file computes what the quantized model computed."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import ptq
from ptq.calibration.activation_ranges import calibrate
from ptq.export import export_float, export_qdq, ort
from ptq.export.onnx_files import QuantizedFile
from ptq.export.operators.lowering import lower
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from tests.helpers import networks


def run(path: Path, x: Tensor, *, optimize: bool = True) -> Tensor:
    return torch.from_numpy(ort.run(ort.session(path, optimize=optimize), x.numpy()))


def assert_close(actual: Tensor, quantized_model: QuantizedModel, x: Tensor) -> None:
    """Equal up to a few codes that rounding decided the other way, and hence in almost every class."""
    expected = quantized_model.integer_forward(x)
    noise = (actual - expected).square().mean() / expected.square().mean()
    assert noise < 2e-3
    assert (actual.argmax(1) == expected.argmax(1)).float().mean() >= 0.95


@dataclass(frozen=True)
class Exported:
    quantized_model: QuantizedModel
    path: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """Export a network once for all tests that look at it."""

    @cache
    def make(name: str, weight_bits: int = 4, act_bits: int = 8) -> Exported:
        quantized_model = networks.quantized_network(name, weight_bits, act_bits)
        path = tmp_path_factory.mktemp("onnx") / "model.onnx"
        return Exported(quantized_model, export_qdq(quantized_model, path, {"model": name, "seed": "0"}))

    return make


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("resnet", (8, 8)),
        ("resnet", (2, 4)),
        ("mobilenet", (4, 4)),
        ("squeeze_excite", (4, 8)),
        ("shared", (3, 8)),
        ("functional", (8, 8)),
        ("densenet", (4, 8)),
        ("shufflenet", (4, 8)),
        ("upsampling", (4, 8)),
    ],
)
def test_file_computes_what_was_simulated(name: str, bits: tuple[int, int], exported: Callable[..., Exported]) -> None:
    made = exported(name, *bits)
    x = networks.images(64, seed=3)
    with torch.no_grad():
        assert torch.allclose(lower(made.quantized_model.module)(x), made.quantized_model.module(x), atol=1e-5)
    for optimize in (True, False):
        assert_close(run(made.path, x, optimize=optimize), made.quantized_model, x)
    file = QuantizedFile(made.path)
    assert file.unquantized() == [] and file.wrong_bias_scales() == []
    assert len(file.layers()) == len(made.quantized_model.plan.weights)
    assert file.metadata["ptq.model"] == name
    assert file.metadata["ptq.weight_bits"] in (f"{bits[0]},8", "8")


@pytest.mark.parametrize(("name", "bits"), [("resnet", (2, 4)), ("mobilenet", (4, 4))])
def test_integer_kernels_run_every_layer(name: str, bits: tuple[int, int], exported: Callable[..., Exported]) -> None:
    path = exported(name, *bits).path
    assert ort.float_layers(ort.optimized(path)) == []
    nodes = Counter(node.op_type for node in onnx.load(str(path)).graph.node)
    assert not {"Relu", "Pad", "ReduceMean", "Shape", "Constant"} & set(nodes)


def test_names_shapes_and_types(exported: Callable[..., Exported]) -> None:
    made = exported("resnet", 2, 4)
    graph = onnx.load(str(made.path)).graph
    assert [i.name for i in graph.input] == ["x"] and [o.name for o in graph.output] == ["output"]
    sizes = graph.input[0].type.tensor_type.shape.dim
    assert sizes[0].dim_param == "batch" and [d.dim_value for d in sizes[1:]] == [3, 16, 16]
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    weights = {n: v for n, v in constants.items() if n.endswith(".weight.codes")}
    assert len(weights) == len(made.quantized_model.plan.weights)
    assert set(np.unique(weights["blocks.0.conv1.weight.codes"].astype(int))) <= {-2, -1, 0, 1}
    names = [node.name for node in graph.node]
    assert "blocks.0.conv1/Conv" in names and len(set(names)) == len(names)
    assert not any(node.metadata_props or node.doc_string for node in graph.node)


def test_batch_is_free(exported: Callable[..., Exported]) -> None:
    path = exported("shufflenet").path
    x = networks.images(7, seed=5)
    one_by_one = torch.cat([run(path, x[i : i + 1]) for i in range(7)])
    assert torch.equal(run(path, x), one_by_one)


def test_the_quantized_model_stays_untouched(tmp_path: Path) -> None:
    quantized_model = networks.quantized_network("mobilenet")
    before = {k: v.clone() for k, v in quantized_model.module.state_dict().items()}
    code = quantized_model.module.code
    lower(quantized_model.module)
    assert quantized_model.module.code == code
    assert all(torch.equal(v, before[k]) for k, v in quantized_model.module.state_dict().items())


class Padded(nn.Module):
    """Uneven zero padding, and padding by reflection, before convolutions; a ReLU6 that folds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2), nn.ReLU6())
        self.conv = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(6 * self.stem(x)).mean((2, 3)))
        return logits


def quantized_network(model: nn.Module, bits: tuple[int, int]) -> QuantizedModel:
    graph_model = prepare(model.eval(), networks.SHAPE)
    plan = make_plan(graph_model, *bits, edge_bits=bits[1])
    return calibrate(insert_quantizers(graph_model, plan), 4 * networks.images(16), observer="minmax")


def test_padding_becomes_the_convolutions_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    quantized_model = quantized_network(Padded(), (8, 4))
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    (stem,) = (n for n in onnx.load(str(path)).graph.node if n.name == "stem.1/Conv")
    assert next(list(a.ints) for a in stem.attribute if a.name == "pads") == [0, 0, 1, 1]
    x = 4 * networks.images(64, seed=3)
    for optimize in (True, False):
        assert_close(run(path, x, optimize=optimize), quantized_model, x)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_a_border_that_is_not_zero_leaves_the_layer_in_integers(
    mode: Literal["reflect", "replicate", "circular"], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, padding_mode=mode)
    quantized_model = quantized_network(nn.Sequential(*layers, nn.Flatten(), nn.Linear(1568, 10)), (8, 8))
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    assert QuantizedFile(path).unquantized() == []
    assert ort.float_layers(ort.optimized(path)) == []
    x = networks.images(8, seed=3)
    assert torch.allclose(run(path, x), quantized_model.integer_forward(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6()])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_activation_folds_exactly(activation: nn.Module, bits: int) -> None:
    """Also where the range reaches below 0 and above 6, so that the clamp has work to do."""
    layers = nn.Conv2d(3, 4, 1), activation, nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(1024, 3)
    quantized_model = quantized_network(nn.Sequential(*layers), (8, bits))
    quantized_model.quantizers()["_1"].set_range(torch.tensor(-1.7), torch.tensor(9.3))
    x = 40 * networks.images(8)
    twin = lower(quantized_model.module)
    assert not any(isinstance(m, nn.ReLU | nn.ReLU6) for m in twin.modules())
    with torch.no_grad():
        assert torch.allclose(twin(x), quantized_model.module(x), atol=1e-5)


def test_unfinished_models_are_refused(tmp_path: Path) -> None:
    graph_model = prepare(networks.build("mobilenet"), networks.SHAPE)
    path = tmp_path / "model.onnx"
    with pytest.raises(ptq.ExportError):
        export_qdq(insert_quantizers(graph_model, make_plan(graph_model, 8)), path)
    assert not list(tmp_path.iterdir())


def test_float_layer_of_the_plan_stays_float(tmp_path: Path) -> None:
    graph_model = prepare(networks.build("resnet"), networks.SHAPE)
    plan = make_plan(graph_model, 4, 8, layers={"blocks.1.conv1": None})
    quantized_model = calibrate(insert_quantizers(graph_model, plan), networks.images(16))
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    assert QuantizedFile(path).unquantized() == ["blocks.1.conv1/Conv"]
    assert ort.float_layers(ort.optimized(path)) == ["blocks.1.conv1/Conv"]
    x = networks.images(32, seed=3)
    assert_close(run(path, x), quantized_model, x)


def test_float_export_computes_the_same(tmp_path: Path) -> None:
    model = networks.build("functional")
    path = export_float(model, tmp_path / "float.onnx", networks.images(2))
    x = networks.images(5, seed=2)
    with torch.no_grad():
        assert torch.allclose(run(path, x), model(x), atol=1e-4)


def test_inexpressible_network_is_one_message(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            values: Tensor = torch.linalg.svd(x.flatten(1)).S
            return values

    with pytest.raises(ptq.ExportError):
        export_float(Odd(), tmp_path / "odd.onnx", networks.images(2))
    assert not list(tmp_path.iterdir())


def test_layers_with_equal_weights_do_not_share_them_in_the_file(tmp_path: Path) -> None:
    """The exporter merges them, and onnxruntime's rewriting of int8 weights fails on what is shared."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    ).eval()
    for norm in model[2:8:2]:
        assert isinstance(norm.bias, torch.Tensor)
        nn.init.constant_(norm.bias, 0.1)  # by which a norm stays a layer: a factor alone would go into the convolution
    graph_model = prepare(model, networks.SHAPE)
    quantized_model = insert_quantizers(graph_model, make_plan(graph_model, 8))
    x = graph_model.example(16)
    calibrate(quantized_model, x)
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    graph = onnx.load(str(path)).graph
    weights = [n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"]
    weights = [name for name in weights if ".weight." in name]
    assert len(weights) == len(set(weights)) == 5
    for precise in (True, False):
        ort.run(ort.session(path, precise=precise), x.numpy())


def test_what_computes_on_real_numbers_is_named(tmp_path: Path) -> None:
    """Only what has no integer kernel: neither conversions nor the last layer, which writes real numbers."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.gelu(self.first(x))
            x = torch.cat([x[..., 1:-1, 1:-1], self.second(x)], 1)
            return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]

    graph_model = prepare(Odd().eval(), networks.SHAPE)
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 8)), networks.images(4))
    path = export_qdq(quantized_model, tmp_path / "odd.onnx")
    kinds = {node.name: node.op_type for node in ort.optimized(path).node}
    assert {kinds[name] for name in ort.float_operators(ort.optimized(path))} <= {"Gelu", "Erf", "Mul", "Add", "Div"}
    assert ort.float_operators(ort.optimized(path))
    clean = export_qdq(networks.quantized_network("densenet", 4, 4), tmp_path / "clean.onnx")
    assert ort.float_operators(ort.optimized(clean)) == []


@pytest.mark.parametrize("clamp", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh()], ids=repr)
@pytest.mark.parametrize("behind", [nn.LayerNorm(16), nn.GELU()], ids=repr)
def test_a_linear_layer_is_in_integers_where_a_clamp_behind_it_stays_in_float(
    clamp: nn.Module, behind: nn.Module, tmp_path: Path
) -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16), clamp, behind]
    graph_model = prepare(nn.Sequential(*layers).eval(), networks.SHAPE)
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 8)), networks.images(4))
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    assert ort.float_layers(ort.optimized(path)) == []
    given = torch.from_numpy(ort.run(ort.session(path), networks.images(4).numpy()))
    torch.testing.assert_close(given, quantized_model.integer_forward(networks.images(4)), rtol=1e-5, atol=1e-6)
