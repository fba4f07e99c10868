"""The weights of a layer, sorted by the channels they read or write."""

from torch import Tensor, nn

__all__ = ["weights_by_input", "weights_by_output"]


def weights_by_input(layer: nn.Module) -> Tensor:
    """Return the weights that every input of a layer has, (inputs, outputs of one * kernel).

    Example:
        >>> weights_by_input(nn.Conv2d(4, 6, 3, groups=2)).shape
        torch.Size([4, 27])
    """
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        return weight.T
    return weight.flatten(1) if isinstance(layer, nn.ConvTranspose2d) else _turned(weight, layer.groups)


def weights_by_output(layer: nn.Module) -> Tensor:
    """Return the weights that every output of a layer has, (outputs, inputs of one * kernel).

    Example:
        >>> weights_by_output(nn.ConvTranspose2d(4, 6, 3, groups=2)).shape
        torch.Size([6, 18])
    """
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    weight = layer.weight.detach()
    return _turned(weight, layer.groups) if isinstance(layer, nn.ConvTranspose2d) else weight.flatten(1)


def _turned(weight: Tensor, groups: int) -> Tensor:
    """(groups * a, b, ...) as (groups * b, a * ...): within every group, what was first is second."""
    first, second = weight.shape[0] // groups, weight.shape[1]
    return weight.reshape(groups, first, second, -1).transpose(1, 2).reshape(groups * second, -1)
