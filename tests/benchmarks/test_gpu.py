"""The check for a GPU runs on a CPU in small, so that it will run where there is a GPU."""

import pytest
import torch

from benchmarks.gpu import STAGES, page, small

SCALE = small(torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["kernels", "repetition"])
def test_a_stage_says_what_it_measured(stage: str) -> None:
    rows = list(STAGES[stage](SCALE))
    assert rows and not any(row.get("code") or row.get("equal") is False for row in rows)
    about = {"stage": stage, "small": True, "machine": {"cpu": "made up"}, "versions": {}}
    assert f"## {stage}" in "\n".join(page([about | row for row in rows]))
