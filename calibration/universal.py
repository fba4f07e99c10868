"""Images that were made once, for any network: what they become for one, and the set that comes with ptq.

The paper's unit of value is one for many: images that several networks agree on serve networks that took no part in
making them (Li et al., ICCV 2021, "One-For-All"), those without BatchNorm included.
"""

import warnings
from dataclasses import replace
from importlib import resources
from pathlib import Path

import torch

from ptq.calibration.dataset import CalibrationSet
from ptq.data.datasets import fit_images
from ptq.errors import MachineError
from ptq.models.model import Model

__all__ = ["fit_to_network", "universal_set"]

BLURRED = 2  # times that images can be enlarged before they lack what a network looks at


def universal_set() -> CalibrationSet:
    """Return the images that come with ptq, from several networks trained on ImageNet.

    ``provenance`` says which, how they were made, and with what command.

    Raises:
        InputError: when the file is damaged.
        MachineError: when this installation lacks it.

    Example:
        >>> tuple(universal_set().images.shape[1:])
        (3, 224, 224)
    """
    file = resources.files("ptq.data") / "universal.safetensors"
    if not file.is_file():
        raise MachineError(
            "this installation of ptq lacks the universal set: install ptq anew, or make a set with ptq synthesize "
            "--teachers M1,M2 --out DIR and give --images DIR/images.safetensors"
        )
    with resources.as_file(file) as path:
        return CalibrationSet.load(path)


def fit_to_network(images: CalibrationSet, model: Model, name: Path | str = "the set") -> CalibrationSet:
    """Return images that were made for another network as one takes them: its size, and labels that it knows.

    Labels stay where the network has as many classes as the one that gave them, and are unknown else.

    Args:
        images: of any size.
        model: the network.
        name: of the images, for a warning where they are too small.

    Example:
        >>> model = ptq.as_model(net, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> made = CalibrationSet(torch.zeros(4, 3, 24, 24, dtype=torch.uint8), torch.arange(4), {"classes": 1000})
        >>> fitted = fit_to_network(made, model)
        >>> tuple(fitted.images.shape), fitted.labels.tolist()
        ((4, 3, 16, 16), [-1, -1, -1, -1])
    """
    made, size = tuple(images.images.shape[-2:]), model.preprocess.size
    if max(wanted / had for wanted, had in zip(size, made, strict=True)) > BLURRED:
        warnings.warn(
            f"the images of {name} are {made[0]}x{made[1]} pixels and are enlarged to {size[0]}x{size[1]}: they lack "
            "what is fine; larger ones are better",
            stacklevel=2,
        )
    known = images.provenance.get("classes", model.num_classes)
    agree = known == model.num_classes and int(images.labels.max()) < (known or 0)
    return replace(
        images,
        images=fit_images(images.images, model.preprocess),
        labels=images.labels if agree else torch.full_like(images.labels, -1),
        provenance=images.provenance if made == size else images.provenance | {"resized_from": list(made)},
    )
