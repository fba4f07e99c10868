"""What a network remembers of its training data: the statistics at the inputs of its BatchNorm layers.

Every BatchNorm stores the mean and variance that its input had over the training set. Images whose activations have
the same moments look to the network like its training data. That is all that data-free quantization needs of them.
Hooks record the moments of BatchNorm *inputs* during one ordinary forward pass of a network in eval mode. Layers are
found by the order in which the forward pass meets them, never by pairing them with convolutions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptq.errors import ModelError
from ptq.utils.batchnorms import with_statistics

__all__ = [
    "MATCHING",
    "Moments",
    "batch_norms",
    "has_batch_norm",
    "matching_loss",
    "record_moments",
    "statistics_distance",
]


@dataclass(frozen=True)
class Moments:
    """Per-channel moments at the input of a BatchNorm: as measured, and as the layer expects."""

    mean: Tensor  # (C,), or (N, C) of each image by itself; differentiable
    var: Tensor  # the same, biased
    target_mean: Tensor  # (C,)
    target_var: Tensor  # (C,)
    eps: float


def batch_norms(module: nn.Module, name: str = "the model") -> Sequence[nn.Module]:
    """Return the BatchNorm layers of a network that carry statistics.

    Raises:
        ModelError: when there are none, as in most vision transformers.
    """
    found = with_statistics(module)
    if not found:
        raise ModelError(
            f"{name} has no BatchNorm layers, so no images can be recovered from it. Take those that come with "
            "ptq, --images universal, name other models that have them with --teachers, or give real images with --images DIR."
        )
    return found


def has_batch_norm(module: nn.Module) -> bool:
    """Return whether images can be recovered from a network."""
    return bool(with_statistics(module))


@contextmanager
def record_moments(module: nn.Module, name: str = "the model", per_image: bool = False) -> Iterator[list[Moments]]:
    """Record the moments at every BN input while the network runs in this context.

    Args:
        module: in eval mode.
        name: for the error message.
        per_image: whether moments are of every image by itself, in place of the batch.

    Yields:
        A list that fills in the order of execution, one entry per *call* of a BatchNorm. Clear it between passes.

    Raises:
        ModelError: when the network has no BatchNorm.

    Example:
        >>> with record_moments(net.eval()) as moments:
        ...     logits = net(images)
        >>> loss = matching_loss(moments)
    """
    moments: list[Moments] = []

    def record(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        mean, var = image_moments(inputs[0]) if per_image else channel_moments(inputs[0])
        moments.append(Moments(mean, var, layer.running_mean, layer.running_var, layer.eps))

    hooks = [m.register_forward_pre_hook(record) for m in batch_norms(module, name)]
    try:
        yield moments
    finally:
        for hook in hooks:
            hook.remove()


def matching_loss(moments: Sequence[Moments], first: float = 10.0, rule: str = "relative") -> Tensor:
    """Return how far the moments are from what the network remembers; zero exactly when they agree.

    Args:
        moments: as `record_moments` records them.
        first: weight of the first layer, which sees the colors themselves, relative to the others.
        rule: a key of `MATCHING`.

    Returns:
        A scalar, differentiable.
    """
    compare = MATCHING[rule]
    layers = [compare(m) for m in moments]
    total = first * layers[0] + sum(layers[1:])
    return total / (first + len(moments) - 1) if rule == "relative" else total


def _relative(m: Moments) -> Tensor:
    scale = m.target_var + m.eps
    return _rms((m.mean - m.target_mean) / scale.sqrt()) + _rms((m.var - m.target_var) / scale)


def _norms(m: Moments) -> Tensor:
    return _norm(m.mean - m.target_mean) + _norm(m.var - m.target_var)


def _squares(m: Moments) -> Tensor:
    return _squared_errors(m).sum(-1).mean()


def _mean_squares(m: Moments) -> Tensor:
    return _squared_errors(m).mean()


def _squared_errors(m: Moments) -> Tensor:
    std = (m.var.clamp_min(0) + m.eps).sqrt() - (m.target_var + m.eps).sqrt()
    return (m.mean - m.target_mean).square() + std.square()


MATCHING: dict[str, Callable[[Moments], Tensor]] = {
    "relative": _relative,
    "norms": _norms,
    "squares": _squares,
    "mean squares": _mean_squares,
}
"""How one layer's statistics are compared.

