"""What the shell offers for a model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ptq.cli.completion import complete_model, complete_models
from tests.helpers import CHECKOUT


def test_names_and_files_go_on_from_what_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet_mine.py").touch()
    assert complete_model("resnet1") == ["resnet101", "resnet152", "resnet18"]
    assert complete_model("resnet_") == ["resnet_mine.py"]
    assert complete_model("efficientnet_l") == [f"efficientnet_lite{i}" for i in range(3)]
    assert complete_model("[") == []
    assert complete_models("vgg11,resnet_") == ["vgg11,resnet_mine.py"]


def test_bash_completes_options_and_models_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")

    def offered(*words: str) -> list[str]:
        environment = os.environ | {
            "PYTHONPATH": str(CHECKOUT),
            "_PTQ_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(("ptq", *words)),
            "COMP_CWORD": str(len(words)),
        }
        command = [sys.executable, "-m", "ptq"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.stdout.split()

    assert offered("quantize", "--bi") == ["--bits"]
    assert offered("quantize", "--model", "resnet5") == ["resnet50"]
    assert offered("quantize", "--teachers", "vgg11,resnet5") == ["vgg11,resnet50"]
