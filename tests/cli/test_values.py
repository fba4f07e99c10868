"""What the text of one option says."""

import pytest

from ptq.cli import values
from ptq.errors import PtqError


def test_sizes_numbers_for_channels_and_devices() -> None:
    assert values.input_size("224") == (224, 224)
    assert values.input_size("224x320") == (224, 320)
    assert values.per_channel("0.5") == (0.5,)
    assert values.per_channel("0.1,0.2,0.3") == (0.1, 0.2, 0.3)
    assert values.device_name("cuda:1") == "cuda:1"


def test_bits_of_single_layers() -> None:
    assert values.bits_by_pattern(["a.*=8", "b=c=float"]) == {"a.*": 8, "b=c": None}


@pytest.mark.parametrize("text", ["", "a", "a=", "=4", "a=9", "a=1", "a=four", "a=4.0"])
def test_bits_that_no_layer_can_have(text: str) -> None:
    with pytest.raises(PtqError, match="layer4"):
        values.bits_by_pattern([text])
