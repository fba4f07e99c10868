"""A finished run directory, measured again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ptq.config.flat_options import make_settings
from ptq.errors import PtqError
from ptq.export import Validation, validate
from ptq.export.results import Check
from ptq.run import finished_runs, pipeline
from ptq.run.finished_runs import validate_run


@pytest.mark.slow
def test_a_finished_run_can_be_measured_again(digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "net.pth"
    torch.save(digits.model.state_dict(), weights)
    factory = tmp_path / "net.py"
    factory.write_text(
        "from tests.helpers.networks import ResNet\n"
        "PREPROCESS = dict(size=16, resize=16, mean=(0.3,) * 3, std=(0.35,) * 3)\n"
        "def net():\n    return ResNet()\n"
    )
    np.savez(tmp_path / "data.npz", images=digits.images.numpy(), labels=digits.labels.numpy())
    settings = make_settings(
        f"{factory}:net", 8, weights=str(weights), preset="fast", out=str(tmp_path / "run"), threads=1
    )
    made = pipeline.run(settings)
    assert made.report.validation.top1 == {}  # nothing labeled, nothing claimed
    measured = validate_run(made.folder, data=str(tmp_path / "data.npz"), threads=None)
    assert measured.latency_ms["threads"] == 1  # as the run was asked to
    assert measured.top1["onnx"] > 95 and measured.top1["float"] > 95
    assert measured.agreement["onnx"] > 95
    report = json.loads((made.folder / "report.json").read_text())
    assert report["top1"] == measured.top1
    assert report["images"]["source"] == made.report.images.source  # what it was made with stays
    assert report["notes"] == list(made.report.notes) and len(report["notes"]) >= 3

    def failing(*arguments: Any, **options: Any) -> Validation:
        found = validate(*arguments, **options)
        return replace(found, checks=(*found.checks, Check("it is small", "9 MB", "it is not small.")))

    monkeypatch.setattr(finished_runs, "validate", failing)
    with pytest.raises(PtqError, match=r"- it is not small\."):
        validate_run(made.folder, data=str(tmp_path / "data.npz"), threads=1)
    report = json.loads((made.folder / "report.json").read_text())
    assert report["failed"] == ["it is not small."]
    assert "it is not small." in (made.folder / "report.html").read_text()
