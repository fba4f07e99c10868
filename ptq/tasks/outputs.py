"""The outputs of a network by name, whatever structure it returns them in.

A prepared network returns one tensor, or a flat dictionary of tensors by name. So its names are nowhere else.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from ptq.errors import ModelError

__all__ = ["SOLE", "Output", "named", "named_tensors"]

Output = Any
"""What a network returns: a tensor, or tensors in a structure. Of a prepared one, a tensor or a flat dictionary."""

SOLE = "output"
"""What an output is called that has no name of its own."""


def named(structure: Any) -> dict[str, Any]:
    """Return what a network gives by name: the leaves of nested tuples, lists, dictionaries and dataclasses.

    A name is the path to the leaf: keys, attributes and positions. It begins with "output" where the first of these
    is a position, or a key that is a number, and is "output" alone for a single tensor, be it in a list. What is None
    is left out.

    Example:
        >>> named({"scores": 1, "boxes": [2, 3]})
        {'scores': 1, 'boxes_0': 2, 'boxes_1': 3}
        >>> named((4, 5)), named([6])
        ({'output_0': 4, 'output_1': 5}, {'output': 6})
    """
    while isinstance(structure, list | tuple) and not hasattr(structure, "_fields") and len(structure) == 1:
        (structure,) = structure
    at_positions = _at_positions(structure)
    found: dict[str, Any] = {}
    for path, leaf in _leaves(structure, ()):
        name = "_".join(path)
        name = f"{SOLE}_{name}".removesuffix("_") if not name or at_positions else name
        while name in found:
            name += "_"
        found[name] = leaf
    return found


def named_tensors(structure: Any) -> dict[str, Tensor]:
    """Return what a network gives by name, if that is tensors.

    Raises:
        ModelError: for anything else, and for nothing.
    """
    found = named(structure)
    if not found:
        raise ModelError(
            "the model returns nothing: it must return a tensor, or tensors in a tuple, list or dictionary"
        )
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"the model returns {name!r}, a {type(value).__name__}: every output must be a tensor; leave the others out "
                "in a module around it"
            )
    return found


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if value is None:
        return
    parts = _parts(value)
    if parts is None:
        yield path, value
    else:
        for key, part in parts:
            yield from _leaves(part, (*path, key))


def _at_positions(value: Any) -> bool:
    """Whether parts have numbers and no names; "537" is the name of a key."""
    if isinstance(value, Mapping):
        return not all(isinstance(key, str) for key in value)
    return isinstance(value, list | tuple) and not hasattr(value, "_fields")


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        keys = getattr(value, "_fields", range(len(value)))
        return [(str(key), part) for key, part in zip(keys, value, strict=True)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(item.name, getattr(value, item.name)) for item in fields(value)]
    return None
