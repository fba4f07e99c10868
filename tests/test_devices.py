"""On a GPU every step gives what it gives on the CPU, up to the rounding of floats."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import ptq
from ptq.calibration import synthesize
from ptq.calibration.synthesis_config import SynthesisConfig
from ptq.data.preprocess import Preprocess
from ptq.graph.preparation import GraphModel
from ptq.models.model import as_model
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.config import ReconstructConfig
from tests.conftest import Digits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
DEVICE = torch.device("cuda")
FEW = 64  # images


def prepared(digits: Digits, device: torch.device) -> tuple[GraphModel, Tensor]:
    """The network and images on a device."""
    graph_model = ptq.prepare(digits.model, (3, 16, 16))
    graph_model.module.to(device)
    return graph_model, digits.inputs(digits.train_images[:FEW]).to(device)


def quantized(digits: Digits, device: torch.device) -> tuple[QuantizedModel, Tensor]:
    graph_model, images = prepared(digits, device)
    quantized_model = ptq.insert_quantizers(graph_model, ptq.make_plan(graph_model, 4, 4))
    quantized_model.module.to(device)
    return ptq.calibrate(quantized_model, images), images


def accuracy(network: object, digits: Digits, device: torch.device) -> float:
    with torch.no_grad():
        given = network(digits.inputs(digits.images).to(device))  # type: ignore[operator]
    return float((given.argmax(1).cpu() == digits.labels).float().mean())


def test_ranges_are_those_of_the_cpu(digits: Digits) -> None:
    (here, _), (there, _) = (quantized(digits, device) for device in (torch.device("cpu"), DEVICE))
    state = there.module.state_dict()
    for name, value in here.module.state_dict().items():
        torch.testing.assert_close(state[name].cpu(), value, rtol=0.02, atol=1e-3)


def test_reconstruction_serves_the_network_as_on_the_cpu(digits: Digits) -> None:
    scores = []
    for device in (torch.device("cpu"), DEVICE):
        quantized_model, images = quantized(digits, device)
        ptq.reconstruct(quantized_model, images, ReconstructConfig(iterations=40, batch=16))
        scores.append(accuracy(quantized_model.integer_forward, digits, device))
    assert abs(scores[0] - scores[1]) <= 0.03


def test_the_same_seed_gives_the_same_roundings(digits: Digits) -> None:
    states = []
    for _ in range(2):
        quantized_model, images = quantized(digits, DEVICE)
        ptq.reconstruct(quantized_model, images, ReconstructConfig(iterations=10, batch=16))
        states.append(quantized_model.module.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_images_are_made_on_the_gpu(digits: Digits) -> None:
    model = as_model(digits.model, size=16, mean=digits.mean, std=digits.std)
    config = SynthesisConfig(count=8, batch=8, iterations=20)
    one, other = (synthesize([model], config, device=DEVICE).images for _ in range(2))
    assert torch.equal(one, other) and one.float().std() > 10


def test_a_network_is_pruned_on_the_gpu(digits: Digits) -> None:
    graph_model, images = prepared(digits, DEVICE)
    config = ptq.PruneConfig("1.5x", granule=2, block_iterations=5, network_iterations=20, batch=16)
    pruned, _ = ptq.prune(graph_model, images, config)
    assert accuracy(pruned.module, digits, DEVICE) > accuracy(graph_model.module, digits, DEVICE) - 0.1


def test_a_whole_run_computes_on_the_gpu(digits: Digits, tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", images=digits.train_images[:FEW].numpy())
    preprocess = Preprocess((16, 16), 16, "bilinear", digits.mean, digits.std)
    images, out = str(tmp_path / "some.npz"), str(tmp_path / "run")
    made = ptq.quantize(
        digits.model, 8, preprocess=preprocess, preset="fast", device=str(DEVICE), images=images, out=out
    )
    assert (made.folder / "model.onnx").is_file()
