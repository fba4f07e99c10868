"""Blocks of several tensors: never worse than nearest rounding, repeatable, resumable, and within the limit of memory."""

import gc
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ptq.graph.blocks import compose, named_inputs, split
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.loop import reconstruct
from ptq.reconstruction.results import BlockResult
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.metrics import energies, joint_decibels
from ptq.utils.work_store import WorkStore
from tests.helpers.branching_networks import BRANCHING, quantized_branching
from tests.helpers.networks import images
from tests.reconstruction.test_loop import COUNT, in_bfloat16, quick
from tests.reconstruction.test_resume import Killed, found

RUNS = [*((name, "qdrop") for name in (*BRANCHING, "two heads")), ("two heads", "brecq"), ("windows", "adaround")]
runs = pytest.mark.parametrize(("name", "method"), RUNS)


@cache
def outcome(name: str, method: str) -> tuple[QuantizedModel, list[BlockResult], int]:
    quantized_model, activations = quantized_branching(name), ActivationCache(1 << 30)
    return (
        quantized_model,
        reconstruct(quantized_model, images(COUNT), quick(method), cache=activations),
        activations.peak,
    )


def same(a: QuantizedModel, b: QuantizedModel) -> bool:
    state, other = a.module.state_dict(), b.module.state_dict()
    return all(torch.equal(value, other[name]) for name, value in state.items())


def sqnr(quantized_model: QuantizedModel, x: Tensor) -> float:
    """Of all outputs of a network."""
    with torch.no_grad():
        wanted = pytree.tree_leaves(quantized_model.require_float_model().module(x))
        pairs = [energies(a, b) for a, b in zip(wanted, pytree.tree_leaves(quantized_model.module(x)), strict=True)]
    return joint_decibels(*zip(*pairs, strict=True))


@runs
def test_no_block_is_worse_than_with_nearest_rounding(name: str, method: str) -> None:
    quantized_model, results, _ = outcome(name, method)
    assert all(result.sqnr >= result.sqnr_nearest for result in results)
    assert any(result.kept == "learned" for result in results)
    assert [layer for result in results for layer in result.layers] == list(quantized_model.layers())
    assert len({result.name for result in results}) == len(results)


@runs
def test_reported_figures_are_those_of_the_blocks(name: str, method: str) -> None:
    """From one block to the next, activations are in bfloat16: a last bit of a convolution, which parts of a batch may differ in, can move a code."""
    quantized_model, results, _ = outcome(name, method)
    network = quantized_model.require_float_model().module
    floats = split(network, quantized_model.blocks)
    x = y = in_bfloat16(named_inputs(network, images(COUNT)))
    with torch.no_grad():
        for index, (block, result) in enumerate(zip(quantized_model.split(), results, strict=True)):
            target, given = in_bfloat16(floats[index](x)), block(y)
            pairs = [energies(wanted, given[name]) for name, wanted in target.items()]
            assert result.weighted or joint_decibels(*zip(*pairs, strict=True)) == pytest.approx(result.sqnr, abs=1e-2)
            rest = compose(network, floats[index + 1 :])
            x, y = rest.alive(x, target), rest.alive(y, in_bfloat16(given))


@pytest.mark.parametrize("name", ["unet", "two heads"])
def test_learning_helps_the_whole_network(name: str) -> None:
    nearest, learned = (quantized_branching(name, 3, 8) for _ in range(2))
    reconstruct(learned, images(COUNT), replace(quick("qdrop", 60), batch=16))
    assert sqnr(learned, images(COUNT)) > sqnr(nearest, images(COUNT)) + 1


@pytest.mark.parametrize(("name", "method"), [("unet", "qdrop"), ("two heads", "brecq"), ("windows", "adaround")])
@pytest.mark.parametrize("most", [True, False])
def test_what_was_interrupted_where_several_tensors_are_alive_ends_where_it_would_have(
    name: str, method: str, most: bool, tmp_path: Path
) -> None:
    undisturbed, results, _ = outcome(name, method)
    parts = undisturbed.split()
    alive = {i: len(compose(undisturbed.module, parts[i:]).inputs) for i in range(1, len(parts))}
    several = {i: count for i, count in alive.items() if count > 1}
    blocks = max(several, key=several.__getitem__) if most else max(several)

    def stop(index: int, result: BlockResult) -> None:
        if index + 1 == blocks:
            raise Killed

    with pytest.raises(Killed):
        reconstruct(quantized_branching(name), images(COUNT), quick(method), store=WorkStore(tmp_path), on_block=stop)
    again = quantized_branching(name)
    resumed = reconstruct(again, images(COUNT), quick(method), store=WorkStore(tmp_path))
    assert same(again, undisturbed)
    assert [found(result) for result in resumed] == [found(result) for result in results]


@pytest.mark.parametrize(("name", "method"), [("unet", "qdrop"), ("windows", "adaround"), ("two heads", "brecq")])
@pytest.mark.parametrize("limit", [0, 100_000])
def test_memory_stays_within_the_limit_and_the_rest_is_on_disk(
    name: str, method: str, limit: int, tmp_path: Path
) -> None:
    undisturbed, _, peak = outcome(name, method)
    activations, quantized_model = ActivationCache(limit, tmp_path), quantized_branching(name)
    assert limit < peak
    reconstruct(quantized_model, images(COUNT), quick(method), cache=activations)
    assert same(quantized_model, undisturbed)
    gc.collect()
    assert activations.peak <= limit < activations.peak + activations.peak_disk
    assert activations.used == activations.disk == 0


@pytest.mark.parametrize("name", [*BRANCHING, "two heads"])
def test_what_passes_a_block_by_is_kept_once(name: str) -> None:
    """The most at a time: what is alive before a block, twice, and its outputs; or the inputs of one kind and both outputs."""
    quantized_model, _, peak = outcome(name, "qdrop")
    network = quantized_model.require_float_model().module
    floats, blocks = split(network, quantized_model.blocks), quantized_model.split()
    x = y = named_inputs(network, images(COUNT))
    most = 0
    with torch.no_grad():
        for index, (float_block, block) in enumerate(zip(floats, blocks, strict=True)):
            rest, target, given = compose(network, floats[index + 1 :]), float_block(x), block(y)
            before = {id(value): value.numel() for value in (*x.values(), *y.values())}
            outputs = {id(value): value.numel() for value in target.values()}
            x = rest.alive(x, target)
            alive = {id(value): value.numel() for value in (*x.values(), *y.values())}
            made = {id(value): value.numel() for value in given.values()}
            most = max(most, sum((before | outputs).values()), sum((alive | made).values()))
            y = rest.alive(y, given)
    assert peak == 2 * most
