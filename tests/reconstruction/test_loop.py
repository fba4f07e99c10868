"""Every method on small networks: never worse than nearest rounding, on the grid, repeatable."""

import gc
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ptq.calibration.activation_ranges import calibrate
from ptq.errors import InputError
from ptq.graph.blocks import named_inputs, split
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.quantizers import Rounding, WeightQuantizer
from ptq.reconstruction.config import METHODS, ReconstructConfig
from ptq.reconstruction.loop import reconstruct
from ptq.reconstruction.results import BlockResult
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.metrics import sqnr_db
from ptq.utils.work_store import WorkStore
from tests.helpers.networks import SHAPE, build, images, quantized_network
from tests.helpers.progress import Recorder

COUNT = 24


def quick(method: str, iterations: int = 12) -> ReconstructConfig:
    config = METHODS[method]
    return replace(config, batch=8, iterations=iterations if config.iterations else 0)


def in_bfloat16(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Numbers as they are kept between blocks."""
    return {name: value.bfloat16().float() for name, value in tensors.items()}


class Outcome:
    """One loop, and what was before it."""

    def __init__(self, network: str, method: str, store: WorkStore | None = None) -> None:
        self.quantized_model: QuantizedModel = quantized_network(network, 3, 4)
        torch.seed()  # the global generator plays no part
        self.before = {k: v.clone() for k, v in self.quantized_model.module.state_dict().items()}
        self.float_model = {
            k: v.clone() for k, v in self.quantized_model.require_float_model().module.state_dict().items()
        }
        self.code = self.quantized_model.require_float_model().module.code
        self.progress = Recorder()
        self.seen: list[tuple[int, BlockResult]] = []
        self.results = reconstruct(
            self.quantized_model,
            images(COUNT),
            quick(method),
            store=store,
            progress=self.progress,
            on_block=lambda index, result: self.seen.append((index, result)),
        )

    def bits_of(self, other: "Outcome") -> bool:
        """Whether this quantized model is the other one, bit for bit."""
        theirs = other.quantized_model.module.state_dict()
        return all(torch.equal(v, theirs[k]) for k, v in self.quantized_model.module.state_dict().items())


outcome = cache(Outcome)
RUNS = [
    *[("resnet", method) for method in METHODS],
    ("mobilenet", "qdrop"),
    ("squeeze_excite", "brecq"),
    ("upsampling", "adaround"),
    ("densenet", "qdrop"),
    ("shufflenet", "qdrop"),
    ("shared", "adaround"),
]
runs = pytest.mark.parametrize(("network", "method"), RUNS)


@runs
def test_no_block_is_worse_than_with_nearest_rounding(network: str, method: str) -> None:
    done = outcome(network, method)
    assert all(result.sqnr >= result.sqnr_nearest for result in done.results)
    if network == "resnet" and method != "nearest":
        learned = [result for result in done.results if result.kept == "learned"]
        assert learned
        assert any(result.sqnr > result.sqnr_nearest for result in learned)


@runs
def test_reported_figures_are_those_of_the_blocks(network: str, method: str) -> None:
    """From one block to the next, activations are in bfloat16."""
    done = outcome(network, method)
    x = y = in_bfloat16(named_inputs(done.quantized_model.module, images(COUNT)))
    float_blocks = split(done.quantized_model.require_float_model().module, done.quantized_model.blocks)
    with torch.no_grad():
        for float_block, block, result in zip(float_blocks, done.quantized_model.split(), done.results, strict=True):
            x, output = in_bfloat16(float_block(x)), block(y)
            assert result.weighted or sqnr_db(*x.values(), *output.values()) == pytest.approx(result.sqnr, abs=1e-3)
            y = in_bfloat16(output)


@runs
def test_codes_end_beside_the_float_weight(network: str, method: str) -> None:
    done = outcome(network, method)
    for result in done.results:
        for name in result.layers:
            layer = done.quantized_model.layers()[name]
            quantizer, weight = layer.weight_quantizer, layer.weight_quantizer.float_weight
            nearest = done.before[f"{_target(done.quantized_model, name)}.weight_quantizer._codes"]
            if result.kept == "learned":
                assert quantizer.rounding is Rounding.LEARNED
                floor = (weight / _broadcast(quantizer, weight)).floor()
                lowest, highest = quantizer.spec.qmin, quantizer.spec.qmax
                assert bool((quantizer.codes >= floor.clamp(lowest, highest)).all())
                assert bool((quantizer.codes <= (floor + 1).clamp(lowest, highest)).all())
            else:
                assert quantizer.rounding is Rounding.NEAREST
                assert torch.equal(quantizer.codes, nearest)


@runs
def test_the_quantized_model_is_left_ready_to_use(network: str, method: str) -> None:
    done = outcome(network, method)
    quantized_model = done.quantized_model
    assert quantized_model.module.state_dict().keys() == done.before.keys()  # still loads what it saved
    assert not any(module.training for module in quantized_model.module.modules())
    assert not any(p.requires_grad for p in quantized_model.module.parameters())
    for quantizer in quantized_model.quantizers().values():
        assert quantizer.calibrated
        assert quantizer.scale > 0
    x = images(3)
    assert torch.equal(quantized_model.integer_forward(x), quantized_model.integer_forward(x))
    assert bool(torch.isfinite(quantized_model.integer_forward(x)).all())


@runs
def test_the_float_network_is_untouched(network: str, method: str) -> None:
    done = outcome(network, method)
    module = done.quantized_model.require_float_model().module
    assert module.code == done.code
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in done.float_model.items())


@runs
def test_every_block_is_reported_once_in_order(network: str, method: str) -> None:
    done = outcome(network, method)
    assert done.seen == list(enumerate(done.results))
    assert [n for r in done.results for n in r.layers] == list(done.quantized_model.layers())
    for result in done.results:
        assert result.to_json()["kept"] in ("learned", "nearest", "skipped")
        assert result.seconds >= 0


@runs
def test_progress_reaches_its_total(network: str, method: str) -> None:
    progress = outcome(network, method).progress
    assert progress.done == (0 if method == "nearest" else progress.total)


@pytest.mark.parametrize("method", METHODS)
def test_progress_reaches_its_total_with_layers_that_learn_no_scales(method: str) -> None:
    graph_model, progress = prepare(build("mobilenet"), SHAPE), Recorder()
    quantized_model = insert_quantizers(graph_model, make_plan(graph_model, 3, 4, edge_bits=4))  # the last one, too
    calibrate(quantized_model, images(8), observer="minmax")
    reconstruct(quantized_model, images(8), quick(method, 3), progress=progress)
    assert progress.done == (0 if method == "nearest" else progress.total)


def test_nearest_changes_nothing_but_biases() -> None:
    done = outcome("resnet", "nearest")
    state = done.quantized_model.module.state_dict()
    changed = {key for key, value in state.items() if not torch.equal(value, done.before[key])}
    assert changed and all(key.endswith(".op.bias") for key in changed)
    assert {result.kept for result in done.results} == {"skipped"}
    assert any(result.sqnr > result.sqnr_nearest for result in done.results)


def test_without_bias_correction_nearest_changes_nothing() -> None:
    quantized_model = quantized_network("resnet", 3, 4)
    before = {k: v.clone() for k, v in quantized_model.module.state_dict().items()}
    results = reconstruct(quantized_model, images(8), replace(METHODS["nearest"], correct_bias=False))
    assert all(torch.equal(v, before[k]) for k, v in quantized_model.module.state_dict().items())
    assert all(result.sqnr == result.sqnr_nearest for result in results)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "nearest"])
def test_same_seed_same_bits(method: str) -> None:
    first = outcome("resnet", method).quantized_model.module.state_dict()
    again = Outcome("resnet", method).quantized_model.module.state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize("method", METHODS)
def test_activations_on_disk_make_no_difference(method: str, tmp_path: Path) -> None:
    cache, quantized_model = (ActivationCache(limit=0, folder=tmp_path), quantized_network("resnet", 3, 4))
    reconstruct(quantized_model, images(COUNT), quick(method), cache=cache)
    first = outcome("resnet", method).quantized_model.module.state_dict()
    assert all(torch.equal(first[k], v) for k, v in quantized_model.module.state_dict().items())
    gc.collect()
    assert cache.peak == cache.used == cache.disk == 0 < cache.peak_disk


@runs
def test_what_was_learned_has_curves(network: str, method: str) -> None:
    config = quick(method)
    for result in outcome(network, method).results:
        assert bool(result.losses) == (result.kept != "skipped")
        assert all(len(curve) == config.iterations for curve in result.losses)
        if result.losses and config.unit == "block":
            assert len(result.losses) == (1 if config.joint else 2)


def test_three_activations_are_the_most_at_a_time() -> None:
    cache, quantized_model, x = (ActivationCache(1 << 30), quantized_network("resnet", 3, 4), images(COUNT))
    results = reconstruct(quantized_model, x, quick("qdrop"), cache=cache)
    sizes = [x.numel()]
    with torch.no_grad():
        for block in split(quantized_model.require_float_model().module, quantized_model.blocks):
            (x,) = block(dict.fromkeys(block.inputs, x)).values()
            sizes.append(x.numel())
    # A block's two inputs and its target; then its input and both outputs.
    both = list(pairwise(sizes))
    assert cache.peak == 2 * max(*(2 * a + b for a, b in both[1:]), *(a + 2 * b for a, b in both))
    assert cache.peak == results[-1].memory and results[-1].disk == 0
    assert [r.memory for r in results] == sorted(r.memory for r in results)


def test_another_seed_other_bits() -> None:
    quantized_model, first = (quantized_network("resnet", 3, 4), outcome("resnet", "qdrop").quantized_model)
    reconstruct(quantized_model, images(COUNT), replace(quick("qdrop"), seed=1))
    mine, other = quantized_model.module.state_dict(), first.module.state_dict()
    assert any(not torch.equal(mine[key], other[key]) for key in mine)


def test_learning_helps_the_whole_network() -> None:
    model, x = build("resnet"), images(COUNT)
    nearest, learned = quantized_network("resnet", 3, 8), quantized_network("resnet", 3, 8)
    reconstruct(learned, x, replace(quick("qdrop", 60), batch=16))
    assert sqnr_db(model(x), learned.integer_forward(x)) > sqnr_db(model(x), nearest.integer_forward(x)) + 1


def test_an_uncalibrated_model_is_refused() -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    with pytest.raises(InputError):
        reconstruct(insert_quantizers(graph_model, make_plan(graph_model, 4)), images(4))


def _target(quantized_model: QuantizedModel, name: str) -> str:
    return next(str(n.target) for n in quantized_model.module.graph.nodes if n.name == name)


def _broadcast(quantizer: WeightQuantizer, weight: Tensor) -> Tensor:
    shape = [1] * weight.dim()
    shape[quantizer.spec.axis or 0] = -1
    return quantizer.scale.reshape(shape)
