"""torchvision's networks: their preprocessing, their training heads, their published weights."""

from pathlib import Path

import pytest
import torch

from ptq.models.model import load_model


def test_torchvision_preprocessing_is_that_of_its_weights() -> None:
    model = load_model("mobilenet_v3_small", pretrained=False)
    assert (model.num_classes, model.weights_source, model.name) == (1000, "random", "mobilenet_v3_small")
    assert (model.preprocess.size, model.preprocess.resize) == ((224, 224), 256)
    assert model.preprocess.mean == (0.485, 0.456, 0.406)
    assert not model.module.training


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_training_heads_are_not_built_and_their_weights_are_dropped(name: str, tmp_path: Path) -> None:
    from torchvision.models import get_model

    torch.manual_seed(0)
    whole = get_model(name, weights=None, init_weights=False, num_classes=3)
    assert any("aux" in key.lower() for key in whole.state_dict())
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    model = load_model(name, tmp_path / "whole.pth")
    assert model.num_classes == 3
    assert not any("aux" in key.lower() for key in model.module.state_dict())
    # The published networks turn ImageNet-normalized images into (rgb - 0.5) / 0.5 by themselves.
    whole.eval().transform_input = True
    rgb = torch.rand(1, 3, *model.preprocess.size)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    with torch.no_grad():
        expected = whole((rgb - mean) / std)
        found = model.module(model.preprocess.normalize(rgb))
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_old_densenet_names(tmp_path: Path) -> None:
    from torchvision.models import densenet121

    state = densenet121(num_classes=2).state_dict()
    old = {key.replace("norm1", "norm.1").replace("conv2", "conv.2"): value for key, value in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "old.pth")
    assert load_model("densenet121", tmp_path / "old.pth", size=64).num_classes == 2


def test_cached_weights_need_no_network(no_network: Path) -> None:
    from torchvision.models import ShuffleNet_V2_X0_5_Weights, shufflenet_v2_x0_5

    name = ShuffleNet_V2_X0_5_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(shufflenet_v2_x0_5().state_dict(), no_network / name)
    assert load_model("shufflenet_v2_x0_5").weights_source == "torchvision IMAGENET1K_V1"