relative: un-squared, in units of the channel's own deviation, and averaged over channels and layers: one
    weight serves networks of every width, depth and scale, and teachers mix as equals.
norms: un-squared norms of means and variances, summed over layers (DeepInversion, CVPR 2020, eq. 4).
squares: squared norms of means and deviations, summed over layers (ZeroQ, CVPR 2020, eq. 2).
mean squares: `squares` divided by the number of channels, so that wide layers weigh no more (GENIE, CVPR 2023).
"""


@torch.no_grad()
def statistics_distance(module: nn.Module, inputs: Tensor, batch: int = 64) -> float:
    """Return a scale-free distance between images and a network's training data, to compare sources of images.

    It is the mean over layers and channels of (mean - target)^2 / var_target + (std / std_target - 1)^2, with moments
    over *all* inputs. On four CIFAR-10 networks 256 training images are at 0.03 to 0.07, because few images leave
    sampling noise. Gaussian noise is at 0.5 to 0.7.

    Args:
        module: in eval mode, with BatchNorm layers.
        inputs: (N, 3, H, W), already normalized as the network takes them.
        batch: images per forward pass.

    Example:
        >>> statistics_distance(net, images) >= 0
        True
    """
    sums: list[tuple[Tensor, Tensor]] = []
    with record_moments(module) as moments:
        for chunk in torch.split(inputs, batch):
            moments.clear()
            module(chunk)
            share = len(chunk) / len(inputs)
            parts = [(share * m.mean, share * (m.var + m.mean**2)) for m in moments]
            sums = [(a + c, b + d) for (a, b), (c, d) in zip(sums, parts, strict=True)] if sums else parts
    distances = []
    for (mean, square), m in zip(sums, moments, strict=True):
        scale = m.target_var + m.eps
        std = (square - mean**2).clamp_min(0).add(m.eps).sqrt()
        distances.append(((mean - m.target_mean) ** 2 / scale + (std / scale.sqrt() - 1) ** 2).mean())
    return float(torch.stack(distances).mean())


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel (dimension 1), (C,) and (C,), differentiable.

    On CPUs they are in the precision of `x`: another would cost several times the network's own pass.
    """
    if x.device.type == "cpu" and x.numel():
        mean, var = _FusedMoments.apply(x)
        return mean, var
    dims = [d for d in range(x.dim()) if d != 1]
    var, mean = torch.var_mean(x.float(), dims, correction=0)
    return mean, var


def image_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of each image, (N, C), differentiable."""
    mean, var = channel_moments(x.reshape(1, -1, *x.shape[2:]))
    return mean.view(x.shape[:2]), var.view(x.shape[:2])


class _FusedMoments(torch.autograd.Function):
    """One pass forward, one backward: on CPUs several times as fast as var_mean."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        grad_mean, grad_var = grads
        count = x.numel() // x.shape[1]
        slope = grad_var * (2 / count)  # d var / dx = 2 (x - mean) / count
        offset = grad_mean / count - slope * mean
        shape = [1, -1] + [1] * (x.dim() - 2)
        return torch.addcmul(offset.view(shape).to(x.dtype), x, slope.view(shape).to(x.dtype))


def _rms(x: Tensor) -> Tensor:
    return _root(x.square().mean())


def _norm(x: Tensor) -> Tensor:
    return _root(x.square().sum())


def _root(square: Tensor) -> Tensor:
    # Where nothing differs an un-squared norm has no direction: its gradient is made zero there, not NaN.
    return torch.where(square > 0, square.clamp_min(1e-30).sqrt(), square)
