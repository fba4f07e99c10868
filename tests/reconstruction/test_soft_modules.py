"""The view of a unit that is fitted: where it starts, what it leaves out, and what it leaves alone."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, fx, nn

from ptq.errors import InputError
from ptq.graph.fx_helpers import module_of
from ptq.quantization.affine import per_channel
from ptq.quantization.layers import QuantLayer, weight_axis
from ptq.quantization.quantizers import Quantizer, Rounding
from ptq.quantization.spec import QuantSpec
from ptq.reconstruction import soft_modules as module_under_test
from ptq.reconstruction.drop_mask import DropMask
from ptq.reconstruction.soft_modules import FixedLayer, LearnedScale, SoftLayer, soften
from tests.helpers.networks import NETWORKS, images, quantized_network
from tests.quantization.test_quantizers import an_input, calibrated, layers

CPU = torch.device("cpu")
NONE, RELU = (-math.inf, math.inf), (0.0, math.inf)


def blocks(name: str) -> list[tuple[fx.GraphModule, Tensor]]:
    """The blocks of a quantized model and what each reads; biases are on their grid."""
    quantized_model, x = quantized_network(name, 3, 4), images(4)
    for layer in quantized_model.layers().values():
        bias = layer.bias()
        if layer.op.bias is not None and bias is not None:
            layer.op.bias.data.copy_(bias)
    pairs = []
    for block in quantized_model.split():
        pairs.append((block.module, x))
        with torch.no_grad():
            x = block.module(x)
    return pairs


def modules(graph: fx.GraphModule) -> list[nn.Module]:
    """What the nodes of a graph call, in order."""
    return [m for n in graph.graph.nodes if (m := module_of(graph, n)) is not None]


def a_quantizer(bits: int = 4, low: float = -1.0, high: float = 3.0) -> Quantizer:
    return Quantizer(QuantSpec(bits)).set_range(torch.tensor(low), torch.tensor(high))


def a_layer(name: str = "conv", bits: int = 4, cover: float = 1.0) -> QuantLayer:
    op = layers()[name]
    return QuantLayer(op, calibrated(op, bits, cover), None)


def shaken(layer: SoftLayer, seed: int = 0) -> SoftLayer:
    """The layer with any roundings."""
    noise = torch.randn(layer.alpha.shape, generator=torch.Generator().manual_seed(seed))
    layer.alpha.data.copy_(noise * 9)
    return layer


@given(st.integers(2, 8), st.floats(0.1, 100), st.floats(0.1, 100))
def test_a_scale_is_its_quantizer(bits: int, below: float, above: float) -> None:
    quantizer = a_quantizer(bits, -below, above)
    x = torch.linspace(-2 * below, 2 * above, 2000)
    scale, relu = LearnedScale(quantizer, NONE, None), LearnedScale(quantizer, RELU, None)
    tie = (((x / quantizer.scale).detach() % 1) - 0.5).abs() < 1e-3  # may be rounded either way
    torch.testing.assert_close(scale(x)[~tie], quantizer(x)[~tie])
    torch.testing.assert_close(relu(x)[~tie], quantizer(x.relu())[~tie])


def test_a_learned_scale_is_given_back() -> None:
    quantizer = a_quantizer(4)
    before, scale = quantizer.scale.clone(), LearnedScale(quantizer, NONE, None)
    with torch.no_grad():
        scale.gain.mul_(1.5)
    assert torch.equal(quantizer.scale, before)
    scale.commit()
    assert torch.equal(quantizer.scale, before * 1.5)


def test_a_mask_leaves_the_others_in_float_behind_the_activation_function() -> None:
    quantizer = a_quantizer(2)
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    mixed = LearnedScale(quantizer, RELU, DropMask(0.5, 0, CPU))(x)
    from_quantized, from_float = mixed == quantizer(x.relu()), mixed == x.relu()
    assert bool((from_quantized | from_float).all())
    assert 0.4 < from_quantized[x > 0].float().mean() < 0.6
    nothing = LearnedScale(quantizer, RELU, DropMask(0.0, 0, CPU))(x)
    assert torch.equal(nothing, x.relu())


def test_a_scale_of_an_uncalibrated_quantizer_is_refused() -> None:
    with pytest.raises(InputError):
        LearnedScale(Quantizer(QuantSpec(8)), NONE, None)


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("cover", [1.0, 0.6])
def test_soft_roundings_start_at_the_float_weight_and_end_on_a_neighboring_code(name: str, cover: float) -> None:
    layer = a_layer(name, 4, cover)
    quantizer, weight = layer.weight_quantizer, layer.weight_quantizer.float_weight
    scale = per_channel(quantizer.scale, weight, weight_axis(layer.op))
    soft = SoftLayer(layer)
    clipped = weight.clamp(-8 * scale, 7 * scale)
    torch.testing.assert_close(soft.weight(), clipped, rtol=0, atol=2e-4 * float(scale.max()))
    # Undisturbed, it decides as nearest rounding does.
    nearest = quantizer.codes.clone()
    soft.commit()
    assert torch.equal(quantizer.codes, nearest)
    assert quantizer.rounding is Rounding.LEARNED

    shaken(soft).commit()
    codes, floor = quantizer.codes, (weight / scale).floor()
    assert codes.min() >= -8
    assert codes.max() <= 7
    assert bool(((codes == floor.clamp(-8, 7)) | (codes == (floor + 1).clamp(-8, 7))).all())
    assert torch.equal(quantizer(), codes * scale)


@pytest.mark.parametrize("started", [True, False], ids=["undisturbed", "shaken"])
def test_sharpness_decides_every_rounding(started: bool) -> None:
    layer = a_layer()
    soft = SoftLayer(layer) if started else shaken(SoftLayer(layer))
    shares, softened = [], []
    for sharpness in (1.0, 10.0, 100.0, 1e6):
        soft.sharpness.fill_(sharpness)
        shares.append(soft.undecided())
        softened.append(soft.weight().detach())
    soft.commit()
    distances = [float((weight - layer.weight_quantizer()).abs().max()) for weight in softened]
    assert shares == sorted(shares, reverse=True) and shares[-1] == 0
    assert shares[0] > (0.9 if started else 0.1)
    assert distances == sorted(distances, reverse=True) and distances[-1] == 0


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("float32", [False, True])
def test_a_fixed_layer_has_the_nearest_codes_and_its_float_bias(name: str, float32: bool) -> None:
    layer = a_layer(name)
    x, fixed = an_input(layer.op), FixedLayer(layer, float32)
    torch.testing.assert_close(fixed(x), layer(x))
    assert not list(fixed.parameters())
    assert not fixed.rounded.requires_grad
    # A soft layer whose roundings are as decided gives the same.
    soft = SoftLayer(layer, float32)
    soft.sharpness.fill_(1e6)
    torch.testing.assert_close(soft(x), layer(x))


def test_in_float32_autocast_changes_nothing_but_the_type() -> None:
    layer = a_layer("depthwise")
    x = an_input(layer.op).bfloat16()
    for made in (FixedLayer(layer, float32=True), SoftLayer(layer, float32=True)):
        with torch.autocast("cpu", torch.bfloat16):
            y = made(x)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, made(x.float()).bfloat16())


@pytest.mark.parametrize("name", NETWORKS)
def test_at_the_start_a_view_computes_what_its_unit_does(name: str) -> None:
    for block, x in blocks(name):
        with torch.no_grad():
            expected = block(x)
            nearest = soften(block, None, FixedLayer)
            close = torch.isclose(nearest(x), expected, rtol=1e-4, atol=1e-5)
            assert close.float().mean() > 0.999  # a tie may be rounded the other way
            # So do soft roundings, once they are decided.
            soft = soften(block, None)
            for layer in soft.layers:
                layer.sharpness.fill_(1e6)
            close = torch.isclose(soft(x), expected, rtol=1e-4, atol=1e-5)
            assert close.float().mean() > 0.999


@pytest.mark.parametrize("name", NETWORKS)
def test_a_view_leaves_its_unit_as_it_is(name: str) -> None:
    for block, x in blocks(name):
        code, before = block.code, modules(block)
        state = {k: v.clone() for k, v in block.state_dict().items()}
        names = [n for n, _ in block.named_modules()]
        view = soften(block, DropMask(0.5, 0, CPU))
        y = view(x)
        if view.layers or view.scales:
            y.sum().backward()
        assert block.code == code
        assert [n for n, _ in block.named_modules()] == names
        assert all(a is b for a, b in zip(modules(block), before, strict=True))
        assert block.state_dict().keys() == state.keys()
        assert all(torch.equal(v, state[k]) for k, v in block.state_dict().items())
        quantizers = {m for m in modules(block) if isinstance(m, Quantizer)}
        # What a gate binds is not learned.
        assert len(view.scales) == sum(q.spec.grid == "free" for q in quantizers)
        assert not any(p.requires_grad or p.grad is not None for p in block.parameters())


def test_activation_functions_are_part_of_the_quantizer_behind_them() -> None:
    for name, high in (("resnet", math.inf), ("mobilenet", 6.0)):
        units = [block for block, _ in blocks(name)]
        views = [soften(unit, None) for unit in units]
        kinds = (nn.ReLU, nn.ReLU6)
        called = [m for view in views for m in modules(view.graph)]
        assert any(isinstance(m, kinds) for unit in units for m in modules(unit))
        assert not any(isinstance(m, kinds) for m in called)
        ends = {tuple(m.grid[:2].tolist()) for m in called if isinstance(m, LearnedScale)}
        assert ends == {(-math.inf, math.inf), (0.0, high)}


def test_an_activation_function_that_others_read_stays() -> None:
    root = nn.ModuleDict({"relu": nn.ReLU(), "scale": a_quantizer()})
    graph = fx.Graph()
    relu = graph.call_module("relu", (graph.placeholder("x"),))
    scale = graph.call_module("scale", (relu,))
    graph.output(graph.call_function(torch.add, (relu, scale)))
    unit, x = fx.GraphModule(root, graph), torch.linspace(-2, 4, 99)
    view = soften(unit, None)
    assert any(isinstance(m, nn.ReLU) for m in modules(view.graph))
    torch.testing.assert_close(view(x), unit(x))


def test_without_scales_activations_stay_in_float() -> None:
    for block, x in blocks("resnet"):
        view = soften(block, None, scales=False)
        assert not view.scales
        assert not any(isinstance(m, Quantizer | LearnedScale) for m in modules(view.graph))
        # As with quantizers that let everything through.
        passing = soften(block, DropMask(0.0, 0, CPU))
        torch.testing.assert_close(view(x), passing(x))


def test_every_weight_learns_roundings_whatever_its_bits() -> None:
    for block, _ in blocks("resnet"):
        view = soften(block, None)
        assert len(view.layers) == sum(isinstance(m, QuantLayer) for m in modules(block))
        assert not soften(block, None, FixedLayer).layers


def shared_unit() -> fx.GraphModule:
    """One layer and one quantizer, each called twice, once behind a ReLU."""
    op = nn.Conv2d(4, 4, 3, padding=1)
    layer = QuantLayer(op, calibrated(op, 4), None).requires_grad_(False)
    root = nn.ModuleDict({"layer": layer, "relu": nn.ReLU(), "scale": a_quantizer()})
    graph = fx.Graph()
    node = graph.placeholder("x")
    for name in ("layer", "relu", "scale", "layer", "scale"):
        node = graph.call_module(name, (node,))
    graph.output(node)
    return fx.GraphModule(root, graph)


def test_a_module_that_is_called_twice_is_made_once() -> None:
    unit, x = shared_unit(), torch.randn(2, 4, 8, 8)
    view = soften(unit, None)
    first, behind_relu, second, bare = modules(view.graph)
    assert first is second
    assert view.layers == [first]
    # Two clamp differently and share the scale, which is learned once.
    assert isinstance(behind_relu, LearnedScale) and isinstance(bare, LearnedScale)
    assert behind_relu.grid.tolist()[:2] == [0.0, math.inf]
    assert bare.grid.tolist()[:2] == [-math.inf, math.inf]
    assert len(view.scales) == 1 and behind_relu.gain is bare.gain
    torch.testing.assert_close(soften(unit, None, FixedLayer)(x), unit(x))


def test_cached_activations_may_be_in_bfloat16_whatever_the_machine() -> None:
    block, x = blocks("resnet")[0]
    view = soften(block, None)
    assert view(x.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(view(x.bfloat16()), view(x.bfloat16().float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert view(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("weights", [True, False])
def test_layers_stay_out_of_bfloat16_only_where_that_is_faster(weights: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A depthwise 5x5 is slow in bfloat16 for the gradient of its weight alone."""
    op = nn.Conv2d(4, 4, 5, padding=2, groups=4)
    root = nn.ModuleDict({"layer": QuantLayer(op, calibrated(op, 4), None)})
    graph = fx.Graph()
    graph.output(graph.call_module("layer", (graph.placeholder("x"),)))
    unit = fx.GraphModule(root, graph)
    for fast in (True, False):
        monkeypatch.setattr(module_under_test, "fast_bfloat16", lambda device, fast=fast: fast)
        (layer,) = modules(soften(unit, None, SoftLayer if weights else FixedLayer).graph)
        assert isinstance(layer, SoftLayer | FixedLayer)
        assert layer.float32 == (fast and weights)
