"""Whole runs of what is no plain classifier of colors: quantized, validated, inspected and loaded again, as a user does it."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ptq

NETWORKS = """
import torch
from torch import nn
from torch.nn import functional as F

PREPROCESS = dict(size=16, mean=0.5, std=0.25)

def conv(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

class Net(nn.Module):
    def __init__(self, give, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.give = nn.Sequential(conv(channels, 8, 2), conv(8, 8)), give
        self.scores, self.sides, self.pixels = nn.Linear(8, 5), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 1)

    def forward(self, x, y=None):
        z = self.body(x) if y is None else self.body(x) + self.body(torch.cat([y, y, y], 1))
        return self.give(self, z)

def label(net, z): return net.scores(z.mean((2, 3)))
def boxes(net, z): return net.sides(z).flatten(2).transpose(1, 2)
def mask(net, z): return F.interpolate(net.pixels(z), scale_factor=2.0, mode="bilinear")

def two_heads(): return Net(lambda net, z: (boxes(net, z).mean(1), label(net, z)))
def dictionary(): return Net(lambda net, z: {"class": label(net, z), "more": {"boxes": boxes(net, z), "mask": mask(net, z)}})
def dense(): return Net(mask)
def whole_numbers(): return Net(lambda net, z: mask(net, z).argmax(1))
def embedding(): return Net(lambda net, z: F.normalize(label(net, z)))
def gray(): return Net(label, 1)
def four_channels(): return Net(label, 4)
def two_inputs(): return Net(lambda net, z: {"class": label(net, z), "boxes": boxes(net, z)})
"""
INPUTS = '\nINPUTS = dict(x="RGB", y="L")\n'
RUNS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "two_heads": (("--task", "output_0=generic"), {"output_0": "generic", "output_1": "classify"}),
    "dictionary": ((), {"class": "classify", "more_boxes": "generic", "more_mask": "dense"}),
    "dense": ((), {"output": "dense"}),
    "whole_numbers": ((), {"output": "discrete"}),
    "embedding": ((), {"output": "embed"}),
    "gray": (("--channels", "L", "--images", "gray.npz", "--data", "gray.npz"), {"output": "classify"}),
    "four_channels": (("--channels", "RGBA", "--images", "four.npz", "--data", "four.npz"), {"output": "classify"}),
    "two_inputs": ((), {"class": "classify", "boxes": "generic"}),
}
FEW = (
    *("--images", "noise", "--preset", "fast", "--threads", "1", "--set", "calibration.count=8"),
    *("--set", "reconstruction.iterations=2", "--finetune", "2"),
)


def call(*arguments: str) -> None:
    from ptq.cli.commands import app

    result = CliRunner().invoke(app, arguments)
    # A network as small may be slower in integers; everything is written nevertheless.
    if result.exit_code != 0:
        failed = [line for line in result.output.splitlines() if line.lstrip().startswith("- ")]
        assert failed and all("slower" in line or "float" in line for line in failed), result.output


def arrays(name: str, *shape: int) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (8, *shape, 20, 20), dtype=np.uint8)
    np.savez(f"{name}.npz", images=images, labels=np.arange(8) % 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_everything_runs_from_the_network_to_the_file_and_back(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, kinds = RUNS[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETWORKS + (INPUTS if name == "two_inputs" else ""))
    arrays("gray")
    arrays("four", 4)
    call("quantize", "--model", f"nets.py:{name}", "--bits", "4", "--out", "run", *FEW, *options)
    call("validate", "run")
    call("inspect", "run")
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert {output["name"]: output["kind"] for output in report["outputs"]} == kinds
    assert bool(report["top1"]) == ("--data" in options)
    page = (tmp_path / "run/report.html").read_text()
    assert all(output in page for output in kinds if len(kinds) > 1)
    assert (tmp_path / "run/inspect.json").is_file()
    assert ptq.load(tmp_path / "run").task.kinds == kinds
