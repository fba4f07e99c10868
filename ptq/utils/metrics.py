"""How good an answer is, and how near one is to another: pure functions of tensors."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = [
    "agreement",
    "decibels",
    "energies",
    "joint_decibels",
    "kl_divergence",
    "relative_worth",
    "sqnr_db",
    "sqnr_db_in_parts",
    "top1",
]


def top1(logits: Tensor, labels: Tensor) -> float:
    """Return the percentage of rows of `logits` (N, C) whose largest entry is at `labels` (N,).

    Example:
        >>> import torch
        >>> top1(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]))
        50.0
    """
    return 100 * (logits.argmax(1) == labels).double().mean().item()


def agreement(logits_a: Tensor, logits_b: Tensor) -> float:
    """Return the percentage of rows of two (N, C) on whose largest entry both agree.

    Example:
        >>> import torch
        >>> agreement(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 3.0]]))
        100.0
    """
    return top1(logits_a, logits_b.argmax(1))


def sqnr_db(reference: Tensor, approximation: Tensor) -> float:
    """Return the signal to quantization noise ratio in decibels, 10 log10(Σ ref² / Σ (ref - approximation)²).

    Sums are in float64, over all elements. Infinite where both are equal, -inf where only the
    reference is all zeros.

    Example:
        >>> import torch
        >>> sqnr_db(torch.tensor([10.0]), torch.tensor([9.0]))
        20.0
    """
    signal = reference.double().square().sum().item()
    return decibels(signal, (reference.double() - approximation.double()).square().sum().item())


def sqnr_db_in_parts(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return `sqnr_db` of what comes as pairs of a part of the reference and a part of its approximation.

    Example:
        >>> import torch
        >>> sqnr_db_in_parts([(torch.tensor([6.0]), torch.tensor([6.0])), (torch.tensor([8.0]), torch.tensor([9.0]))])
        20.0
    """
    signal = noise = 0.0
    for reference, approximation in pairs:
        part = energies(reference, approximation)
        signal, noise = signal + part[0], noise + part[1]
    return decibels(signal, noise)


def energies(reference: Tensor, approximation: Tensor) -> tuple[float, float]:
    """Return Σ ref² and Σ (approximation - ref)².

    Squares are taken in the tensors' precision, so that no copy of a large one is made; those of whole numbers in float64.

    Example:
        >>> import torch
        >>> energies(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0]))
        (25.0, 1.0)
    """
    if not (reference.is_floating_point() and approximation.is_floating_point()):
        reference, approximation = reference.double(), approximation.double()
    signal = reference.square().sum(dtype=torch.float64)
    return float(signal), float((approximation - reference).square().sum(dtype=torch.float64))


def joint_decibels(signals: Sequence[float], noises: Sequence[float]) -> float:
    """Return the signal to quantization noise ratio of several outputs in dB; noise relative to its signal is averaged.

    Args:
        signals, noises: sums of squares for every output, in one order.

    Example:
        >>> joint_decibels([100.0, 1.0], [1.0, 0.19])
        10.0
    """
    worth = relative_worth(signals)
    return decibels(
        sum(signal * w for signal, w in zip(signals, worth, strict=True)),
        sum(noise * w for noise, w in zip(noises, worth, strict=True)),
    )


def relative_worth(signals: Sequence[float]) -> list[float]:
    """Return what a squared error of each of several tensors counts; 1 for the one with the largest signal.

    The reciprocal of the signal, because whoever reads a tensor is used to its scale: an error of 1 % is one of 1 %
    wherever it is. A tensor without any signal counts nothing beside others.

    Example:
        >>> relative_worth([4.0, 1.0, 0.0])
        [1.0, 4.0, 0.0]
    """
    largest = max(signals)
    return [largest / signal if signal else float(not largest) for signal in signals]


def decibels(signal: float, noise: float) -> float:
    """Return 10 log10(signal / noise) of two sums of squares; infinite without noise, -inf without signal.

    Example:
        >>> decibels(100.0, 1.0)
        20.0
    """
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def kl_divergence(reference: Tensor, approximation: Tensor) -> float:
    """Return the Kullback-Leibler divergence of two softmaxes in nats, Σ p log(p / q), the mean over rows.

    Args:
        reference: logits (N, C), whose softmax is p.
        approximation: logits (N, C), whose softmax is q.

    Returns:
        0 where every row says the same, else more; in float64.

    Example:
        >>> import torch
        >>> kl_divergence(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 1.0]]))
        0.0
    """
    p, q = (logits.double().log_softmax(1) for logits in (reference, approximation))
    # Rounding alone can bring a sum below 0.
    return (p.exp() * (p - q)).sum(1).clamp(min=0).mean().item()
