"""Networks that torch's exporters wrote, the one on TorchScript and the one on torch.export, come back as they were."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

import ptq
from ptq.graph.preparation import prepare
from ptq.models.model import load_model
from tests.helpers.network_specs import Spec, images
from tests.helpers.network_strategies import specs
from tests.helpers.networks import with_statistics
from tests.helpers.random_networks import Network

EXPORTERS: tuple[dict[str, Any], ...] = (
    {"dynamo": False, "opset_version": 11},
    {"dynamo": False, "opset_version": 13, "do_constant_folding": False, "keep_initializers_as_inputs": True},
    {"dynamo": False, "opset_version": 17},
    {"dynamo": True, "opset_version": 18},
    {"dynamo": True, "opset_version": 20, "optimize": False},
)


def exported(network: nn.Module, x: Tensor, path: Path, *, free: bool, **options: Any) -> Path:
    """Write a network with one of torch's exporters."""
    names = {"input_names": ["images"], "output_names": ["scores"]}
    if free and options["dynamo"]:
        names["dynamic_shapes"] = ({0: torch.export.Dim("n", min=1)},)  # type: ignore[assignment]
    elif free:
        names["dynamic_axes"] = {"images": {0: "n"}, "scores": {0: "n"}}  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), str(path), verbose=False, **names, **options)  # type: ignore[arg-type]
    return path


def check(spec: Spec, options: dict[str, Any], free: bool) -> None:
    """The file gives what the network gave, for any number of images, and can be prepared."""
    network, x = Network(spec).eval(), images(spec, 3)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = network(x.clone())
        path = exported(network, images(spec, 2 if free else 1), Path(folder) / "net.onnx", free=free, **options)
        try:
            model = load_model(str(path), size=spec.shape[1:])
        except ptq.ModelError as error:  # onnxruntime has no such convolution
            assert "Dilation not supported for AutoPadType" in str(error)
            return
        given = model.module(x)["scores"]
        assert given.shape == expected.shape
        assert float((given - expected).abs().max()) <= 1e-4 * float(expected.abs().max()) + 1e-6
        prepare(model.module, spec.shape)


@pytest.mark.slow
@settings(max_examples=30)
@given(specs(), st.sampled_from(EXPORTERS), st.booleans())
def test_random_networks_come_back(spec: Spec, options: dict[str, Any], free: bool) -> None:
    check(spec, options, free)


@pytest.mark.parametrize(
    "options", EXPORTERS, ids=lambda o: f"{'dynamo' if o['dynamo'] else 'script'}-{o['opset_version']}"
)
@pytest.mark.parametrize("free", [True, False])
def test_a_network_of_every_kind_of_layer_comes_back(options: dict[str, Any], free: bool, tmp_path: Path) -> None:
    attends = options["opset_version"] >= 14  # which has all that torch's attention needs

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
            self.up = nn.ConvTranspose2d(8, 4, 2, 2)
            self.act = nn.ModuleList([nn.PReLU(4), nn.GELU(), nn.ReLU6()])
            self.norm, self.attention = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True)
            self.fc = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = self.act[0](self.up(x * self.gate(x)))
            x = nn.functional.interpolate(nn.functional.max_pool2d(x, 3, 2, 1), scale_factor=2.0, mode="bilinear")
            tokens: Tensor = self.norm(x.flatten(2).transpose(1, 2))
            if attends:
                tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
            result: Tensor = self.fc(self.act[1](tokens).mean(1))
            return result

    torch.manual_seed(0)
    net, x = with_statistics(Net(), 0).eval(), torch.randn(3, 3, 8, 8)
    path = exported(net, x[: 2 if free else 1], tmp_path / "net.onnx", free=free, **options)
    with pytest.warns(UserWarning, match="--mean --std"):
        model = load_model(str(path))
    with torch.no_grad():
        assert torch.allclose(model.module(x)["scores"], net(x), atol=1e-4)
    graph = prepare(model.module, (3, 8, 8)).module
    found = {type(m) for m in graph.modules()}
    assert {nn.Conv2d, nn.Hardsigmoid, nn.ConvTranspose2d, nn.Linear, nn.GELU} <= found
