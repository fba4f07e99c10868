"""Activations of few bits: as many as harm the output within a limit, alone and together."""

import copy
import itertools

import pytest
import torch

from ptq.allocation.activations import harmless_activations
from ptq.errors import InputError
from ptq.quantization.quantized_model import QuantizedModel
from tests.helpers.networks import images, quantized_network

NAMES = ["resnet", "mobilenet"]


def narrow(name: str) -> tuple[QuantizedModel, torch.Tensor, list[str]]:
    quantized_model, x = quantized_network(name, 8, 4), images(8)
    few = [tensor for tensor, spec in quantized_model.plan.activations.items() if spec.bits == 4]
    return quantized_model, x, few


@pytest.mark.parametrize("name", NAMES)
def test_more_is_allowed_for_more_harm(name: str) -> None:
    quantized_model, x, few = narrow(name)
    chosen = [harmless_activations(quantized_model, x, few, limit) for limit in (0.0, 1e-3, 1e-2, 1e6)]
    assert [len(one) for one in chosen] == sorted(len(one) for one in chosen)
    assert chosen[0] == [] and sorted(chosen[-1]) == sorted(few) and len(chosen[2]) > 0
    assert all(set(fewer) <= set(more) for fewer, more in itertools.pairwise(chosen))


def test_all_together_stay_within_the_limit() -> None:
    quantized_model, x, few = narrow("mobilenet")
    graph = quantized_model.require_float_model().module
    limit = 0.003
    chosen = harmless_activations(quantized_model, x, few, limit)
    quantizers = quantized_model.quantizers()
    wanted = graph(x)
    copied = copy.deepcopy(graph)
    for node in list(copied.graph.nodes):
        if node.name in chosen:
            copied.add_submodule(f"q_{node.name}", quantizers[node.name])
            with copied.graph.inserting_after(node):
                quantizer = copied.graph.call_module(f"q_{node.name}")
            node.replace_all_uses_with(quantizer)
            quantizer.args = (node,)
    copied.recompile()
    with torch.no_grad():
        error = (copied(x) - wanted).square().sum() / wanted.square().sum()
    assert len(chosen) > 0 and error <= limit


def test_no_images_are_refused() -> None:
    quantized_model, x, few = narrow("resnet")
    with pytest.raises(InputError):
        harmless_activations(quantized_model, x[:0], few, 1.0)
