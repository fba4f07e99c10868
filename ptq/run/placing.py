"""Which nodes of a run's network compute in float, measured once and kept with the run."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ptq.config.settings import QuantizationSettings, Settings
from ptq.graph.preparation import GraphModel
from ptq.placement.costs import measure_costs
from ptq.placement.placing import place, placed_plan
from ptq.progress import SILENT, Progress
from ptq.quantization.spec import QuantPlan
from ptq.utils.work_store import WorkStore

__all__ = ["forecast_placement", "place_network", "placed_settings"]

KEY = "placement"


def place_network(
    graph_model: GraphModel,
    plan: QuantPlan,
    settings: Settings,
    stores: Sequence[WorkStore] = (),
    *,
    float_path: Path | None = None,
    progress: Progress = SILENT,
) -> QuantPlan:
    """Return the plan of a run with those nodes in float that are slower in integers, if the settings want that.

    Args:
        graph_model: the float network; it comes back to its device.
        plan: with all in integers that can be.
        settings: of the run.
        stores: keep what was measured; the first that has it gives it back.
        float_path: the float network as a file.
        progress: told of everything that is measured.

    Raises:
        InputError: for a node in the settings that the network does not have.

    Example:
        >>> plan = ptq.make_plan(graph_model, 8)
        >>> place_network(graph_model, plan, ptq.make_settings("mine", place="integers")) == plan
        True
    """
    quantization = settings.quantization
    if quantization.in_float is not None:
        return placed_plan(graph_model, plan, quantization.in_float)
    if quantization.place == "integers":
        return plan
    kept = next((found for store in stores if (found := store.read(KEY)) is not None), None)
    if kept is None:
        device = next(graph_model.module.parameters()).device
        graph_model.module.to(torch.device("cpu"))
        threads = settings.execution.threads or os.cpu_count() or 1
        placement = place(graph_model, plan, threads, float_path=float_path, measure=measure_costs, progress=progress)
        graph_model.module.to(device)
        facts: dict[str, Any] = {"in_float": list(placement.in_float), "note": placement.note()}
    else:
        facts = kept[1]
    for store in stores:
        store.write(KEY, {}, facts)
    placed = placed_plan(graph_model, plan, facts["in_float"])
    note: str = facts["note"]
    return replace(placed, notes=(*placed.notes, note)) if note else placed


def forecast_placement(graph_model: GraphModel, plan: QuantPlan, settings: Settings) -> QuantPlan:
    """Return the plan of a run as far as it is known without a measurement; a note says what is not.

    Raises:
        InputError: for a node in the settings that the network does not have.

    Example:
        >>> plan = ptq.make_plan(graph_model, 8)
        >>> len(forecast_placement(graph_model, plan, ptq.make_settings("mine")).notes) - len(plan.notes)
        1
    """
    quantization = settings.quantization
    if quantization.in_float is not None:
        return placed_plan(graph_model, plan, quantization.in_float)
    if quantization.place == "integers":
        return plan
    note = (
        "a run measures which operators are slower in integers on this machine, and leaves them in float: here all are in "
        "integers, as with --place integers"
    )
    return replace(plan, notes=(*plan.notes, note))


def placed_settings(settings: Settings, plan: QuantPlan) -> Settings:
    """Return settings that give the placement of a finished run again, without a measurement.

    Example:
        >>> settings = ptq.make_settings("mine")
        >>> placed_settings(settings, ptq.make_plan(graph_model, 8)).quantization.in_float
        ()
    """
    quantization: QuantizationSettings = replace(settings.quantization, in_float=plan.in_float)
    return replace(settings, quantization=quantization)
