"""What the examples in docstrings take for granted: a small network, images, and what comes of them."""

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


@pytest.fixture(autouse=True)
def _folder_of_examples(request: pytest.FixtureRequest) -> None:
    """What examples write lands in a folder of their own."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
