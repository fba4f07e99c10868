"""The machine, versions, memory and time of a run."""

import json
import time

import pytest

from ptq.utils.environment import Stopwatch, environment, free_memory_bytes, peak_memory_bytes


def test_stopwatch_adds_up_per_stage_even_after_errors() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch("work"):
            time.sleep(0.01)
    with pytest.raises(ValueError, match="broken"), watch("failed"):
        raise ValueError("broken")
    assert list(watch.seconds) == ["work", "failed"]
    assert 0.02 <= watch.seconds["work"] < 1


def test_environment_is_told() -> None:
    about = environment()
    assert {"python", "torch", "numpy", "safetensors"} <= about["versions"].keys()
    assert about["machine"]["cpu"] and about["machine"]["system"]
    assert json.dumps(about)
    assert 2**26 < peak_memory_bytes() < 2**42 and 2**20 < free_memory_bytes() < 2**50
