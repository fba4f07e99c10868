"""Predicted bytes of a file against the bytes of real files."""

from pathlib import Path

import pytest

from ptq.allocation.widths import change_widths
from ptq.export import export_qdq
from ptq.export.sizes import file_sizes
from tests.helpers.networks import quantized_network


def test_what_a_container_saves_is_what_the_file_lacks(tmp_path: Path) -> None:
    quantized_model = quantized_network("resnet", 8, 8)
    sizes = file_sizes(quantized_model, {"seed": "0"})
    layer, bits = "blocks_2_conv1", 2
    changed = change_widths(quantized_model, {layer: bits})
    size = export_qdq(changed, tmp_path / "model.onnx", {"seed": "0"}).stat().st_size
    assert size == pytest.approx(sizes.int8 - sizes.saved[layer][bits], abs=8)
