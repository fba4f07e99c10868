"""What an ONNX name stands for while a file is converted: numbers that are known, or a tensor that depends on the images.

Each has two examples: for a batch, and for a batch of one image more. So what depends on the size of the batch shows.
The examples of tensors are on the meta device: shapes, and no numbers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx

__all__ = ["Array", "Constant", "Value", "Variable", "known"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Constant:
    """Numbers that no pixel changes.

    Args:
        arrays: for the batch and for the larger one; one object where they are the same.
    """

    arrays: tuple[Array, Array]

    @property
    def array(self) -> Array | None:
        """The numbers, where they are the same for every batch."""
        first, second = self.arrays
        return first if first is second or np.array_equal(first, second) else None


@dataclass(frozen=True, eq=False)
class Variable:
    """A tensor that depends on the images, or several of them.

    Args:
        node: computes it.
        examples: for the batch and for the larger one.
    """

    node: fx.Node
    examples: tuple[Any, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes for the smaller batch."""
        return tuple(self.examples[0].shape)

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Its sizes for both."""
        return self.shape, tuple(self.examples[1].shape)

    @property
    def dim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)


Value = Constant | Variable


def known(numbers: Tensor | Array) -> Constant:
    """Return numbers that are the same for every batch."""
    array = np.asarray(numbers)
    return Constant((array, array))
