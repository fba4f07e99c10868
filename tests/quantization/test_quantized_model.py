"""The quantized model is the network when the codes are fine, computed in integers or on real numbers."""

import pytest
import torch

from ptq.errors import InputError
from ptq.graph.preparation import GraphModel, prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.spec import QuantPlan
from ptq.utils.metrics import sqnr_db
from tests.helpers.networks import NETWORKS, SHAPE, build, images, quantized_network


def prepared_of(name: str) -> GraphModel:
    return prepare(build(name), SHAPE)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fine_quantized_model_is_nearly_the_network(name: str) -> None:
    model, x = build(name), images(16)
    fine, coarse = quantized_network(name, 8, 8), quantized_network(name, 3, 3)
    assert sqnr_db(model(x), fine.integer_forward(x)) > 25
    assert sqnr_db(model(x), fine.integer_forward(x)) > sqnr_db(model(x), coarse.integer_forward(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_empty_plan_is_the_network(name: str) -> None:
    graph_model, x = prepared_of(name), images(4)
    assert torch.equal(insert_quantizers(graph_model, QuantPlan({}, {})).integer_forward(x), graph_model.module(x))


def test_an_uncalibrated_quantized_model_refuses_to_run() -> None:
    graph_model = prepared_of("resnet")
    with pytest.raises(InputError):
        insert_quantizers(graph_model, make_plan(graph_model, 4)).integer_forward(images(1))
