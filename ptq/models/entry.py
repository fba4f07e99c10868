"""What every provider of networks gives: how to build the network a name stands for, and what images it takes."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from ptq.data.preprocess import Preprocess
from ptq.models.inputs import Inputs
from ptq.models.weights import fit

__all__ = ["ModelEntry", "warn_of_assumed"]


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


def warn_of_assumed(path: Path, absent: Sequence[str], like: Preprocess | None, mend: str = "") -> None:
    """Warn of what a file does not say of its images.

    Args:
        path: of the file.
        absent: fields of `Preprocess`.
        like: from which they are taken; ImageNet's are where it is None. Options then say nothing of this network.
        mend: how the file can say them.
    """
    options = f"give {' '.join('--' + key for key in absent)}"
    ways = " or ".join(filter(None, ["" if like else options, mend]))
    whose = "those of the network that it goes with:" if like else "ImageNet's"
    warnings.warn(
        f"{path} does not say what images it takes; assuming {whose} {', '.join(absent)}"
        f"{ways and f'. If that is wrong, {ways}'}",
        stacklevel=1,
    )
