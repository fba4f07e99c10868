"""What is optimized: the pixels of a batch of images, a pyramid of them, or latents and a generator of images."""

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ptq.calibration.synthesis_config import SynthesisConfig
from ptq.data.image_ops import focus_map, pink_noise, resize
from ptq.data.preprocess import Preprocess
from ptq.utils.autocast import fast_autocast

__all__ = ["Parameterization", "make_parameterization"]


class Parameterization(Protocol):
    """A differentiable batch of images, and the parameters that Adam changes."""

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Return Adam's groups of parameters; `lr` is the step size of those that belong to one image."""

    def images(self) -> Tensor:
        """Return the images, (N, 3, H, W) in RGB [0, 1]."""

    def commit(self) -> None:
        """Bring the parameters back into their range after a step."""

    def at(self, size: tuple[int, int]) -> "Parameterization":
        """Return the same images in another size, (height, width)."""


def make_parameterization(
    count: int,
    size: tuple[int, int],
    config: SynthesisConfig,
    preprocess: Preprocess,
    generator: torch.Generator,
    device: torch.device,
) -> Parameterization:
    """Make the parameterization that the configuration names, filled with noise.

    Args:
        count: images.
        size: (height, width) of the images in pixels.
        config: names the parameterization and its noise.
        preprocess: of the network that the images are for; white noise and GENIE's generator are in its normalization.
        generator: decides.
        device: of the parameters.

    Example:
        >>> from ptq.data.preprocess import IMAGENET
        >>> generator = torch.Generator().manual_seed(0)
        >>> made = make_parameterization(2, (16, 16), SynthesisConfig(), IMAGENET, generator, torch.device("cpu"))
        >>> made.images().shape
        torch.Size([2, 3, 16, 16])
    """
    if config.parameterization == "generator":
        return _Generated(count, size, preprocess, generator, device)
    if config.initial_noise == "pink":
        noise = pink_noise(count, size, generator)
    else:
        noise = preprocess.denormalize(torch.randn(count, 3, *size, generator=generator)).clamp(0, 1)
    if config.parameterization == "pixels":
        return _Pixels(noise.to(device))
    focus = focus_map(count, size, generator).to(device) if config.focus else None
    return _Pyramid(noise.to(device), focus)


class _Pixels:
    """The images themselves, kept within [0, 1]."""

    def __init__(self, images: Tensor) -> None:
        self.pixels = images.detach().contiguous(memory_format=torch.channels_last).requires_grad_()

    def groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": [self.pixels], "lr": lr}]

    def images(self) -> Tensor:
        return self.pixels

    @torch.no_grad()
    def commit(self) -> None:
        self.pixels.clamp_(0, 1)

    def at(self, size: tuple[int, int]) -> "_Pixels":
        return _Pixels(resize(self.pixels.detach(), size).clamp_(0, 1))


class _Pyramid:
    """Images as a sum of levels, each half as fine as the one before, kept within [0, 1].

    A step of Adam is equally long for every parameter. On pixels alone it makes fine detail. Large shapes and their
    contrast need many pixels to move together, and stay those of the noise. Steps also make equal detail everywhere,
    where photographs have flat areas and textures. With a `focus`, (N, 1, H, W) in [0, 1], the finest levels are
    multiplied by it.
    """

    COARSEST = 8  # pixels a side
    FOCUSED = 3  # levels

    def __init__(self, images: Tensor, focus: Tensor | None = None) -> None:
        self.size, self.focus = (images.shape[-2], images.shape[-1]), focus
        levels, sizes = [images.detach()], [self.size]
        while min(sizes[-1]) > self.COARSEST:
            sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))
            coarser = resize(levels[-1], sizes[-1])
            levels[-1:] = [levels[-1] - resize(coarser, sizes[-2]), coarser]
        self.levels = [level.contiguous(memory_format=torch.channels_last).requires_grad_() for level in levels]
        focused = [] if focus is None else [resize(focus, size) for size in sizes[: self.FOCUSED]]
        self.shown = focused[: len(levels) - 1]

    def groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": self.levels, "lr": lr}]

    def images(self) -> Tensor:
        total = self.levels[-1]
        for index in reversed(range(len(self.levels) - 1)):
            finer = self.levels[index]
            finer = finer * self.shown[index] if index < len(self.shown) else finer
            total = finer + resize(total, (finer.shape[-2], finer.shape[-1]))
        return total

    @torch.no_grad()
    def commit(self) -> None:
        total = self.images()
        excess = total.clamp(0, 1) - total
        self.levels[0] += excess / self.shown[0].clamp_min(0.2) if self.shown else excess

    @torch.no_grad()
    def at(self, size: tuple[int, int]) -> "_Pyramid":
        if size == self.size:
            return self
        focus = None if self.focus is None else resize(self.focus, size)
        other = _Pyramid(resize(self.images(), size).clamp_(0, 1), focus)
        for level, shown in zip(other.levels, other.shown, strict=False):
            level /= shown.clamp_min(0.1)  # what the focus had dimmed already
        return other


class _Generated:
    """GENIE's generator: a latent of 256 numbers per image, a linear layer and two convolutions for the batch.

    Its output has mean 0 and deviation 1 per channel over the batch, as normalized images have.
    """

    LATENT = 256

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        preprocess: Preprocess,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.size, self.preprocess = size, preprocess
        self.coarse = (math.ceil(size[0] / 4), math.ceil(size[1] / 4))
        cells = self.coarse[0] * self.coarse[1]
        self.latents = torch.randn(count, self.LATENT, generator=generator).to(device)
        self.latents.requires_grad_()
        self.root = nn.Linear(self.LATENT, 128 * cells)
        self.trunk = nn.Sequential(
            nn.BatchNorm2d(128),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(128, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(64, 3, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(3, affine=False),
        )
        for layer in (self.root, *self.trunk):
            if isinstance(layer, (nn.Linear, nn.Conv2d)):  # torch's own rule, from our generator
                bound = 1 / math.sqrt(layer.weight[0].numel())
                for values in (layer.weight, layer.bias):
                    nn.init.uniform_(values, -bound, bound, generator=generator)  # type: ignore[arg-type]
        self.root.to(device)
        self.trunk.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def groups(self, lr: float) -> list[dict[str, Any]]:
        weights = [*self.root.parameters(), *self.trunk.parameters()]
        # For 224 pixels there are 103 million weights, whose step takes a quarter of the time fused.
        return [{"params": [self.latents], "lr": lr, "fused": True}, {"params": weights, "lr": lr / 10, "fused": True}]

    def images(self) -> Tensor:
        with fast_autocast(self.latents.device):
            grid = self.root(self.latents).view(len(self.latents), 128, *self.coarse)
            painted = self.trunk(grid.contiguous(memory_format=torch.channels_last))
        painted = painted[..., : self.size[0], : self.size[1]]
        return self.preprocess.denormalize(painted.float()).clamp(0, 1)

    def commit(self) -> None:
        """Latents and weights have no bounds."""

    def at(self, size: tuple[int, int]) -> "Parameterization":
        if size == self.size:
            return self
        return _Pixels(resize(self.images().detach(), size))
