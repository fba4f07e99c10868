"""A made-up inspection and a made-up estimate, for the pages that are made from them."""

import math
from dataclasses import replace

from ptq.analysis.accumulators import Cost, TensorRange
from ptq.analysis.sensitivity import BlockSensitivity, LayerSensitivity, Sensitivity
from ptq.reporting.inspection import Inspection
from ptq.run.estimate import Estimate, PlannedBlock
from tests.helpers.reports import made_up

__all__ = ["made_up_estimate", "made_up_inspection"]


def made_up_inspection() -> Inspection:
    """Two layers in two blocks, before reconstruction and after it."""
    report = made_up()
    before = _state(kl=0.75, db=0.0)
    return Inspection(report.settings, report.model.name, report.images, before, _state(kl=0.05, db=6.5))


def made_up_estimate() -> Estimate:
    """What an estimate says of the network that `made_up` reports."""
    report = made_up()
    return Estimate(
        name=report.model.name,
        notes=report.notes,
        blocks=(PlannedBlock("stem", {"stem": 8}), PlannedBlock("fc", {"conv1": 4, "conv2": 4, "fc": None})),
        kept_float=("fc", "gelu"),
        images=64,
        size_bytes={"float": 4_000_000, "onnx": 600_000},
        latency_ms={"float": 12.345, "onnx": 4.5, "threads": 2},
        seconds={"load": 0.5, "synthesize": 42.0, "reconstruct": 200.0, "validate": 4500.0},
        memory_bytes=3 << 30,
        cached_bytes=5 << 20,
    )


def _state(kl: float, db: float) -> Sensitivity:
    stem = LayerSensitivity(
        name="stem",
        block=0,
        weight=TensorRange(8, -1.5, 1.25, -1.5, 1.488, 0.0),
        weight_sqnr=41.26,
        input=None,
        isolated=math.inf,
        isolated_weight=41.3,
        isolated_input=math.inf,
        cumulative=41.3,
        cost=Cost(loss=3e-6, sqnr=50.0),
    )
    conv = replace(
        stem,
        name="conv2",
        block=1,
        weight=TensorRange(4, -0.5, 0.5, -0.56, 0.49, 0.0125),
        weight_sqnr=18.5 + db,
        input=TensorRange(8, 0.0, 6.0, 0.0, 5.75, 0.001),
        isolated=12.5 + db,
        isolated_weight=13.0 + db,
        isolated_input=30.0,
        cumulative=12.0 + db,
        cost=Cost(loss=kl, sqnr=10.0 + db),
    )
    blocks = (
        BlockSensitivity("stem", ("stem",), 41.3, 41.3, stem.cost),
        BlockSensitivity("conv2", ("conv1", "conv2"), 12.5 + db, 12.0 + db, conv.cost),
    )
    return Sensitivity((stem, conv), blocks, Cost(loss=1.25 * kl, sqnr=9.0 + db), 32)
