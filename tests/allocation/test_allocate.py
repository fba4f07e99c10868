"""Bits for a budget: the real file is as large as predicted and no larger than asked, and mixed beats uniform."""

from functools import cache
from pathlib import Path

import pytest
import torch
import torchvision

from ptq.allocation.allocate import RESERVE, Choices, allocate, find_choices
from ptq.allocation.harms import measure_together
from ptq.allocation.widths import change_widths
from ptq.calibration.activation_ranges import calibrate
from ptq.errors import InputError
from ptq.export.onnx_files import size_bytes
from ptq.export.qdq import export_qdq
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from ptq.utils.sampling import evenly
from tests.helpers.networks import images, quantized_network

NAMES = ["resnet", "mobilenet"]


@cache
def made(name: str) -> tuple[QuantizedModel, torch.Tensor, Choices]:
    quantized_model, x = quantized_network(name, 8, 8), images(16)
    return quantized_model, x, find_choices(quantized_model, x, count=8)


@pytest.mark.parametrize(("name", "share"), [("resnet", 0.35), ("mobilenet", 0.0)])
def test_files_are_as_large_as_predicted_and_no_larger_than_asked(name: str, share: float, tmp_path: Path) -> None:
    quantized_model, x, choices = made(name)
    least, most = choices.tradeoffs.least() + 64, choices.tradeoffs.most() + 64
    budget = round(least + share * (most - least))
    found = allocate(quantized_model, x, choices, budget)
    assert found.size <= budget and found.rounds >= 1
    file = export_qdq(change_widths(quantized_model, found.bits), tmp_path / "model.onnx")
    assert size_bytes(file) <= budget
    assert size_bytes(file) == pytest.approx(found.size, abs=64)


@pytest.mark.parametrize("name", NAMES)
def test_mixed_bits_do_no_more_harm_than_uniform_ones_of_the_same_size(name: str) -> None:
    quantized_model, x, choices = made(name)
    widths = {layer.name: [width.bits for width in layer.widths] for layer in choices.tradeoffs.layers}
    uniform = {layer: 4 if 4 in bits else 8 for layer, bits in widths.items()}
    found = allocate(quantized_model, x, choices, choices.tradeoffs.size(uniform) + 64)
    weights = {layer: choices.weights[layer][bits] for layer, bits in uniform.items()}
    assert found.predicted <= choices.tradeoffs.harm(uniform)
    assert (
        found.measured
        <= 1.1
        * measure_together(quantized_model.require_float_model(), weights, evenly(x, choices.tradeoffs.images)).harm
    )


def test_ranges_of_activations_stay_when_widths_change() -> None:
    quantized_model, _, _ = made("resnet")
    changed = change_widths(quantized_model, {"blocks_2_conv1": 2})
    for name, quantizer in changed.quantizers().items():
        assert torch.equal(quantizer.scale, quantized_model.quantizers()[name].scale)
    same, other = changed.layers()["fc"].weight_quantizer, quantized_model.layers()["fc"].weight_quantizer
    assert torch.equal(same.codes, other.codes)


def test_what_cannot_be_met_is_refused() -> None:
    quantized_model, x, choices = made("resnet")
    with pytest.raises(InputError):
        allocate(quantized_model, x, choices, choices.tradeoffs.least() - 1)


@pytest.mark.parametrize("name", NAMES)
def test_no_layer_could_be_wider_in_a_file_of_the_size_asked_for(name: str, tmp_path: Path) -> None:
    quantized_model, x, choices = made(name)
    least, most = choices.tradeoffs.least() + RESERVE, choices.tradeoffs.most() + RESERVE
    for share in (0.2, 0.6):
        budget = round(least + share * (most - least))
        found = allocate(quantized_model, x, choices, budget, points=False)
        written = size_bytes(export_qdq(change_widths(quantized_model, found.bits), tmp_path / "model.onnx"))
        wider = [
            width.size - layer.of(found.bits[layer.name]).size
            for layer in choices.tradeoffs.layers
            for width in layer.widths
            if width.harm < layer.of(found.bits[layer.name]).harm
        ]
        assert written <= budget
        assert found.size + min(wider, default=most) > budget - RESERVE


@pytest.mark.slow
def test_files_of_mobilenet_v2_use_what_they_may(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph_model = prepare(torchvision.models.mobilenet_v2(weights=None).eval(), (3, 32, 32))
    x = torch.randn(8, 3, 32, 32)
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 8)), x, observer="minmax")
    choices = find_choices(quantized_model, x, count=8)
    for budget in (1_500_000, 2_750_000):
        found = allocate(quantized_model, x, choices, budget, points=False)
        written = size_bytes(export_qdq(change_widths(quantized_model, found.bits), tmp_path / "model.onnx"))
        assert written <= budget
        assert written >= 0.98 * min(budget, choices.tradeoffs.most())
