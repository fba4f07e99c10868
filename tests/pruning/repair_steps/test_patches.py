"""A layer as a matrix computes what the layer computes."""

import pytest
import torch
from torch import nn

from ptq.pruning.repair_steps.patches import Layer, matrix_of, outputs_at, patches_of, set_matrix

LAYERS: list[Layer] = [
    nn.Conv2d(4, 6, 3, 2, 1, groups=2),
    nn.Conv2d(4, 8, (3, 2), padding="same", dilation=2),
    nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
    nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2),
    nn.ConvTranspose2d(4, 6, (2, 4), (3, 1), 0, dilation=2),
    nn.ConvTranspose2d(4, 6, 1, 1, 0),
    nn.ConvTranspose2d(4, 4, 3, 1, 2, groups=4),
]


@pytest.mark.parametrize("layer", [*LAYERS, nn.Linear(4, 5)])
def test_a_matrix_times_patches_is_the_layer(layer: Layer) -> None:
    x = torch.randn(3, 7, 4) if isinstance(layer, nn.Linear) else torch.randn(3, 4, 7, 6)
    wanted = outputs_at(layer, layer(x))
    bias = layer.bias
    assert bias is not None
    given = matrix_of(layer) @ patches_of(layer, x) + bias.detach().reshape(wanted.shape[1], -1, 1)
    torch.testing.assert_close(given, wanted)
    before = layer(x)
    set_matrix(layer, matrix_of(layer), bias.detach())
    torch.testing.assert_close(layer(x), before)
