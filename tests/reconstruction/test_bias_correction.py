"""Bias correction: the mean error goes, and nothing else changes."""

import pytest
import torch
from torch import Tensor, nn

from ptq.graph.blocks import Block, compose, named_inputs, split
from ptq.graph.passes import output_sqnr
from ptq.quantization.layers import QuantLayer
from ptq.reconstruction.bias_correction import correct_bias
from ptq.reconstruction.optimization import Pair
from tests.helpers.branching_networks import quantized_branching
from tests.helpers.networks import images, quantized_network

PLAIN = ["resnet", "mobilenet", "densenet", "squeeze_excite", "upsampling", "shared"]
NETWORKS = pytest.mark.parametrize("network", [*PLAIN, "unet", "side_by_side", "two heads"])


def blocks(network: str) -> list[tuple[Block, Block, Pair]]:
    """Blocks in float and in 3 bits, with what they read and should give."""
    make = quantized_network if network in PLAIN else quantized_branching
    quantized_model = make(network, 3, 8)
    graph = quantized_model.require_float_model().module
    found = []
    x = y = named_inputs(quantized_model.module, images(8))
    floats = split(graph, quantized_model.blocks)
    with torch.no_grad():
        for index, (float_block, block) in enumerate(zip(floats, quantized_model.split(), strict=True)):
            target, rest = float_block(x), compose(graph, floats[index + 1 :])
            found.append((float_block, block, Pair(y, x, target)))
            x, y = rest.alive(x, target), rest.alive(y, block(y))
    return found


def corrected(float_block: Block, block: Block, pair: Pair) -> tuple[float, float]:
    """SQNR of a block before and after."""
    before = output_sqnr(block, pair.x_quantized, pair.target)
    return before, correct_bias(float_block, block, pair, before)


@NETWORKS
def test_noise_never_grows_and_is_what_is_said(network: str) -> None:
    gains = []
    for float_block, block, pair in blocks(network):
        before, after = corrected(float_block, block, pair)
        assert after >= before
        assert after == output_sqnr(block, pair.x_quantized, pair.target)
        gains.append(after - before)
    assert max(gains) > 0.1


@NETWORKS
def test_only_biases_of_the_last_layers_behind_outputs_change(network: str) -> None:
    several = []
    for float_block, block, pair in blocks(network):
        states = [{k: v.clone() for k, v in graph.state_dict().items()} for graph in (float_block.module, block.module)]
        corrected(float_block, block, pair)
        layers = [name for name, module in block.module.named_modules() if isinstance(module, QuantLayer)]
        changed = {k for k, v in block.module.state_dict().items() if not torch.equal(v, states[1][k])}
        assert len(changed) <= len(pair.target) and all(key.endswith(".op.bias") for key in changed)
        several.append(len(changed) > 1)
        assert layers or not changed
        assert all(torch.equal(v, states[0][k]) for k, v in float_block.module.state_dict().items())
        assert not any(p.requires_grad for p in block.module.parameters())
    assert any(several) == (network in ("side_by_side", "two heads"))


def mean_errors(float_block: Block, block: Block, pair: Pair) -> Tensor:
    with torch.no_grad():
        (given,), (wanted,) = block(pair.x_quantized).values(), float_block(pair.x_float).values()
    return (given - wanted).mean((0, 2, 3))


def test_the_mean_of_a_linear_output_becomes_right() -> None:
    """The stream of a MobileNetV2 has no activation function: what is left is the bias's own grid, and the quantizer's ends."""
    float_block, block, pair = blocks("mobilenet")[1]
    assert not any(isinstance(m, nn.ReLU | nn.ReLU6) for m in list(block.module.modules())[-2:])
    before = mean_errors(float_block, block, pair).abs()
    corrected(float_block, block, pair)
    assert mean_errors(float_block, block, pair).abs().max() < 0.1 * before.max()
