"""Students that cannot learn, and runs that quantization cannot go on from."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from tests.helpers.bad_input.case import Case
from tests.helpers.bad_input.damage import cut_safetensors, state

__all__ = ["DISTILLATION"]


def _distill(
    what: str,
    says: str,
    *more: str,
    teacher: str = "net.py:net",
    student: str = "net.py:net",
    images: str = "noise",
    make: Callable[[Path], object] = lambda _: None,
    torch: bool = True,
) -> Case:
    words = ("distill", "--teacher", teacher, "--student", student, "--images", images, "--preset", "fast")
    return Case(what, (*words, "--out", "run", *more), says, make, torch=torch)


def _from(what: str, says: str, make: Callable[[Path], object] = lambda _: None) -> Case:
    return Case(what, ("quantize", "--from", "run", "--bits", "8"), says, make, torch=False)


def _without_weights(at: Path) -> None:
    (at / "run").mkdir()
    preprocess = {"size": [8, 8], "mean": [0.5], "std": [0.5], "channels": "RGB"}
    facts = {"settings": {"distillation": {"student": "net.py:net"}}, "model": {"preprocess": preprocess}}
    (at / "run/distilled.json").write_text(json.dumps(facts))


DISTILLATION = (
    Case("a student without a teacher", ("distill", "--student", "net.py:net"), "--teacher is missing", torch=False),
    Case("a teacher without a student", ("distill", "--teacher", "net.py:net"), "--student is missing", torch=False),
    _distill("a student in no file", "--student: there is no file gone.py", student="gone.py:net", torch=False),
    _distill("a teacher in no file", "--teacher: there is no file gone.py", teacher="gone.py:net", torch=False),
    _distill("no weights for a student", "--student-weights: there is", "--student-weights", "w.pth", torch=False),
    _distill("a temperature of 0", "distillation.temperature", "--set", "distillation.temperature=0", torch=False),
    _distill(
        "a budget of bits", "max_size is for another command", "--set", "quantization.max_size='3MB'", torch=False
    ),
    _distill("rounds of images at hand", "gives no images against a student", "--set", "distillation.rounds=2"),
    _distill(
        "more rounds than epochs",
        "rounds are parts of",
        "--set",
        "distillation.rounds=9",
        "--epochs",
        "3",
        images="mixmix",
    ),
    _distill("a student of other classes", "has 4 classes, not 3", student="net.py:four"),
    _distill("a student of another size", "does not run on 3x8x8 images", student="net.py:large"),
    _distill("a student of other outputs", "has None classes, not 3", student="net.py:boxes_alone"),
    _distill("a teacher of a student without BatchNorm", "no BatchNorm", teacher="net.py:plain", images="mixmix"),
    _distill("a verifier of other classes", "must know the same", "--verifier", "net.py:four"),
    _distill(
        "a student's weights cut short",
        "not a readable safetensors file",
        *("--student-weights", "w.safetensors"),
        make=cut_safetensors,
    ),
    _distill(
        "a student's weights of another network",
        "of another shape: 0.weight",
        *("--student-weights", "w.pth"),
        make=lambda at: torch.save(state(at, **{"0.weight": torch.zeros(4, 3, 5, 5)}), at / "w.pth"),
    ),
    _distill(
        "a learning rate that is too large",
        "learns no more",
        *("--set", "distillation.lr=1e30", "--set", "distillation.optimizer=sgd"),
    ),
    _distill("a learning rate beyond all numbers", "lr must be above 0", "--set", "distillation.lr=1e38"),
    Case(
        "the recipe of a student to quantize",
        ("quantize", "--bits", "8", "--config", "r.toml"),
        "give its run directory as --from",
        lambda at: (at / "r.toml").write_text('[model]\nname = "net.py:net"\n[distillation]\nstudent = "net.py:net"\n'),
        torch=False,
    ),
    _from("no run to go on from", "has no readable distilled.json"),
    _from("a run to go on from without weights", "weights.safetensors is missing", _without_weights),
)
