"""Fine-tuning brings the whole network nearer to the float network, changes no code, and never does harm."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ptq.calibration.activation_ranges import calibrate
from ptq.errors import InputError
from ptq.export import export_qdq
from ptq.export.ort import run, session
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.config import ReconstructConfig
from ptq.reconstruction.finetuning import finetune, outputs_of, tunable, views_apart
from ptq.utils.metrics import sqnr_db
from ptq.utils.work_store import WorkStore
from tests.helpers.branching_networks import quantized_branching
from tests.helpers.networks import NETWORKS, SHAPE, build, images
from tests.helpers.progress import Recorder

CONFIG = ReconstructConfig(finetune=30, batch=8, lr_finetune=3e-3, tune_below=math.inf)


def calibrated(name: str = "resnet", bits: int = 3) -> QuantizedModel:
    graph_model = prepare(build(name), SHAPE)
    return calibrate(insert_quantizers(graph_model, make_plan(graph_model, bits, bits)), images(32))


def learned_and_apart() -> tuple[torch.Tensor, torch.Tensor]:
    return images(32)[:28], images(32)[28:]


def error_of(quantized_model: QuantizedModel, x: torch.Tensor) -> float:
    float_network = quantized_model.require_float_model().module
    return float(quantized_model.task.loss(outputs_of(quantized_model.module, x), outputs_of(float_network, x)))


@pytest.mark.parametrize("name", NETWORKS)
def test_predictions_come_nearer_and_codes_stay(name: str) -> None:
    quantized_model = calibrated(name)
    codes = {n: layer.weight_quantizer.codes.clone() for n, layer in quantized_model.layers().items()}
    result = finetune(quantized_model, *learned_and_apart(), CONFIG)
    assert result is not None
    assert result.after <= result.before
    assert result.kept == (result.after < result.before)
    for n, layer in quantized_model.layers().items():
        assert torch.equal(layer.weight_quantizer.codes, codes[n])
        assert bool((layer.weight_quantizer.scale >= layer.least_weight_scale()).all())


@pytest.mark.parametrize("name", NETWORKS)
def test_what_learns_computes_what_the_network_computes(name: str) -> None:
    """Rounded biases among it; the bound is that of a few numbers on another side of the middle between two codes."""
    quantized_model, x = calibrated(name, bits=4), images(16)
    spread = {layer: torch.ones(1) for layer in quantized_model.layers().values()}
    with torch.no_grad():
        assert sqnr_db(quantized_model.module(x), tunable(quantized_model.module, spread)(x)) > 35


def test_images_that_took_no_part_tell_what_it_brought() -> None:
    quantized_model, (inputs, apart) = calibrated(), learned_and_apart()
    (views,) = views_apart([apart], CONFIG.seed)
    before = error_of(quantized_model, views)
    result = finetune(quantized_model, inputs, apart, CONFIG)
    assert result is not None
    assert (result.images, result.iterations) == (4, 30)
    assert result.before == pytest.approx(before)
    assert result.after == pytest.approx(error_of(quantized_model, views))
    assert result.kept
    assert result.after < 0.8 * before


def test_all_outputs_of_a_network_come_nearer_together() -> None:
    quantized_model, (inputs, apart) = quantized_branching("two heads"), learned_and_apart()
    (views,) = views_apart([apart], CONFIG.seed)
    before = error_of(quantized_model, views)
    result = finetune(quantized_model, inputs, apart, CONFIG)
    assert result is not None and result.kept
    assert result.before == pytest.approx(before, rel=1e-4)
    assert result.after == pytest.approx(error_of(quantized_model, views), rel=1e-4)
    assert result.after < 0.9 * before


def test_what_does_not_help_is_taken_back_bit_for_bit() -> None:
    quantized_model = calibrated()
    state = {name: value.clone() for name, value in quantized_model.module.state_dict().items()}
    result = finetune(quantized_model, *learned_and_apart(), replace(CONFIG, lr_finetune=30.0))
    assert result is not None
    assert not result.kept
    assert result.after == result.before
    assert all(torch.equal(value, state[name]) for name, value in quantized_model.module.state_dict().items())


def test_a_network_that_is_good_enough_is_left_alone() -> None:
    quantized_model = calibrated(bits=8)
    assert finetune(quantized_model, *learned_and_apart(), replace(CONFIG, tune_below=10.0)) is None
    assert finetune(quantized_model, *learned_and_apart(), replace(CONFIG, finetune=0, tune_below=99.0)) is None


def test_finished_work_is_taken_from_the_store(tmp_path: Path) -> None:
    first, second = calibrated(), calibrated()
    told = Recorder()
    one = finetune(first, *learned_and_apart(), CONFIG, store=WorkStore(tmp_path), progress=told)
    again = finetune(second, *learned_and_apart(), CONFIG, store=WorkStore(tmp_path))
    assert one is not None
    assert again == one
    mine, other = first.module.state_dict(), second.module.state_dict()
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert len(one.losses) == 30


def test_two_runs_of_one_seed_end_the_same() -> None:
    states = []
    for _ in range(2):
        quantized_model = calibrated()
        finetune(quantized_model, *learned_and_apart(), CONFIG)
        states.append(quantized_model.module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_file_computes_what_was_learned(tmp_path: Path) -> None:
    quantized_model = calibrated("mobilenet")
    assert finetune(quantized_model, *learned_and_apart(), CONFIG) is not None
    export_qdq(quantized_model, tmp_path / "model.onnx")
    x = images(8)
    with torch.no_grad():
        expected = quantized_model.integer_forward(x)
    assert torch.equal(torch.from_numpy(run(session(tmp_path / "model.onnx"), x.numpy())), expected)


def test_what_is_not_calibrated_is_refused() -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    with pytest.raises(InputError):
        finetune(insert_quantizers(graph_model, make_plan(graph_model, 4)), images(7), images(1), CONFIG)
