"""Quantized models on disk: what comes back is the same bit for bit, or is refused."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ptq.analysis.histograms import worst_layers
from ptq.analysis.sensitivity import measure_sensitivity
from ptq.calibration.activation_ranges import calibrate
from ptq.config.flat_options import make_settings
from ptq.errors import InputError
from ptq.export.operators.integer_modules import IntegerLayer
from ptq.export.operators.lowering import lower
from ptq.export.qdq import export_qdq
from ptq.graph.preparation import prepare
from ptq.models.model import load_model
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.storage import load_quantized, read_metadata, save_quantized, settings_of
from ptq.reconstruction.loop import reconstruct
from ptq.utils.tensor_files import read_header, read_tensors, save_tensors
from tests.helpers.networks import NETWORKS, build, images, quantized_network, with_statistics

TINY = """
from torch import nn

PREPROCESS = dict(size=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

def tiny():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(1024, 5))
"""


@pytest.mark.parametrize("name", NETWORKS)
def test_a_quantized_model_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    quantized_model, x = quantized_network(name), images(4)
    save_quantized(quantized_model, tmp_path / "quantized.safetensors", {"model": None, "note": "mine"})
    # The weights of the network given do not matter, and the directory will do.
    torch.manual_seed(99)
    again = load_quantized(tmp_path, with_statistics(NETWORKS[name](), seed=5))
    assert torch.equal(again.integer_forward(x), quantized_model.integer_forward(x))
    assert again.plan == quantized_model.plan
    assert again.blocks == quantized_model.blocks
    assert list(tmp_path.iterdir()) == [tmp_path / "quantized.safetensors"]
    # The file holds the integers that the exported one will, and no float weight of a quantized layer.
    stored = read_tensors(tmp_path / "quantized.safetensors")
    for path, module in lower(quantized_model.module).named_modules():
        if isinstance(module, IntegerLayer):
            codes, lowered = stored.pop(f"{path}.weight_quantizer._codes"), module.weight.codes
            assert codes.dtype == lowered.dtype == torch.int8
            assert torch.equal(codes, lowered.t() if module.weight.axis == 1 and codes.dim() == 2 else lowered)
            assert f"{path}.op.weight" not in stored
    assert not [name for name in stored if name.endswith("_codes")]


def test_the_model_of_a_reference_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(TINY)
    model = load_model(f"{tmp_path / 'net.py'}:tiny", pretrained=False)
    graph_model = prepare(model.module, (3, *model.preprocess.size))
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 4)), images(4))
    about = {
        "model": f"{tmp_path / 'net.py'}:tiny",
        "preprocess": asdict(model.preprocess),
        "num_classes": model.num_classes,
    }
    path = tmp_path / "quantized.safetensors"
    save_quantized(quantized_model, path, about)
    again = load_quantized(path)
    assert torch.equal(again.integer_forward(images(3)), quantized_model.integer_forward(images(3)))
    assert torch.equal(again.fake_quantized_forward(images(3)), quantized_model.fake_quantized_forward(images(3)))
    # It is exported without the float network, and whatever needs that says so.
    assert (
        export_qdq(again, tmp_path / "a.onnx").read_bytes()
        == export_qdq(quantized_model, tmp_path / "b.onnx").read_bytes()
    )
    assert again.float_model is None
    for use in (calibrate, reconstruct, measure_sensitivity, worst_layers):
        with pytest.raises(InputError, match=r"ptq\.load\(folder, model\)"):
            use(again, images(3))
    assert read_metadata(path)["about"]["num_classes"] == 5
    assert read_metadata(path)["input_shape"] == [3, 16, 16]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "quantized.safetensors"
    save_quantized(quantized_network("resnet"), path, {"model": None})
    return path


def test_the_model_of_a_module_wants_the_module(saved: Path) -> None:
    with pytest.raises(InputError, match=r"load\(path, model\)"):
        load_quantized(saved)


def test_the_model_of_another_network_is_refused(saved: Path) -> None:
    with pytest.raises(InputError):
        load_quantized(saved, build("mobilenet"))


def test_a_network_of_another_width_is_refused(saved: Path) -> None:
    from tests.helpers.networks import ResNet

    with pytest.raises(InputError):
        load_quantized(saved, with_statistics(ResNet(width=12)))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_truncated_files_are_refused(saved: Path, share: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="cannot be read as a quantized model"):
        load_quantized(saved, build("resnet"))


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "quantized.safetensors"
    with pytest.raises(InputError, match="cannot be read"):
        read_metadata(path)  # missing
    path.write_text("a letter")
    with pytest.raises(InputError, match="cannot be read"):
        read_metadata(path)
    save_file(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(InputError, match="not written by this version"):
        read_metadata(path)
    save_tensors(path, nn.Linear(2, 2).state_dict(), {"format": "ptq-quantized_model-0"})
    with pytest.raises(InputError, match="run ptq quantize again"):
        load_quantized(path, build("resnet"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("plan", None, "is damaged"),
        ("plan", {"weights": {"stem_0": {"bites": 4}}, "activations": {}, "notes": []}, "is damaged"),
        ("plan", {"weights": {"stem_0": {"bits": 44}}, "activations": {}, "notes": []}, "between 2 and 8"),
        ("input_shape", [3, 16], "is damaged"),
        ("input_shape", [3, "a", 16], "is damaged"),
        ("about", [], "not written by this version"),
        ("about", {"model": "resnet18", "preprocess": 3, "num_classes": 10}, "is damaged"),
    ],
)
def test_headers_that_do_not_hold_together_are_refused(key: str, value: Any, message: str, saved: Path) -> None:
    save_tensors(saved, read_tensors(saved), read_header(saved) | {key: value})
    with pytest.raises(InputError, match=message):
        load_quantized(saved, None if key == "about" else build("resnet"))


def test_settings_of_another_version_are_refused(saved: Path) -> None:
    about = {"model": None, "settings": {"model": {"name": "net", "magic": True}}}
    save_tensors(saved, {}, read_header(saved) | {"about": about})
    with pytest.raises(InputError, match="another version of ptq; quantize again"):
        settings_of(saved.parent)
    about = {"model": None, "settings": {"model": {"name": "net"}, "quantization": {"bits": 4}}}
    save_tensors(saved, {}, read_header(saved) | {"about": about})
    assert settings_of(saved.parent) == make_settings("net", 4, out=str(saved.parent))
