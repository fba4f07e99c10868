"""Fitting one unit: what is learned is what was asked to be learned."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, fx, nn

from ptq.graph.blocks import Block, named_inputs, split
from ptq.quantization.layers import QuantLayer
from ptq.quantization.quantizers import Quantizer
from ptq.quantization.spec import QuantSpec
from ptq.reconstruction import optimization, soft_modules
from ptq.reconstruction.config import METHODS, ReconstructConfig
from ptq.reconstruction.optimization import Pair, optimize
from ptq.reconstruction.soft_modules import is_low, learns
from ptq.utils import autocast, shares
from ptq.utils.shares import all_shares
from tests.helpers.networks import images, quantized_network
from tests.helpers.synchronizations import Synchronizations


class Losses:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.done, self.losses = 0, list[float]()

    def advance(self, n: int = 1, **figures: float) -> None:
        self.done += n
        self.losses += figures.values()


def residual_block(bits: int = 3, act_bits: int = 8) -> tuple[Block, Pair]:
    """The second block of the residual network, quantized, and what it should give; errors come from the weights if not asked otherwise."""
    quantized_model = quantized_network("resnet", bits, act_bits)
    float_blocks, blocks, x = (
        split(quantized_model.require_float_model().module, quantized_model.blocks),
        quantized_model.split(),
        named_inputs(quantized_model.module, images(16)),
    )
    with torch.no_grad():
        x_float, x_quantized = float_blocks[0](x), blocks[0](x)
        return blocks[1], Pair(x_quantized, x_float, float_blocks[1](x_float), None)


def state(block: Block) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in block.module.state_dict().items()}


def layers(block: Block) -> list[QuantLayer]:
    return [m for m in block.module.modules() if isinstance(m, QuantLayer)]


def only(tensors: Mapping[str, Tensor]) -> Tensor:
    """The one tensor there is."""
    (tensor,) = tensors.values()
    return tensor


def like(tensors: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Tensors changed, by the same names."""
    return {name: change(value) for name, value in tensors.items()}


