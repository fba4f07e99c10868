"""Step by step, file and simulation are the same where they are, and any change of the file shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.calibration.activation_ranges import calibrate
from ptq.data.preprocess import Preprocess
from ptq.export import export_qdq, onnx_files, ort, validate
from ptq.export.checks import FLIPPED
from ptq.export.stepwise import compare_stepwise
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from tests.helpers import networks

PREPROCESS = Preprocess((16, 16), 16, "bilinear", (0.5,) * 3, (0.25,) * 3)
Made = tuple[QuantizedModel, Path]


class Gelu(nn.Module):
    """Convolutions with GELUs between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.middle(F.gelu(self.stem(x))))
        logits: Tensor = self.fc(F.relu(self.last(x)).mean((2, 3)))
        return logits


def transformer() -> nn.Module:
    """Blocks enough for a flipped code to become many."""
    block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True, activation="gelu")

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.blocks = nn.Conv2d(3, 32, 2, 2), nn.TransformerEncoder(block, 6)
            self.fc = nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(self.blocks(self.stem(x).flatten(2).transpose(1, 2)).mean(1))
            return logits

    return Transformer()


def made(network: Callable[[], nn.Module], bits: tuple[int, int], folder: Path) -> Made:
    torch.manual_seed(0)
    graph_model = prepare(network().eval(), networks.SHAPE)
    quantized_model = insert_quantizers(graph_model, make_plan(graph_model, *bits))
    calibrate(quantized_model, networks.images(16))
    return quantized_model, export_qdq(quantized_model, folder / "model.onnx", format="int8")


@pytest.fixture(scope="module", params=[(8, 8), (4, 4)])
def gelu(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(Gelu, request.param, tmp_path_factory.mktemp("gelu"))


def test_a_file_with_weights_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "LARGE", 1000)
    quantized_model, path = made(Gelu, (8, 8), tmp_path)
    assert onnx_files.data_file(path).exists()
    found = compare_stepwise(path, quantized_model, networks.images(4, seed=3))
    assert found.output_db > 100 and found.watched_db == np.inf
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_differs_but_numbers_in_the_middle_between_two_codes(gelu: Made) -> None:
    quantized_model, path = gelu
    found = compare_stepwise(path, quantized_model, networks.images(40, seed=3))
    assert [t.name for t in found.tensors] == list(quantized_model.quantizers())
    assert found.tensors[0].count == 16 * 3 * 16 * 16  # as many images as are compared
    assert all(t.farthest <= 1 and t.differing <= 1 for t in found.tensors)
    assert found.output_db > 100 and found.watched_db == np.inf


def test_many_numbers_that_are_the_same_may_lie_in_the_middle_between_two_codes(tmp_path: Path) -> None:
    """A share of what a GELU reads is clipped to one code. Where what it gives for that is in the middle, all of it flips."""
    quantized_model, _ = made(Gelu, (8, 8), tmp_path)
    before, behind = (quantized_model.quantizers()[name] for name in ("middle", "gelu_1"))
    before.set_range(torch.tensor(-1.0), torch.tensor(0.1))
    largest = (before.spec.qmax - before.zero_point) * before.scale
    middle = F.gelu(largest) / 80.5
    path, x = tmp_path / "model.onnx", networks.images(16, seed=3)

    def differing(scale: Tensor) -> tuple[float, int]:
        """The share of the GELU's codes, and how many numbers, differ when the simulation has another scale."""
        behind.set_scale(middle * (1 - 1e-6))
        export_qdq(quantized_model, path)
        behind.set_scale(scale)
        (found,) = (t for t in compare_stepwise(path, quantized_model, x).tensors if t.name == "gelu_1")
        return found.differing / found.count, found.numbers

    assert differing(middle * (1 - 1e-6)) == (0, 0)
    share, numbers = differing(middle * (1 + 1e-6))  # as if the GELU had come out otherwise in its last bits
    assert share > FLIPPED and numbers == 1
    share, numbers = differing(middle * (1 + 1e-2))
    assert share > FLIPPED and numbers > 1


def test_flips_of_a_transformer_do_not_add_up(tmp_path: Path) -> None:
    quantized_model, path = made(transformer, (8, 8), tmp_path)
    found = compare_stepwise(path, quantized_model, networks.images(16, seed=3))
    assert all(t.farthest <= 1 and t.differing <= 1e-3 * t.count + 1 for t in found.tensors)
    assert found.output_db > 100 and found.watched_db == np.inf


def changed(path: Path, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Path:
    """Write the file with another constant beside itself."""
    model = onnx.load(str(path))
    (constant,) = (t for t in model.graph.initializer if t.name == name)
    values = numpy_helper.to_array(constant)
    constant.CopyFrom(numpy_helper.from_array(change(values.copy()).astype(values.dtype), name))
    onnx.save(model, str(path.with_name("changed.onnx")))
    return path.with_name("changed.onnx")


def one_less(values: NDArray[Any]) -> NDArray[Any]:
    values[:4] = values[:4] - np.sign(values[:4])
    return values


CHANGES: dict[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "every weight of a layer a fifth more": ("middle.weight.scale", lambda v: v * 1.2),
    "a few codes of a weight one less": ("middle.weight.codes", one_less),
    "codes of a bias": ("middle.bias.codes", lambda v: v + 2000),
    "the step of an activation": ("quantizers.gelu.scale", lambda v: v * 1.05),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_behind_a_gelu_fails_the_check(change: str, gelu: Made) -> None:
    """Such files passed while one float operator switched the check on numbers off: predictions hardly change."""
    quantized_model, path = gelu
    bad = changed(path, *CHANGES[change])
    images = networks.images(64, seed=3) / 4 + 0.5
    assert any("gelu" in n.lower() for n in ort.float_operators(ort.optimized(bad)))
    options: dict[str, Any] = {"threads": 1, "runs": 1, "baseline": False, "tolerance": 100.0}
    sound = validate(path, quantized_model, PREPROCESS, [(images, None)], **options)
    assert sound.failed == ()
    found = validate(bad, quantized_model, PREPROCESS, [(images, None)], **options)
    assert any("from the same codes" in line for line in found.failed)
