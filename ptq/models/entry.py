"""What every provider of networks gives: how to build the network a name stands for, and what images it takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ptq.data.preprocess import Preprocess
from ptq.models.inputs import Inputs
from ptq.models.weights import fit

__all__ = ["ModelEntry"]


@dataclass(frozen=True)
class ModelEntry:
    """The network a name stands for, not built yet.

    Attributes:
        name: short, fit for a file name.
        preprocess: with the caller's overrides applied.
        build: number of classes (None: as published) -> the network with random weights, or those that a file holds.
        pretrained: number of classes -> the network with its own weights, and what to call those.
        fit: copies a state dict, read from the file named last, into a built network.
        classes: their names as published; no more than a guess for other weights.
        inputs: channels of images and constants, by argument, of a network that takes more than one image.
    """

    name: str
    preprocess: Preprocess
    build: Callable[[int | None], nn.Module]
    pretrained: Callable[[int | None], tuple[nn.Module, str]]
    fit: Callable[[nn.Module, Mapping[str, Tensor], str], None] = fit
    classes: object = ()
    inputs: Inputs = field(default_factory=dict)
