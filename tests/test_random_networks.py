"""What must hold of every network, tried on random ones. `python -m benchmarks.fuzz` tries thousands."""

import copy
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from ptq.calibration.activation_ranges import calibrate
from ptq.export import export_qdq, ort
from ptq.export.checks import Evidence, run_checks
from ptq.export.comparison import Comparisons
from ptq.export.integer_reference import IntegerReference
from ptq.export.onnx_files import QuantizedFile
from ptq.export.operators.lowering import lower
from ptq.export.results import failures
from ptq.export.stepwise import compare_stepwise
from ptq.graph import cutting
from ptq.graph.blocks import compose, named_inputs, split
from ptq.graph.cutting import assign_blocks
from ptq.graph.preparation import GraphModel, prepare
from ptq.placement.costs import measure_costs
from ptq.placement.network import divide
from ptq.placement.placing import placed_plan
from ptq.pruning.config import PruneConfig
from ptq.pruning.coupling.channels import find_channels
from ptq.pruning.coupling.groups import find_groups
from ptq.pruning.removal import remove
from ptq.pruning.repair import repair
from ptq.pruning.repair_steps.side_by_side import Survivors
from ptq.pruning.selection.costs import find_costs
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from tests.helpers.network_specs import Spec, images
from tests.helpers.network_strategies import specs
from tests.helpers.pruning import counted_costs, random_choice, without_readers
from tests.helpers.random_networks import Network

SAME = 1e-4  # of the largest output: what folding BatchNorms and other orders of summation may change


