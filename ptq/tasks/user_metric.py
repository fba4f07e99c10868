"""A metric of the user's own: a function in a file, which is given a network and returns named numbers."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptq.errors import InputError, PtqError, reason
from ptq.tasks.outputs import Output
from ptq.utils.python_files import import_file

__all__ = ["UserMetric", "load_metric"]

Predict = Callable[[Tensor], Output]


class UserMetric:
    """A metric that a file has.

    Args:
        reference: "FILE.py:function", for messages.
        function: is given ``predict``, and returns numbers by name. ``predict(images)`` takes RGB images, (N, 3, H, W),
            float32 in [0, 1] or uint8, a tensor or an array, in the size that the network takes. It returns what the
            network gives for them: a tensor, or tensors by name.

    Example:
        >>> def brightness(predict):
        ...     return {"mean": float(predict(torch.zeros(2, 3, 16, 16)).mean())}
        >>> UserMetric("brightness", brightness).measure(lambda images: images + 1)
        {'mean': 1.0}
    """

    def __init__(self, reference: str, function: Callable[[Callable[[Any], Output]], object]) -> None:
        self.reference, self.function = reference, function

    @torch.no_grad()
    def measure(self, predict: Predict) -> dict[str, float]:
        """Return the named numbers of a network.

        Args:
            predict: float32 images (N, 3, H, W) in [0, 1] -> outputs.

        Raises:
            InputError: when the function raises, or returns anything but named numbers.
        """
        try:
            found = self.function(lambda images: predict(_floats(images)))
        except PtqError:
            raise
        except Exception as error:  # someone else's code may raise anything
            raise InputError(f"the metric {self.reference} failed: {reason(error)}") from error
        if not isinstance(found, Mapping) or not found:
            raise InputError(
                f"the metric {self.reference} returned a {type(found).__name__}: it must return numbers by name, as "
                "{'mIoU': 0.7}"
            )
        try:
            figures = {str(name): float(value) for name, value in found.items()}
        except (TypeError, ValueError) as error:
            raise InputError(f"the metric {self.reference} returned what is no number: {reason(error)}") from error
        for name, value in figures.items():
            if not math.isfinite(value):
                raise InputError(f"the metric {self.reference} returned {value} as {name!r}: numbers must be finite")
        return figures


def load_metric(reference: str) -> UserMetric:
    """Return the metric that "FILE.py:function" names; the file is run.

    Raises:
        InputError: for a file that is not there or raises, and a function that is not in it.
    """
    text, _, name = reference.rpartition(":")
    path = Path(text)
    if not text.endswith(".py") or not path.is_file():
        raise InputError(f"--metric: there is no file {text or name}; a metric is FILE.py:function")
    code = import_file(path)
    function = getattr(code, name, None)
    if not callable(function):
        raise InputError(f"--metric: {path} has no function {name!r}")
    return UserMetric(reference, function)


def _floats(images: Any) -> Tensor:
    """Images as float32 in [0, 1]."""
    given = torch.as_tensor(images)
    if given.dim() != 4 or given.shape[1] != 3:
        raise InputError(f"predict was given {tuple(given.shape)}: it takes RGB images, (N, 3, H, W)")
    return given.float() if given.is_floating_point() else given.float() / 255
