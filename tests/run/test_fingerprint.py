"""What decides a run: each thing is seen, and nothing else."""

from typing import Any

import torch
from torch import nn

from ptq.config.flat_options import make_settings
from ptq.config.settings import Settings
from ptq.graph.preparation import prepare
from ptq.models.model import Model, as_model
from ptq.run.fingerprint import decided_by
from tests.helpers.networks import SHAPE, build

CPU = torch.device("cpu")
GIVEN: dict[str, Any] = {"model": "net", "bits": 4, "teachers": ["other"]}
SETTINGS = make_settings(**GIVEN)


def small(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def model(module: nn.Module, **preprocess: Any) -> Model:
    given = {"size": SHAPE[1:], "mean": (0.5,) * 3, "std": (0.5,) * 3} | preprocess
    return as_model(module, **given)


def facts(
    net: Model, settings: Settings = SETTINGS, teacher: Model | None = None, device: torch.device = CPU
) -> dict[str, Any]:
    graph_model = prepare(net.module, (3, *net.preprocess.size))
    return decided_by(settings, net, [teacher or model(build("resnet"))], graph_model.module, device)


def changed(**here: Any) -> set[str]:
    one, other = facts(model(small())), facts(**{"net": model(small()), **here})
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def test_the_same_twice_is_the_same() -> None:
    assert changed() == set()


def test_where_what_is_measured_with_and_memory_do_not_count() -> None:
    other = make_settings(**GIVEN, out="elsewhere", data="val", memory_limit="1GiB")
    assert changed(settings=other) == set()


def test_settings_count() -> None:
    other = make_settings(
        **GIVEN | {"bits": 3},
        seed=1,
        method="brecq",
        layers={"conv": 8},
        tensors={"fc": 7},
        settings={"reconstruction.iterations": 9},
    )
    assert changed(settings=other) == {"bits", "seed", "method", "layers", "tensors", "reconstruction.iterations"}


def test_threads_and_device_count_as_they_turned_out() -> None:
    assert facts(model(small()))["threads"] == torch.get_num_threads()
    assert changed(settings=make_settings(**GIVEN, threads=torch.get_num_threads())) == set()
    assert changed(device=torch.device("meta")) == {"device"}


def test_weights_structure_and_preprocessing_count() -> None:
    moved = small()
    next(moved.parameters()).data += 1e-3
    assert changed(net=model(moved)) == {"sha256 of the model's weights"}
    assert changed(net=model(small(nn.ReLU6))) == {"sha256 of the model's structure"}
    assert changed(net=model(small(), mean=(0.4,) * 3)) == {"preprocess mean"}
    assert changed(teacher=model(small())) == {"sha256 of the weights of other"}
