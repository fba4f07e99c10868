"""Which blocks of 8 bits are tuned: those that nearest rounding leaves too noisy."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ptq.calibration.activation_ranges import calibrate
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.reconstruction.config import METHODS
from ptq.reconstruction.loop import reconstruct
from tests.helpers.networks import SHAPE, images, quantized_network
from tests.helpers.progress import Recorder

COUNT = 24


@pytest.mark.parametrize("method", [m for m in METHODS if m != "nearest"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_of_8_bits_only_what_is_noisy_is_tuned(method: str, share: float) -> None:
    ratios = sorted(r.sqnr for r in reconstruct(quantized_network("resnet", 8, 8), images(8), METHODS["nearest"]))
    bound = [-1e9, *ratios, 1e9][round(share * (len(ratios) + 1))]
    quantized_model, progress = quantized_network("resnet", 8, 8), Recorder()
    before = {name: layer.weight_quantizer.codes.clone() for name, layer in quantized_model.layers().items()}
    config = replace(METHODS[method], batch=8, iterations=4, tune_below=bound)
    results = reconstruct(quantized_model, images(8), config, progress=progress)
    for result in results:
        assert bool(result.losses) == (result.sqnr_nearest < bound)
        if not result.losses:
            assert result.kept == "skipped"
            for name in result.layers:
                assert torch.equal(quantized_model.layers()[name].weight_quantizer.codes, before[name])
    assert progress.done == progress.total
    assert {bool(r.losses) for r in results} == {0.0: {False}, 0.5: {False, True}, 1.0: {True}}[share]


class OutlierChannel(nn.Module):
    """Of what a dense layer reads one channel is small, and its weights are a hundred times the others, which get few codes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.expand, self.project, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Linear(16, 4)
        with torch.no_grad():
            for parameter in self.expand.parameters():
                parameter[0] /= 100
            self.project.weight[:, 0] *= 100

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.project(self.expand(x).relu()).relu().mean((2, 3)))
        return logits


def test_of_8_bits_a_block_with_an_outlying_channel_is_tuned_and_gains() -> None:
    graph_model = prepare(OutlierChannel().eval(), SHAPE)
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 8, 8)), images(COUNT))
    results = reconstruct(quantized_model, images(COUNT), replace(METHODS["qdrop"], batch=8, iterations=60))
    tuned = [result for result in results if result.losses]
    assert tuned and all(result.sqnr_nearest < METHODS["qdrop"].tune_below for result in tuned)
    assert any(result.kept == "learned" and result.sqnr > result.sqnr_nearest + 1 for result in tuned)
