"""Where errors are weighted: only where the noise of a block is mostly such as costs the network nothing."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from ptq.calibration.activation_ranges import calibrate
from ptq.graph.blocks import named_inputs, split
from ptq.graph.passes import output_sqnr
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.config import METHODS
from ptq.reconstruction.loop import reconstruct
from tests.helpers.networks import SHAPE, images, quantized_network

COUNT = 32
Choice = Literal["auto", "on", "off"]


class UnreadChannel(nn.Module):
    """One channel of a stream is large, and next to nothing reads it: its range is best cut off."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.expand, self.project, self.next = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3)
        self.head = nn.Linear(16, 10)
        with torch.no_grad():
            self.project.weight[0] *= 40
            self.next.weight[:, 0] /= 1000

    def forward(self, x: Tensor) -> Tensor:
        stream = self.project(self.expand(x).relu())
        logits: Tensor = self.head(self.next(stream).relu().mean((2, 3)))
        return logits


def tuned(quantized_model: QuantizedModel, fisher: Choice) -> QuantizedModel:
    config = replace(METHODS["qdrop"], batch=8, iterations=80, fisher=fisher)
    reconstruct(quantized_model, images(COUNT), config)
    return quantized_model


def test_a_channel_that_nothing_reads_takes_no_part_in_what_is_learned() -> None:
    graph_model = prepare(UnreadChannel().eval(), SHAPE)
    x, errors = images(2 * COUNT), {}
    for fisher in ("off", "auto"):
        quantized_model = insert_quantizers(graph_model, make_plan(graph_model, 4, 4))
        calibrate(quantized_model, images(COUNT), observer="output")
        tuned(quantized_model, fisher)
        with torch.no_grad():
            given = quantized_model.fake_quantized_forward(x)
        assert isinstance(given, Tensor)
        errors[fisher] = float((given - graph_model.module(x)).square().mean())
    assert errors["auto"] < 0.9 * errors["off"]


def test_equal_weights_change_no_ratio() -> None:
    quantized_model = quantized_network("resnet", 4, 4)
    block, x = quantized_model.split()[0], named_inputs(quantized_model.module, images(COUNT))
    target = split(quantized_model.require_float_model().module, quantized_model.blocks)[0](x)
    weight = {name: torch.full_like(y, 3.0) for name, y in target.items()}
    assert output_sqnr(block, x, target, weight) == pytest.approx(output_sqnr(block, x, target), abs=1e-6)


def test_ordinary_networks_are_tuned_as_without_weights() -> None:
    states = [tuned(quantized_network("resnet", 4, 4), fisher).module.state_dict() for fisher in ("off", "auto")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
