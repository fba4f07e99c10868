"""Whatever structure a network returns, its tensors have names, and keep them."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch

import ptq
from ptq.tasks.outputs import named, named_tensors


@dataclass
class Attributes:
    logits: Any
    hidden: Any = None


class Fields(NamedTuple):
    score: Any
    box: Any


@pytest.mark.parametrize(
    ("structure", "names"),
    [
        (1, ["output"]),
        ([[1]], ["output"]),
        ((1, 2), ["output_0", "output_1"]),
        ({"out": 1}, ["out"]),
        ({"out": 1, "aux": None}, ["out"]),
        (OrderedDict([("0", 1), ("pool", 2)]), ["0", "pool"]),
        ({"537": 1, "538": {"0": 2}}, ["537", "538_0"]),
        ({"boxes": [1, 2], "scores": {"car": 3}}, ["boxes_0", "boxes_1", "scores_car"]),
        ([{"a": 1}, {"a": 2}], ["output_0_a", "output_1_a"]),
        (Attributes(1), ["logits"]),
        (Fields(1, (2, 3)), ["score", "box_0", "box_1"]),
        ({"a_b": 1, "a": {"b": 2}}, ["a_b", "a_b_"]),
        ({1: 1, 2: 2}, ["output_1", "output_2"]),
    ],
)
def test_names(structure: Any, names: list[str]) -> None:
    found = named(structure)
    assert list(found) == names
    assert list(found.values()) == sorted(found.values())
    assert named(found) == found


def test_what_is_no_tensor_is_refused() -> None:
    assert list(named_tensors({"a": torch.ones(1), "b": None})) == ["a"]
    wrong: list[Any] = [None, [], {"a": torch.ones(1), "loss": 0.5}]
    for structure in wrong:
        with pytest.raises(ptq.ModelError):
            named_tensors(structure)
