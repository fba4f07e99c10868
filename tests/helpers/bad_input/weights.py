"""Files of weights that are damaged, of another network, or hostile."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import torch

from tests.helpers.bad_input.case import Case, quantize
from tests.helpers.bad_input.damage import Attack, cut, cut_safetensors, state

__all__ = ["WEIGHTS"]


def _weights(what: str, file: str, says: str, make: Callable[[Path], object]) -> Case:
    return Case(what, quantize("--weights", file), says, make)


def _cut_weights(at: Path) -> None:
    torch.save(state(at), at / "w.pth")
    cut(at / "w.pth")


WEIGHTS = (
    _weights("an empty file of weights", "w.pth", "w.pth", lambda at: (at / "w.pth").touch()),
    _weights("weights cut short", "w.pth", "w.pth", _cut_weights),
    _weights(
        "weights that would run code",
        "w.pth",
        "not loaded because they could run code",
        lambda at: torch.save(Attack(), at / "w.pth"),
    ),
    _weights(
        "a plain pickle that would run code",
        "w.pth",
        "not loaded because they could run code",
        lambda at: (at / "w.pth").write_bytes(pickle.dumps(Attack())),
    ),
    _weights("safetensors cut short", "w.safetensors", "not a readable safetensors file", cut_safetensors),
    _weights(
        "safetensors with a forged length",
        "w.safetensors",
        "not a readable safetensors file",
        lambda at: (at / "w.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}"),
    ),
    _weights(
        "weights for another number of classes",
        "w.pth",
        "of another shape: 5.weight is (7, 4), the model wants (3, 4)",
        lambda at: torch.save(state(at, **{"5.weight": torch.zeros(7, 4), "5.bias": torch.zeros(7)}), at / "w.pth"),
    ),
    _weights(
        "weights of another shape",
        "w.pth",
        "of another shape: 0.weight",
        lambda at: torch.save(state(at, **{"0.weight": torch.zeros(4, 3, 5, 5)}), at / "w.pth"),
    ),
    _weights(
        "weights of another network",
        "w.pth",
        "does not fit the model: missing 0.weight",
        lambda at: torch.save({"x.weight": torch.zeros(1)}, at / "w.pth"),
    ),
    _weights(
        "weights that are NaN in the file",
        "w.pth",
        "holds NaN or infinite values",
        lambda at: torch.save(state(at, **{"5.bias": torch.full((3,), torch.nan)}), at / "w.pth"),
    ),
    _weights(
        "a list in place of weights",
        "w.pth",
        "save model.state_dict() and pass that",
        lambda at: torch.save([1, 2], at / "w.pth"),
    ),
    _weights("a text in place of weights", "w.pth", "w.pth", lambda at: (at / "w.pth").write_text("hello")),
    _weights(
        "a folder in place of weights",
        "folder",
        "no weights at folder: check --weights",
        lambda at: (at / "folder").mkdir(),
    ),
    _weights(
        "tensors that are not dense",
        "w.pth",
        "0.weight is sparse; save it as a dense tensor",
        lambda at: torch.save(state(at, **{"0.weight": torch.zeros(4, 3, 3, 3).to_sparse()}), at / "w.pth"),
    ),
)
