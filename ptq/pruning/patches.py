"""A layer as a matrix: every output is a product with a patch of the input.

A transposed convolution is a convolution of its input with zeros in between, by the turned kernel.
"""

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["matrix_of", "outputs_at", "patches_of", "set_matrix"]

Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def patches_of(layer: Layer, x: Tensor) -> Tensor:
    """Return what every output of a layer is computed from, (N, groups, inputs of one, places).

    Example:
        >>> conv = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        >>> patches = patches_of(conv, torch.rand(2, 4, 5, 5))
        >>> patches.shape
        torch.Size([2, 2, 18, 25])
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1]).transpose(1, 2).unsqueeze(1)
    kernel, dilation = layer.kernel_size, layer.dilation
    stride: tuple[int, ...]
    if isinstance(layer, nn.ConvTranspose2d):
        x, stride = _with_zeros(layer, x), (1, 1)
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x, stride = F.pad(x, layer._reversed_padding_repeated_twice, mode), layer.stride
    columns = F.unfold(x, kernel, dilation=dilation, stride=stride)
    return columns.reshape(len(x), layer.groups, -1, columns.shape[-1])


def outputs_at(layer: Layer, y: Tensor) -> Tensor:
    """Return a layer's outputs in the order of its patches, (N, groups, outputs of one, places)."""
    if isinstance(layer, nn.Linear):
        return y.reshape(len(y), -1, y.shape[-1]).transpose(1, 2).unsqueeze(1)
    return y.reshape(len(y), layer.groups, y.shape[1] // layer.groups, -1)


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
    shape = layer.weight.shape
    if isinstance(layer, nn.ConvTranspose2d):
        inputs = layer.in_channels // layer.groups
        weight = matrix.reshape(layer.groups, shape[1], inputs, *shape[2:]).flip(-2, -1).transpose(1, 2)
    else:
        weight = matrix
    layer.weight = nn.Parameter(weight.reshape(shape).to(layer.weight).contiguous(), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(layer.weight), requires_grad=False)


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
