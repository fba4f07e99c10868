"""Networks by name and networks at hand, with everything known about them."""

import warnings

import pytest
import torch
from torch import nn

import ptq
from ptq.models.model import as_model, load_model


def test_overrides() -> None:
    model = load_model("squeezenet1_1", pretrained=False, size=(64, 96), mean=[0.5] * 3, num_classes=7)
    assert (model.preprocess.size, model.num_classes) == ((64, 96), 7)
    assert model.preprocess.mean == (0.5, 0.5, 0.5)
    assert model.preprocess.std == (0.229, 0.224, 0.225)


def test_unknown_names_get_suggestions() -> None:
    with pytest.raises(ptq.InputError, match="resnet50"):
        load_model("resnet5O")


def test_as_model_leaves_the_network_as_it_is() -> None:
    own = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).half()
    model = as_model(own, size=(8, 12), mean=(0.5,) * 3, std=(0.5,) * 3, name="own")
    assert (model.num_classes, model.preprocess.resize) == (6, 8)
    assert model.module is not own
    assert own.training
    assert own[0].weight.dtype == torch.float16
    assert next(model.module.parameters()).dtype == torch.float32
    with pytest.raises(ptq.ModelError, match=r"own .*3x2x2"):
        as_model(own, size=2, mean=(0.5,) * 3, std=(0.5,) * 3, name="own")


@pytest.mark.parametrize(
    ("last", "says"),
    [(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), "probabilities"), (nn.Linear(4, 1), ""), (nn.Linear(4, 3), "")],
)
def test_outputs_that_are_no_class_scores_are_doubted(last: nn.Module, says: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        as_model(net, size=8)
    assert [says in str(warning.message) for warning in caught] == [True] * bool(says)
