"""Canvases: images in range, gradients to every parameter, the same from the same generator."""

from dataclasses import replace

import pytest
import torch

from ptq.calibration.canvas import Canvas, make_canvas
from ptq.calibration.recipes import SynthesisConfig
from ptq.preprocess import Preprocess

PREPROCESS = Preprocess((18, 14), 18, "bilinear", (0.4,) * 3, (0.25,) * 3)
CPU = torch.device("cpu")
KINDS = [
    SynthesisConfig(),
    SynthesisConfig(start="white"),
    SynthesisConfig(canvas="generator"),
]


def made(config: SynthesisConfig, seed: int = 0, size: tuple[int, int] = (18, 14)) -> Canvas:
    generator = torch.Generator().manual_seed(seed)
    return make_canvas(5, size, config, PREPROCESS, generator, CPU)


@pytest.mark.parametrize("config", KINDS)
def test_images_are_in_range_and_reach_every_parameter(config: SynthesisConfig) -> None:
    canvas = made(config)
    images = canvas.images()
    assert images.shape == (5, 3, 18, 14)
    assert float(images.detach().min()) >= 0 and float(images.detach().max()) <= 1
    weights = torch.randn(images.shape)
    parameters = [p for group in canvas.groups(0.1) for p in group["params"]]
    gradients = torch.autograd.grad((images * weights).sum(), parameters)
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert bool((gradients[0] != 0).any())


@pytest.mark.parametrize("config", KINDS)
def test_the_generator_decides_whatever_the_global_one_says(config: SynthesisConfig) -> None:
    torch.manual_seed(1)
    first = made(config).images()
    torch.manual_seed(2)
    assert torch.equal(first, made(config).images())
    assert not torch.equal(first, made(config, seed=1).images())


@pytest.mark.parametrize("config", KINDS)
def test_another_size_shows_the_same_images(config: SynthesisConfig) -> None:
    canvas = made(config)
    small = canvas.at((9, 7)).images()
    assert small.shape == (5, 3, 9, 7)
    assert float((small.mean((2, 3)) - canvas.images().mean((2, 3))).abs().max()) < 0.05
    assert torch.equal(canvas.at((18, 14)).images(), canvas.images())


def test_pixels_settle_into_their_range() -> None:
    canvas = made(replace(KINDS[0]))
    ((pixels,),) = (group["params"] for group in canvas.groups(0.1))
    with torch.no_grad():
        pixels.add_(torch.randn(pixels.shape))
    canvas.settle()
    assert float(canvas.images().min()) >= 0 and float(canvas.images().max()) <= 1
