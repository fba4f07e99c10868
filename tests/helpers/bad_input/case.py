"""A mistake: the command, what it needs, and what its user is told."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NETWORK", "Case", "prepare_folder", "quantize"]

NETWORK = """
import time
import torch
from torch import nn

PREPROCESS = dict(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

def net(channels=3, classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, classes))

def other():
    module = net()
    module[0].weight.data += 1
    return module

def filled(value):
    module = net()
    module[0].weight.data[0] = value
    return module

def nan(): return filled(float("nan"))
def infinite(): return filled(float("inf"))
def gray(): return net(channels=1)
def four(): return net(classes=4)
def large(): return nn.Sequential(nn.Conv2d(3, 4, 12), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
def boxes_alone(): return nn.Conv2d(3, 4, 3)
def raises(): raise RuntimeError("no such checkpoint")
def number(): return 7
def wants(width): return net()
def plain(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
def no_layers(): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()
    def forward(self, x):
        return self.net(x) if x.sum() > 0 else self.net(-x)

class Word(Branching):
    def forward(self, x):
        return {"class": self.net(x), "kind": "pair"}

class Words(Branching):
    def forward(self, x):
        return [self.net(x), ["cat", "dog"]]

class Mean(Branching):
    def forward(self, x):
        return {"class": self.net(x), "mean": x.mean()}

class Nothing(Branching):
    def forward(self, x):
        self.net(x)

class Boxes(Branching):
    def forward(self, x):
        return [{"boxes": self.net(x).flatten()[:1] + torch.zeros(7, 4)}]

class Pair(Branching):
    def forward(self, x, y):
        return self.net(x) + self.net(y)

def pair(): return Pair()
def features(): return nn.Conv2d(3, 4, 3)
def bad_metric(predict): raise KeyError("iou")
def worded(predict): return "good"
def rated(predict): return {"mIoU": "good"}
def undefined(predict): return {"mIoU": float("nan")}
def listed(predict): return predict([[1, 2, 3]])
def branching(): return Branching()
def word(): return Word()
def words(): return Words()
def mean(): return Mean()
def nothing(): return Nothing()
def boxes(): return Boxes()

def slow():
    print("waiting", flush=True)
    time.sleep(60)
"""


@dataclass(frozen=True)
class Case:
    """A mistake.

    Args:
        what: in words.
        arguments: of the command.
        says: what the message must contain.
        make: writes the files of it into the working directory.
        finished: whether there is a finished run in ``run`` before `make`.
        torch: whether it takes torch to find out.
    """

    what: str
    arguments: tuple[str, ...]
    says: str
    make: Callable[[Path], object] = lambda _: None
    finished: bool = False
    torch: bool = True


def prepare_folder(case: Case, folder: Path, finished: Path) -> None:
    """Write what a case needs into an empty folder; `finished` is a finished run of ``net.py:net``."""
    (folder / "net.py").write_text(NETWORK)
    if case.finished:
        shutil.copytree(finished, folder / "run")
    case.make(folder)


def quantize(*more: str, model: str = "net.py:net", bits: str = "4", images: str = "noise") -> tuple[str, ...]:
    """A command that is in order but for `more`."""
    return ("quantize", "--model", model, "--bits", bits, "--preset", "fast", "--images", images, "--out", "run", *more)
