"""Calibration fills every range, repeatably, and refuses what it cannot use."""

import pytest
import torch
from torch import nn

from ptq.calibration.activation_ranges import calibrate
from ptq.data.preprocess import IMAGENET, Preprocess
from ptq.errors import InputError, ModelError
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.config import ReconstructConfig
from ptq.reconstruction.loop import reconstruct
from tests.helpers.networks import NETWORKS, SHAPE, build, images
from tests.helpers.progress import Recorder


def placed(name: str = "resnet", model: nn.Module | None = None) -> QuantizedModel:
    graph_model = prepare(model or build(name), SHAPE)
    return insert_quantizers(graph_model, make_plan(graph_model, 4, 4))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_range_is_filled(name: str) -> None:
    quantized_model = placed(name)
    assert calibrate(quantized_model, images(8)) is quantized_model
    assert all(quantizer.calibrated for quantizer in quantized_model.quantizers().values())
    assert all(bool(torch.isfinite(v).all()) for v in quantized_model.module.state_dict().values())
    assert all(bool((q.scale > 0).all()) for q in quantized_model.quantizers().values())
    for layer in quantized_model.layers().values():
        assert bool((layer.weight_quantizer.scale > 0).all())


def test_same_seed_same_ranges() -> None:
    states = [calibrate(placed(), images(40), seed=3).module.state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_extremes_are_never_missed() -> None:
    """A sample is drawn, but the smallest and largest numbers are in it."""
    x = images(200)
    x[137, 1, 5, 5], x[2, 0, 0, 0] = 90.0, -60.0
    quantizer = calibrate(placed(), x, observer="minmax", batch=100).quantizers()["x"]
    assert quantizer.scale.item() == pytest.approx(150 / 255, rel=0.01)
    assert quantizer.zero_point.item() == pytest.approx(60 / (150 / 255), abs=2)


BYTES = Preprocess((16, 16), 16, "bilinear", (127 / 255,) * 3, (128 / 255,) * 3)
HALF = Preprocess((16, 16), 16, "bilinear", (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("preprocess", [IMAGENET, BYTES, HALF], ids=["imagenet", "bytes", "half"])
def test_the_input_has_the_range_of_all_pixels_however_dull_the_images(preprocess: Preprocess) -> None:
    gray = preprocess.normalize(0.5 + 0.1 * torch.rand(8, *SHAPE))
    quantizer = calibrate(placed(), gray, preprocess=preprocess).quantizers()["x"]
    levels = preprocess.levels()
    step = float(levels.max() - levels.min()) / 255
    assert quantizer.scale.item() == pytest.approx(step, rel=0.01)
    error = (quantizer(levels) - levels).abs()
    assert error.max() <= 0.51 * step, "nothing is cut off"
    # Codes that are whole pixels lose nothing; half a step between zero and the pixels costs no more than chance.
    assert error.square().mean().sqrt() <= (1e-4 if preprocess is BYTES else 0.3) * step


def test_inputs_that_no_image_gives_have_their_own_range() -> None:
    x = IMAGENET.normalize(torch.rand(8, *SHAPE))
    wide = calibrate(placed(), 3 * x, preprocess=IMAGENET).quantizers()["x"]
    assert wide.scale.item() == pytest.approx(float(3 * (x.max() - x.min())) / 255, rel=0.02)


def test_reconstruction_leaves_the_range_of_pixels() -> None:
    x = IMAGENET.normalize(torch.rand(8, *SHAPE))
    quantized_model = calibrate(placed(), x, preprocess=IMAGENET)
    before = quantized_model.quantizers()["x"].scale.clone()
    reconstruct(quantized_model, x, ReconstructConfig(iterations=4, batch=4, lr_scale=0.1))
    assert torch.equal(quantized_model.quantizers()["x"].scale, before)
    assert not torch.equal(quantized_model.quantizers()["stem_2"].scale, before)


def test_ranges_are_those_of_the_float_network() -> None:
    quantized_model, x = placed(), images(16)
    calibrate(quantized_model, x, observer="minmax", batch=5)
    pooled = quantized_model.quantizers()["avgpool"]
    graph = quantized_model.require_float_model().module
    wanted = graph.get_submodule("avgpool")
    seen: list[float] = []
    hook = wanted.register_forward_hook(lambda m, args, y: seen.append(y.max().item()))
    graph(x)
    hook.remove()
    assert pooled.scale.item() == pytest.approx(seen[0] / 255)


@pytest.mark.parametrize("shape", [(0, 3, 16, 16), (4, 3, 16, 15), (4, 1, 16, 16), (3, 16, 16)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\(N, 3, 16, 16\)"):
        calibrate(placed(), torch.zeros(shape))


def test_numbers_that_are_none_are_refused() -> None:
    x = images(4)
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError):
        calibrate(placed(), x)


def test_unknown_observers_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="entropy"):
        calibrate(placed(), images(4), observer="entropy")


@pytest.mark.parametrize("transposed", [False, True])
def test_biases_of_dead_channels_fit_the_int32_grid(transposed: bool) -> None:
    torch.manual_seed(0)
    second = nn.ConvTranspose2d(8, 8, 3, groups=2) if transposed else nn.Conv2d(8, 8, 3)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), second, nn.ReLU(), nn.Conv2d(8, 4, 1))
    out = (slice(None), 1) if transposed else (1,)
    second.weight.data[out] = 0  # dead
    second.weight.data[(slice(None), 2) if transposed else (2,)] *= 1e-9  # nearly dead
    second.bias.data.fill_(7.0)  # type: ignore[union-attr]
    layer = calibrate(placed(model=model.eval()), images(8)).layers()["_2"]
    scale, bias = layer.bias_scale(), layer.bias()
    assert scale is not None
    assert bias is not None
    assert bool((bias.double() / scale.double()).abs().le(2**31 - 1).all())
    torch.testing.assert_close(bias, layer.op.bias, rtol=1e-3, atol=0)


def test_progress_reaches_its_total() -> None:
    progress = Recorder()
    calibrate(placed(), images(40), batch=16, progress=progress)
    assert progress.done == progress.total > 0
