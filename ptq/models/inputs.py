"""Networks of several inputs, as networks of one: images side by side along their channels.

So everything behind takes one tensor. `take_input` marks in the graph where an input begins; the exported file has the
inputs that the network has, under their names. What is no image is a constant, and becomes a part of the network.
"""

import inspect
from collections.abc import Mapping

from torch import Tensor, fx, nn

from ptq.errors import InputError

__all__ = ["Inputs", "SideBySide", "image_channels", "is_input", "take_input", "with_one_input", "with_own_inputs"]

Inputs = Mapping[str, object]
"""Argument of a network's forward -> channels of an image, as "RGB"; or what it is always called with."""


def take_input(x: Tensor, name: str, start: int, channels: int) -> Tensor:
    """Return one of the images that lie side by side in `x`, (N, C, H, W)."""
    return x.narrow(1, start, channels)


fx.wrap("take_input")


def is_input(node: fx.Node) -> bool:
    """Whether a node stands for an image input: the network's only one, or one of several."""
    return node.op == "placeholder" or node.target is take_input


class SideBySide(nn.Module):
    """A network whose images lie side by side.

    Args:
        network: takes them by name.
        channels: of each image, by the name of the argument.
        constants: what the other arguments are.
    """

    def __init__(self, network: nn.Module, channels: Mapping[str, int], constants: Mapping[str, object]) -> None:
        super().__init__()
        self.network, self.channels = network, dict(channels)
        self.numbers = {name: value for name, value in constants.items() if not isinstance(value, Tensor)}
        self.tensors = [name for name, value in constants.items() if isinstance(value, Tensor)]
        for name in self.tensors:
            self.register_buffer(f"constant_{name}", constants[name])  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> object:
        """(N, C, H, W) -> what the network gives."""
        start, images = 0, {}
        for name, count in self.channels.items():
            images[name] = take_input(x, name, start, count)
            start += count
        tensors = {name: getattr(self, f"constant_{name}") for name in self.tensors}
        return self.network(**images, **tensors, **self.numbers)


def image_channels(inputs: Inputs) -> str:
    """Return the channels of the images among the inputs, as `Preprocess` has them.

    Example:
        >>> image_channels({"left": "RGB", "right": "L", "scale": 2.0})
        'RGB,L'
    """
    return ",".join(value for value in inputs.values() if isinstance(value, str))


def with_one_input(network: nn.Module, inputs: Inputs) -> nn.Module:
    """Return a network that takes one tensor, (N, C, H, W).

    Args:
        network: takes the inputs by their names.
        inputs: channels of images, and constants.

    Raises:
        InputError: for names that are no arguments of its forward, and for no image.

    Example:
        >>> class Sum(nn.Module):
        ...     def forward(self, left, right, scale):
        ...         return scale * (left + right)
        >>> with_one_input(Sum(), {"left": "RGB", "right": "RGB", "scale": 2.0})(torch.ones(1, 6, 4, 4)).shape
        torch.Size([1, 3, 4, 4])
    """
    known = list(inspect.signature(network.forward).parameters)
    for name in inputs:
        if name not in known:
            raise InputError(f"the network has no input {name!r}; it has {', '.join(known)}")
    channels = {name: len(value) for name, value in inputs.items() if isinstance(value, str)}
    if not channels:
        raise InputError("none of the network's inputs is an image: say which channels one has, as 'RGB'")
    constants = {name: value for name, value in inputs.items() if not isinstance(value, str)}
    return SideBySide(network, channels, constants)


def with_own_inputs(network: nn.Module) -> nn.Module:
    """Return the network that `with_one_input` was given; any other as it is."""
    return network.network if isinstance(network, SideBySide) else network
