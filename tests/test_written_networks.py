"""Networks as people write them come out right, or are refused for what they do, by name."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

import ptq
from ptq.export import export_qdq, ort
from ptq.export.checks import EQUAL_DB, FLIPPED, FLOAT_DB
from ptq.export.ort_static import quantize_static
from ptq.export.qdq import export_float
from ptq.export.stepwise import compare_stepwise
from ptq.pruning.coupling.channels import find_channels
from ptq.pruning.coupling.groups import find_groups
from ptq.pruning.removal import remove
from ptq.utils.metrics import sqnr_db
from ptq.utils.modules import to_eval
from tests.helpers.networks import SHAPE, images, with_statistics
from tests.helpers.pruning import random_choice, without_readers
from tests.helpers.written_networks import EXACT, REFUSED, Make
from tests.helpers.written_otherwise import OTHERWISE, REFUSED_OTHERWISE

LEAST = 35.0  # dB of W8A8 against float
POOLS = [name for name in EXACT if "pooling" in name or name in ("GeM", "softmax-weighted sum")]
# What is only wrapped or called otherwise gives the same graph as others: their files would be the same.
SAME_GRAPH = [*list(EXACT)[list(EXACT).index("weight_norm") :], "SyncBatchNorm", "a subclass of BatchNorm2d"]
EXPORTED = [
    name
    for name in EXACT
    if name not in SAME_GRAPH or name in ("an input called output", "a layer's weight used again")
]
EXPORTED += [
    name
    for name in OTHERWISE
    if name.startswith("Conv")
    or name in ("parts of a tensor written", "max-unpooling", "F.conv2d, same, of even size", "a token repeated")
]


WRITTEN: Mapping[str, Make] = {**EXACT, **OTHERWISE}
REFUSALS: Mapping[str, tuple[Make, str]] = {**REFUSED, **REFUSED_OTHERWISE}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    made = WRITTEN[name]()
    for module in made.modules():
        if type(module) is nn.BatchNorm2d or type(module) is nn.BatchNorm1d:
            with_statistics(module)
    to_eval(made)
    return made


def answer(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    kind = next(model.parameters()).dtype
    with torch.no_grad():
        y = model(x.to(kind))
    output: torch.Tensor = y[0] if isinstance(y, list) else y
    return output.clone().float()


@pytest.mark.parametrize("name", WRITTEN)
def test_the_graph_computes_what_the_network_computes(name: str) -> None:
    model, x = network(name), images(4)
    expected = answer(model, x)
    graph = ptq.prepare(model, SHAPE)
    assert sqnr_db(expected, graph.module(x)) > (40 if name == "autocast" else 90)
    assert torch.equal(answer(model, x), expected)  # untouched
    left = {type(module).__name__ for module in graph.module.modules()}
    assert not left & {"BatchNorm2d", "SyncBatchNorm", "FrozenBatchNorm2d", "Frozen", "Conv1d", "MultiheadAttention"}


@pytest.mark.parametrize("name", WRITTEN)
def test_channels_without_weight_can_be_removed(name: str) -> None:
    graph = ptq.prepare(network(name), SHAPE)
    channels = find_channels(graph)
    kept = random_choice(channels.count, find_groups(channels))
    silent, x = without_readers(graph, channels, kept), images(4)
    torch.testing.assert_close(remove(silent, channels, kept).module(x), silent.module(x), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_the_file_computes_what_was_simulated(name: str, tmp_path: Path) -> None:
    model, x = network(name), images(64, seed=3)
    graph_model = ptq.prepare(model, SHAPE)
    quantized_model = ptq.calibrate(ptq.insert_quantizers(graph_model, ptq.make_plan(graph_model, 8)), x)
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    given = torch.from_numpy(ort.run(ort.session(path), x.numpy()))
    simulated, expected = quantized_model.integer_forward(x), answer(model, x)
    optimized = ort.optimized(path)
    if ort.float_operators(optimized) or ort.float_layers(optimized):
        steps = compare_stepwise(path, quantized_model, x)
        assert all(t.farthest <= 1 and (t.differing <= FLIPPED * t.count or t.numbers == 1) for t in steps.tensors)
        assert steps.output_db > FLOAT_DB and steps.watched_db > EQUAL_DB
    else:
        assert torch.equal(simulated, given)
    assert sqnr_db(expected, given) > LEAST
    if name in POOLS:
        float_file = export_float(graph_model.module, tmp_path / "float.onnx", graph_model.example(2))
        static = quantize_static(float_file, tmp_path / "static.onnx", x.numpy())
        theirs = torch.from_numpy(ort.run(ort.session(static), x.numpy()))
        assert sqnr_db(expected, given) > sqnr_db(expected, theirs)


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_network_does_wrong_is_said_by_name(name: str) -> None:
    make, said = REFUSALS[name]
    torch.manual_seed(0)
    model = make()
    to_eval(model)
    with pytest.raises(ptq.ModelError) as refusal:
        ptq.prepare(model, SHAPE)
    assert said in str(refusal.value)
