"""What tests and the examples in docstrings take for granted: a small network, images, and no clock."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def _names_of_examples(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    if not any(isinstance(item, pytest.DoctestItem) for item in request.session.items):
        return
    import torch
    from torch import nn

    import ptq
    from tests.helpers import networks

    net = networks.build("resnet")
    quantized_model = networks.quantized_network("resnet")
    images = networks.images(8)
    doctest_namespace.update(
        torch=torch,
        nn=nn,
        ptq=ptq,
        net=net,
        x=images[:2],
        images=images,
        graph_model=ptq.prepare(net, networks.SHAPE),
        quantized_model=quantized_model,
    )


@pytest.fixture(scope="session", autouse=True)
def _runs_are_placed_without_a_clock() -> Iterator[None]:
    """Integers count as faster: what a run computes may not depend on what else the machine does."""
    from tests.helpers.placement import integers_are_faster

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ptq.run.placing.measure_costs", integers_are_faster)
        yield


@pytest.fixture(autouse=True)
def _folder_of_examples(request: pytest.FixtureRequest) -> None:
    """What examples write lands in a folder of their own."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
        if request.node.name.startswith("ptq.reporting"):
            _finished_runs()


def _finished_runs() -> None:
    """Run directories with what their pages are made from."""
    import torch

    from ptq.calibration import CalibrationSet
    from ptq.reporting.report_files import write_report
    from tests.helpers.reports import made_up

    for name, size in (("w8a8", 1_200_000), ("w4a8", 600_000)):
        folder = Path("runs", name)
        folder.mkdir(parents=True)
        write_report(made_up(size_bytes__onnx=size), folder)
        CalibrationSet.from_pixels(torch.zeros(4, 3, 8, 8, dtype=torch.uint8)).save(folder / "images.safetensors")
