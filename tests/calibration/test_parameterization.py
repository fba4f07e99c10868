"""Parameterizations: images in range, gradients to every parameter, the same from the same generator."""

from dataclasses import replace
from typing import Literal

import pytest
import torch

from ptq.calibration.parameterization import Parameterization, _Pyramid, make_parameterization
from ptq.calibration.synthesis_config import SynthesisConfig
from ptq.data.image_ops import focus_map
from ptq.data.preprocess import Preprocess

PREPROCESS = Preprocess((18, 14), 18, "bilinear", (0.4,) * 3, (0.25,) * 3)
CPU = torch.device("cpu")
KINDS = [
    SynthesisConfig(),
    SynthesisConfig(initial_noise="white"),
    SynthesisConfig(parameterization="pyramid"),
    SynthesisConfig(parameterization="pyramid", focus=True),
    SynthesisConfig(parameterization="generator"),
]


def made(config: SynthesisConfig, seed: int = 0, size: tuple[int, int] = (18, 14)) -> Parameterization:
    generator = torch.Generator().manual_seed(seed)
    return make_parameterization(5, size, config, PREPROCESS, generator, CPU)


@pytest.mark.parametrize("config", KINDS)
def test_images_are_in_range_and_reach_every_parameter(config: SynthesisConfig) -> None:
    parameterization = made(config)
    images = parameterization.images()
    assert images.shape == (5, 3, 18, 14)
    assert float(images.detach().min()) >= 0 and float(images.detach().max()) <= 1
    weights = torch.randn(images.shape)
    parameters = [p for group in parameterization.groups(0.1) for p in group["params"]]
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
    parameterization = made(config)
    small = parameterization.at((9, 7)).images().detach()
    assert small.shape == (5, 3, 9, 7)
    assert float((small.mean((2, 3)) - parameterization.images().detach().mean((2, 3))).abs().max()) < 0.05
    assert torch.equal(parameterization.at((18, 14)).images(), parameterization.images())


@pytest.mark.parametrize("kind", ["pixels", "pyramid"])
def test_images_settle_into_their_range(kind: Literal["pixels", "pyramid"]) -> None:
    parameterization = made(replace(KINDS[0], parameterization=kind))
    with torch.no_grad():
        for group in parameterization.groups(0.1):
            for level in group["params"]:
                level.add_(torch.randn(level.shape))
    inside = parameterization.images().detach().clamp(0, 1)
    parameterization.commit()
    torch.testing.assert_close(parameterization.images().detach(), inside, atol=1e-6, rtol=0)


def test_a_step_on_a_pyramid_moves_large_shapes_as_far_as_fine_ones() -> None:
    moved = {}
    for kind in ("pixels", "pyramid"):
        parameterization = made(replace(KINDS[0], parameterization=kind), size=(32, 32))
        before = parameterization.images().detach().clone()
        optimizer = torch.optim.Adam(parameterization.groups(0.01))
        brightness = parameterization.images().mean((2, 3)).sum()
        brightness.backward()
        optimizer.step()
        moved[kind] = float((parameterization.images().detach() - before).abs().mean())
    assert moved["pixels"] == pytest.approx(0.01, rel=1e-3)
    assert moved["pyramid"] == pytest.approx(0.03, rel=1e-3)  # three levels: 32, 16 and 8 pixels


def test_a_focus_leaves_what_lies_outside_smooth() -> None:
    parameterization = made(SynthesisConfig(parameterization="pyramid", focus=True), size=(64, 64))
    optimizer = torch.optim.Adam(parameterization.groups(0.02))
    weights = torch.randn(parameterization.images().shape, generator=torch.Generator().manual_seed(0))
    for _ in range(5):  # every pixel is pulled somewhere else
        optimizer.zero_grad()
        (parameterization.images() * weights).sum().backward()
        optimizer.step()
    images = parameterization.images().detach()
    focus = focus_map(5, (64, 64), torch.Generator().manual_seed(0))
    assert isinstance(parameterization, _Pyramid)
    assert parameterization.focus is not None
    edges = (images[..., 1:, 1:] - images[..., :-1, :-1]).square().mean(1)
    shown = parameterization.focus[:, 0, 1:, 1:]
    assert float(edges[shown < 0.1].mean()) < 0.1 * float(edges[shown > 0.9].mean())
    assert focus.shape == parameterization.focus.shape
    assert 0 <= float(focus.min()) < 0.1 and 0.9 < float(focus.max()) <= 1