@dataclass(frozen=True)
class Case:
    """A network and how to quantize it."""

    spec: Spec
    weight_bits: int
    act_bits: int
    format: str | None
    observer: str


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a network and how to quantize it."""
    bits = st.integers(2, 8)
    formats = st.sampled_from((None, "packed", "int8"))
    return Case(
        draw(specs()), draw(bits), draw(bits), draw(formats), draw(st.sampled_from(("minmax", "mse", "output", "auto")))
    )


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-6))


def prepared_from(spec: Spec) -> GraphModel:
    """Prepare a network, and see that this changed neither it nor what it computes."""
    model, x = Network(spec).eval(), images(spec, 3)
    before = model(x.clone())  # which may write into what it is given
    graph_model = prepare(model, spec.shape)
    assert torch.equal(model(x.clone()), before)
    assert apart(graph_model.module(x), before) < SAME
    return graph_model


def check_blocks(graph_model: GraphModel, x: Tensor) -> None:
    """Blocks in order are the whole, however short they must be."""
    graph = graph_model.module
    for long in (cutting.LONG, 1):
        with patch.object(cutting, "LONG", long):
            blocks = split(graph, assign_blocks(graph))
        assert torch.equal(compose(graph, blocks)(named_inputs(graph, x)), graph(x))


def quantized_network(case: Case, graph_model: GraphModel, in_float: Collection[str] = ()) -> QuantizedModel:
    """Place quantizers and find their ranges; blocks in order are the whole here, too."""
    plan = placed_plan(graph_model, make_plan(graph_model, case.weight_bits, case.act_bits), in_float)
    quantized_model = calibrate(insert_quantizers(graph_model, plan), images(case.spec, 16), observer=case.observer)
    x, graph = images(case.spec, 3, seed=2), quantized_model.module
    for long in (cutting.LONG, 1):
        with patch.object(cutting, "LONG", long):
            blocks = replace(quantized_model, blocks=insert_quantizers(graph_model, plan).blocks).split()
        assert torch.equal(compose(graph, blocks)(named_inputs(graph, x)), graph(x))
    return quantized_model


def check_file(case: Case, quantized_model: QuantizedModel, folder: Path) -> None:
    """The file is sound, and computes what the simulation and the integer_reference compute."""
    path = export_qdq(quantized_model, folder / "model.onnx", format=case.format)
    x = images(case.spec, 6, seed=3)
    optimized = ort.optimized(path)
    float_layers, float_operators = ort.float_layers(optimized), ort.float_operators(optimized)
    opened, plain = ort.session(path), ort.session(path, optimize=False)
    given, simulated = torch.from_numpy(ort.run(opened, x.numpy())), quantized_model.integer_forward(x)
    assert torch.isfinite(given).all()
    outputs = Comparisons(quantized_model.task)
    outputs.add({"onnx": given, "simulated": simulated})
    evidence = Evidence(
        QuantizedFile(path),
        quantized_model,
        float_layers=float_layers,
        float_operators=float_operators,
        outputs=outputs,
        tolerance=100.0,
        stepwise=partial(compare_stepwise, path, quantized_model, x),
    )
    failed = failures(run_checks(evidence))
    assert failed == [], failed
    one_by_one = np.concatenate([ort.run(opened, x[i : i + 1].numpy()) for i in range(len(x))])
    unoptimized = torch.from_numpy(ort.run(plain, x.numpy()))
    assert unoptimized.shape == given.shape
    assert apart(lower(quantized_model.module)(x), quantized_model.module(x)) < 1e-5
    if float_layers or float_operators:
        return  # rounds real numbers, whose last bits depend on the order of summation
    integer_reference = torch.from_numpy(IntegerReference(path)(x.numpy()))
    found = {"one by one": torch.from_numpy(one_by_one), "simulated": simulated, "integer_reference": integer_reference}
    # What a last layer in float leaves is the rounding of float32.
    wrong = {name: apart(y, given) for name, y in found.items() if apart(y, given) >= 1e-6}
    assert not wrong, wrong


def check(case: Case) -> None:
    """All that must hold of a case."""
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        graph_model = prepared_from(case.spec)
        check_blocks(graph_model, images(case.spec, 3))
        check_file(case, quantized_network(case, graph_model), Path(folder))


@given(specs())
def test_preparing_keeps_the_output_and_blocks_compose(spec: Spec) -> None:
    with torch.no_grad():
        check_blocks(prepared_from(spec), images(spec, 3))


def check_pruning(graph_model: GraphModel, x: Tensor, seed: int) -> None:
    """Channels that no layer weighs can go, whichever they are: the output stays, and what is left costs what is told."""
    graph_model = replace(graph_model, module=copy.deepcopy(graph_model.module).double())
    single = replace(graph_model, module=copy.deepcopy(graph_model.module).float())
    channels = find_channels(single)
    groups = find_groups(channels)
    kept = random_choice(channels.count, groups, seed)
    silent = without_readers(graph_model, channels, kept)
    pruned = remove(replace(silent, module=silent.module.float()), channels, kept)
    before, after = silent.module.double()(x.double()), pruned.module.double()(x.double())
    assert apart(after, before) < 1e-9
    if groups:
        costs, left = find_costs(single, channels, groups), torch.tensor([int(kept[g.ids].sum()) for g in groups])
        told = tuple(round(float(costs.cost(left, quantity))) for quantity in ("macs", "parameters"))
        assert told == counted_costs(pruned.module, x[:1].double(), all_biased=not bool(kept.all()))


@given(specs(), st.integers(0, 99))
def test_channels_without_weight_can_be_removed(spec: Spec, seed: int) -> None:
    with torch.no_grad():
        check_pruning(prepare(Network(spec), spec.shape), images(spec, 3), seed)


@pytest.mark.slow
@settings(max_examples=6)
@given(cases(), st.integers(0, 99))
def test_file_simulation_and_integer_reference_agree_behind_pruning(case: Case, seed: int) -> None:
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        graph_model = prepare(Network(case.spec), case.spec.shape)
        channels = find_channels(graph_model)
        kept = random_choice(channels.count, find_groups(channels), seed)
        x = images(case.spec, 8)
        smaller, config = remove(graph_model, channels, kept), PruneConfig(block_iterations=1, network_iterations=1)
        pruned, _ = repair(graph_model, smaller, Survivors(channels, kept), x, config)
        check_file(case, quantized_network(case, pruned), Path(folder))


@pytest.mark.slow
@settings(max_examples=5)
@given(cases(), st.randoms(use_true_random=False))
def test_any_groups_of_operators_can_compute_in_float(case: Case, random: Random) -> None:
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        graph_model = prepare(Network(case.spec), case.spec.shape)
        network = divide(quantized_network(case, graph_model))
        kernels = {group.kernel for group in network.groups if group.kernel is not None}
        assert measure_costs(list(kernels), [], threads=1).keys() == kernels  # onnxruntime takes each
        in_float = [name for group in network.groups if random.random() < 0.5 for name in group.nodes]
        check_file(case, quantized_network(case, graph_model, in_float), Path(folder))


@pytest.mark.slow
@settings(max_examples=15)
@given(cases())
def test_file_simulation_and_integer_reference_agree(case: Case) -> None:
    check(case)
