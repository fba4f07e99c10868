"""timm's networks: their preprocessing, their size, the names of their weights."""

import pytest

import ptq
from ptq.models.model import load_model


def test_timm() -> None:
    pytest.importorskip("timm")
    model = load_model("timm:test_resnet.r160_in1k", pretrained=False)
    assert (model.preprocess.size, model.preprocess.interpolation) == ((160, 160), "bilinear")
    assert model.num_classes == 1000
    assert load_model("timm:test_vit", pretrained=False, size=96).preprocess.size == (96, 96)
    with pytest.raises(ptq.InputError, match="timm:resnet50"):
        load_model("timm:resnet05", pretrained=False)
    with pytest.raises(ptq.InputError, match=r"resnet18\.nope.* resnet18\."):
        load_model("timm:resnet18.nope", pretrained=False)
