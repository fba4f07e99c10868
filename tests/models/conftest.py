"""A network in a file of its own, and a machine without a network."""

from pathlib import Path

import pytest

TINY = """
from torch import nn

PREPROCESS = dict(size=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), interpolation="bicubic")

def tiny():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 5))

def number():
    return 3

def fails():
    raise KeyError("lost")
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(TINY)
    return f"{tmp_path / 'net.py'}:tiny"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A proxy that refuses every connection, and empty caches; the folder is torch.hub's."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    return cache
