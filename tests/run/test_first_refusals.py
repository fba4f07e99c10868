"""What a run can know before its work begins, it says then: what ONNX does not have, what will stay in float."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ptq
from ptq.data.preprocess import Preprocess
from ptq.run import stages

PREPROCESS = Preprocess((16, 16), 16, "bilinear", (0.5,) * 3, (0.25,) * 3)


class Recurrent(nn.Module):
    """Most of its weights are an LSTM's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 16, 3, 4, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.lstm, self.fc = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.lstm(self.conv(x).flatten(2).transpose(1, 2))[0].mean(1))
        return logits


def uneven() -> nn.Module:
    """A pool that torch's exporter has no operator for."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveMaxPool2d(5), nn.Flatten(), nn.Linear(200, 10)
    )


def test_what_cannot_be_exported_is_refused_before_images_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "keep_images", lambda *_: pytest.fail("images were asked for"))
    with pytest.raises(ptq.ExportError, match="adaptive_max_pool2d"):
        ptq.quantize(uneven(), preset="fast", preprocess=PREPROCESS, out=str(tmp_path / "run"))


@pytest.mark.slow
def test_a_network_that_stays_in_float_is_told_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"preset": "fast", "images": "noise", "method": "nearest", "threads": 1}
    with pytest.warns(UserWarning, match=r"8\d % of the weights stay in float"):
        made = ptq.quantize(Recurrent(), preprocess=PREPROCESS, out=str(tmp_path / "run"), **options)
    assert not list(made.folder.rglob("*float.onnx")) and not (made.folder / "run.part").exists()
    assert made.report.validation.size_bytes["float"] > 0
