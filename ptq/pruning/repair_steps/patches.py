"""A layer as a matrix: every output is a product with a patch of the input.

A transposed convolution is a convolution of its input with zeros in between, by the turned kernel.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Layer", "matrix_of", "outputs_at", "patches_of", "set_matrix", "weight_of"]

Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def patches_of(layer: Layer, x: Tensor, places: Tensor | None = None) -> Tensor:
    """Return what outputs of a layer are computed from, (N, groups, inputs of one, places).

    Args:
        layer: any.
        x: what it reads, (N, C, H, W), or (N, ..., C) for a linear layer.
        places: which of its outputs' pixels, int64 (places,), counted row by row; all of them when not given.

    Example:
        >>> conv = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        >>> patches_of(conv, torch.rand(2, 4, 5, 5), torch.tensor([0, 7, 24])).shape
        torch.Size([2, 2, 18, 3])
    """
    if isinstance(layer, nn.Linear):
        rows = x.reshape(len(x), -1, x.shape[-1])
        return (rows if places is None else rows[:, places]).transpose(1, 2).unsqueeze(1)
    stride: tuple[int, ...]
    if isinstance(layer, nn.ConvTranspose2d):
        x, stride = _with_zeros(layer, x), (1, 1)
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x, stride = F.pad(x, layer._reversed_padding_repeated_twice, mode), layer.stride
    at = _pixels(layer, x.shape[2:], stride).to(x.device)
    at = at if places is None else at[:, places]
    columns = x.flatten(2)[:, :, at.flatten()]
    return columns.reshape(len(x), layer.groups, -1, at.shape[1])


def outputs_at(layer: Layer, y: Tensor, places: Tensor | None = None) -> Tensor:
    """Return a layer's outputs in the order of its patches, (N, groups, outputs of one, places)."""
    if isinstance(layer, nn.Linear):
        rows = y.reshape(len(y), -1, y.shape[-1])
        return (rows if places is None else rows[:, places]).transpose(1, 2).unsqueeze(1)
    columns = y.flatten(2) if places is None else y.flatten(2)[:, :, places]
    return columns.reshape(len(y), layer.groups, y.shape[1] // layer.groups, -1)


def matrix_of(layer: Layer) -> Tensor:
    """Return the weights as they are multiplied with patches, (groups, outputs of one, inputs of one)."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        return weight.unsqueeze(0)
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight.reshape(layer.groups, -1, *weight.shape[1:]).transpose(1, 2).flip(-2, -1)
        return weight.flatten(3).flatten(2)
    return weight.reshape(layer.groups, layer.out_channels // layer.groups, -1)


def set_matrix(layer: Layer, matrix: Tensor, bias: Tensor) -> None:
    """Give a layer the weights of such a matrix, and a bias (outputs,)."""
    weight = weight_of(layer, matrix).to(layer.weight).contiguous()
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(bias.to(layer.weight), requires_grad=False)


def weight_of(layer: Layer, matrix: Tensor) -> Tensor:
    """Return a matrix, shaped as `matrix_of` gives it, in the shape of the layer's weight."""
    shape = layer.weight.shape
    if isinstance(layer, nn.ConvTranspose2d):
        inputs = layer.in_channels // layer.groups
        matrix = matrix.reshape(layer.groups, shape[1], inputs, *shape[2:]).flip(-2, -1).transpose(1, 2)
    return matrix.reshape(shape)


def _pixels(layer: nn.Conv2d | nn.ConvTranspose2d, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Which pixels of a padded input, counted row by row, every place of the kernel sees for every output, (kernel, places)."""
    grids = [
        torch.arange(k).unsqueeze(1) * d + torch.arange((side - d * (k - 1) - 1) // step + 1) * step
        for k, d, side, step in zip(layer.kernel_size, layer.dilation, size, stride, strict=True)
    ]
    down, across = grids
    return (down[:, None, :, None] * size[1] + across[None, :, None, :]).flatten(2).flatten(0, 1)


def _with_zeros(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """The input with stride - 1 zeros between its pixels, and around them what the kernel reaches over."""
    (up, across), size = layer.stride, x.shape[2:]
    wide = x.new_zeros(*x.shape[:2], (size[0] - 1) * up + 1, (size[1] - 1) * across + 1)
    wide[:, :, ::up, ::across] = x
    sides: list[int] = []
    for d in (1, 0):
        padding, more = layer.padding[d], layer.output_padding[d]
        assert isinstance(padding, int)
        reach = layer.dilation[d] * (layer.kernel_size[d] - 1) - padding
        sides += [reach, reach + more]
    return F.pad(wide, sides)
