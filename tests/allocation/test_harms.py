"""Harms of layers: what running the whole network by hand gives, and no trace of the measuring."""

import copy

import pytest
import torch
from torch import nn

from ptq.allocation.harms import measure_harms, measure_together, rounded_network
from ptq.graph.preparation import prepare
from ptq.utils.metrics import sqnr_db
from tests.helpers.branching_networks import BRANCHING, quantized_branching
from tests.helpers.networks import NETWORKS, SHAPE, build, images


@pytest.mark.parametrize("name", [*NETWORKS, *BRANCHING])
def test_a_harm_is_that_of_the_whole_network_with_one_rounded_layer(name: str) -> None:
    made = prepare(build(name), SHAPE) if name in NETWORKS else quantized_branching(name, 8, 8).require_float_model()
    before = copy.deepcopy(made.module.state_dict())
    layers = [node.name for node in made.module.graph.nodes if node.op == "call_module"]
    chosen = [layer for layer in layers if _is_layer(made.module, layer)][1:3]
    x = images(20) if name in NETWORKS else torch.rand(20, *made.input_shape)
    harms, weights = measure_harms(made, dict.fromkeys(chosen, (2, 8)), x, x[:8])
    assert list(harms) == chosen
    wanted = made.module(x)
    for layer in chosen:
        assert harms[layer][2] >= harms[layer][8]  # equal where a channel has one weight
        with rounded_network(made, {layer: weights[layer][2]}) as network:
            given = network(x)
        if isinstance(wanted, torch.Tensor):
            assert harms[layer][2] == pytest.approx(10 ** (-sqnr_db(wanted, given) / 10), rel=1e-3)
        assert harms[layer][2] == pytest.approx(measure_together(made, {layer: weights[layer][2]}, x).harm, rel=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in made.module.state_dict().items())


def _is_layer(module: torch.fx.GraphModule, name: str) -> bool:
    node = next(node for node in module.graph.nodes if node.name == name)
    return isinstance(
        module.get_submodule(str(node.target)), torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear
    )


def test_very_many_inputs_are_rounded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(196, 8)).eval()
    graph_model, x = prepare(net, SHAPE), images(16)
    harm, weights = measure_harms(graph_model, {"_2": [3]}, x, x)
    monkeypatch.setattr("ptq.allocation.harms.TOGETHER", 100)
    harm_of_parts, parts = measure_harms(graph_model, {"_2": [3]}, x, x)
    assert parts["_2"][3].codes.shape == weights["_2"][3].codes.shape == (8, 196)
    assert not torch.equal(parts["_2"][3].codes, weights["_2"][3].codes)
    assert harm["_2"][3] < harm_of_parts["_2"][3] < 0.1


def test_a_layer_of_many_inputs_is_judged_by_images_that_did_not_round_it() -> None:
    """16 images leave a rounding of 768 inputs free to make good for itself on them, and on no others."""
    torch.manual_seed(0)
    graph_model = prepare(nn.Sequential(nn.Flatten(), nn.Linear(768, 8)).eval(), SHAPE)
    x = torch.randn(48, *SHAPE)
    harms, weights = measure_harms(graph_model, {"_1": [3]}, x[16:], x[:16])
    of_these, of_others = (
        measure_together(graph_model, {"_1": weights["_1"][3]}, part).harm for part in (x[16:], x[:16])
    )
    assert harms["_1"][3] == pytest.approx(of_these)
    assert of_these > 3 * of_others