def first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What belongs to the first image."""
    return {name: value[:1] for name, value in tensors.items()}


def test_gradients_of_shares_add_up_to_that_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ReconstructConfig(iterations=1, batch=8, ridge=100.0)
    found: list[Tensor] = []

    def no_step(optimizer: torch.optim.Optimizer, loss: Tensor, told: Tensor, weight: float) -> Tensor:
        optimizer.zero_grad()
        (loss * weight).backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        found.append(torch.cat([told.view(1) * weight, *(p.grad.flatten() for p in parameters)]))
        return told

    for module in (autocast, soft_modules):  # gradients in bfloat16 are rounded before they are added up
        monkeypatch.setattr(module, "fast_bfloat16", lambda device: False)
    monkeypatch.setattr(optimization, "descend", no_step)
    for own in all_shares(8, 1, 1) + all_shares(8, 1, 3):
        monkeypatch.setattr(shares, "share", lambda count, own=own: own)
        optimize(*residual_block(3, 4), config, Losses())
    whole, *parts = found
    assert len(parts) == 3 and whole[1:].abs().max() > 0
    torch.testing.assert_close(torch.stack(parts).sum(0), whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


def error(block: Block, pair: Pair) -> float:
    with torch.no_grad():
        return float((only(block(pair.x_quantized)) - only(pair.target)).square().mean())


def test_without_learning_rates_nearest_rounding_comes_out() -> None:
    block, pair = residual_block()
    before = state(block)
    optimize(block, pair, ReconstructConfig(iterations=3, lr_rounding=0, lr_scale=0), Losses())
    for name, value in block.module.state_dict().items():
        assert "_learned" in name or torch.equal(value, before[name])


def test_scales_alone_leave_the_roundings() -> None:
    block, pair = residual_block()
    before = state(block)
    optimize(block, pair, ReconstructConfig(iterations=9, batch=8, lr_rounding=0), Losses())
    changed = {k for k, v in block.module.state_dict().items() if not torch.equal(v, before[k])}
    assert any(name.startswith("quantizers.") for name in changed)
    assert all(name.endswith(("_scale", "_learned")) for name in changed)


@pytest.mark.parametrize("joint", [True, False])
def test_the_loss_goes_down_and_the_block_gets_better(joint: bool) -> None:
    block, pair = residual_block()
    nearest, task = error(block, pair), Losses()
    config = ReconstructConfig(joint=joint, iterations=60, batch=16, drop=0.0, lr_rounding=1e-2)
    curves = optimize(block, pair, config, task)
    assert task.done == 60 * len(curves) and len(curves) == (1 if joint else 2)
    assert [round(loss, 5) for loss in task.losses] == [loss for curve in curves for loss in curve]
    assert all(len(curve) == 30 and curve[-1] < curve[0] for curve in curves)
    assert error(block, pair) < 0.8 * nearest
    assert 0 < task.losses[-1] < 1  # in units of nearest rounding's error


@pytest.mark.parametrize(("iterations", "points"), [(1, 1), (50, 50), (51, 26), (130, 44)])
def test_a_curve_has_at_most_fifty_points_and_the_last_iteration(iterations: int, points: int) -> None:
    block, pair = residual_block()
    config = ReconstructConfig(iterations=iterations, batch=4)
    (curve,) = optimize(block, pair, config, Losses())
    assert len(curve) == points


@pytest.mark.parametrize("iterations", [40, 200])
def test_what_was_learned_survives_the_decision(iterations: int) -> None:
    """The loss of soft roundings is worth nothing unless the hard ones reach it."""
    hard, soft = 0.0, 0.0
    for seed in range(3):  # one run's last losses, of 16 images each, say little
        block, pair = residual_block()
        nearest, task = error(block, pair), Losses()
        config = ReconstructConfig(iterations=iterations, batch=16, drop=0.0, lr_scale=0.0, seed=seed)
        optimize(block, pair, config, task)
        assert error(block, pair) / nearest < 0.5
        hard += error(block, pair) / nearest
        soft += sum(task.losses[-5:]) / 5
    assert hard < 1.25 * soft


@pytest.mark.parametrize("ridge", [0.0, 1e6])
def test_a_strong_ridge_keeps_nearest_rounding(ridge: float) -> None:
    block, pair = residual_block()
    nearest = [layer.weight_quantizer.codes.clone() for layer in layers(block)]
    optimize(block, pair, ReconstructConfig(iterations=40, batch=8, ridge=ridge), Losses())
    same = [
        torch.equal(layer.weight_quantizer.codes, codes) for layer, codes in zip(layers(block), nearest, strict=True)
    ]
    assert same == [ridge > 0] * len(same)


def test_with_a_ridge_what_one_image_taught_holds_for_others() -> None:
    """One image has fewer numbers than the block has weights, and activations of 3 bits are noise that weights cannot mend."""
    errors = {0.0: 0.0, METHODS["qdrop"].ridge: 0.0}
    for ridge in errors:
        for seed in range(3):
            block, others = residual_block(3, 3)
            one = Pair(first(others.x_quantized), first(others.x_float), first(others.target))
            optimize(block, one, ReconstructConfig(iterations=100, batch=8, ridge=ridge, seed=seed), Losses())
            errors[ridge] += error(block, others)
    assert errors[METHODS["qdrop"].ridge] < 0.98 * errors[0.0]


def test_errors_count_by_their_weight() -> None:
    """What the target says where errors have no weight makes no difference, and elsewhere it does."""
    states = []
    for wrong in (None, 0, 1):
        block, pair = residual_block()
        weight, target = like(pair.target, torch.ones_like), like(pair.target, torch.clone)
        only(weight)[:, 0] = 0
        if wrong is not None:
            only(target)[:, wrong] = 9
        pair = Pair(pair.x_quantized, pair.x_float, target, weight)
        optimize(block, pair, ReconstructConfig(iterations=15, batch=8, drop=0.0), Losses())
        states.append(state(block))
    same = [all(torch.equal(states[0][k], other[k]) for k in states[0]) for other in states[1:]]
    assert same == [True, False]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_a_unit_is_fitted_to_what_was_kept_in_bfloat16(
    fast: bool, drop: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (autocast, soft_modules):  # whether or not the machine computes in it
        monkeypatch.setattr(module, "fast_bfloat16", lambda device: fast)
    block, pair = residual_block()
    nearest, task = error(block, pair), Losses()
    x, x_float, target = (like(t, Tensor.bfloat16) for t in (pair.x_quantized, pair.x_float, pair.target))
    config = ReconstructConfig(iterations=60, batch=16, drop=drop)
    optimize(block, Pair(x, x_float, target, None), config, task)
    assert error(block, pair) < 0.8 * nearest
    assert 0 < task.losses[-1] < 1


@pytest.mark.parametrize("method", [m for m in METHODS if m != "nearest"])
def test_a_unit_with_nothing_to_learn_still_counts(method: str) -> None:
    block = Block(fx.symbolic_trace(nn.Sequential(nn.ReLU())), ("x",), ("y",))
    x, task = {"x": images(4)}, Losses()
    optimize(block, Pair(x, x, block(x), None), METHODS[method], task)
    phases = 1 if METHODS[method].joint else 2
    assert task.done == phases * METHODS[method].iterations


def test_roundings_and_free_scales_can_be_learned() -> None:
    assert learns(Quantizer(QuantSpec(8)))
    assert not learns(Quantizer(QuantSpec(8, grid="images")))
    assert not learns(nn.ReLU())
    assert not learns(None)
    assert all(learns(layer) for layer in layers(residual_block()[0]))


def test_below_8_bits_is_low() -> None:
    assert is_low(Quantizer(QuantSpec(7)))
    assert not is_low(Quantizer(QuantSpec(8)))
    assert not is_low(None)
    assert all(is_low(layer) for layer in layers(residual_block()[0]))


def test_iterations_do_not_wait_for_the_host() -> None:
    counts = []
    for iterations in (100, 300):  # each a curve of 50 points
        block, pair = residual_block(act_bits=4)
        with Synchronizations() as seen:
            optimize(block, pair, ReconstructConfig(iterations=iterations, batch=4), Losses())
        counts.append(seen.count)
    assert counts[0] == counts[1]
