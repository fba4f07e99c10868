"""What a run quantizes: what the settings say, and of the last layers those that images do not leave in float."""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor

from ptq.calibration.last_layers import measure_last_layers, too_costly
from ptq.config.bit_budget import bit_budget
from ptq.config.choices import MAX_BITS, KeptBranches
from ptq.config.settings import QuantizationSettings
from ptq.graph.fx_helpers import LAYERS, module_of
from ptq.graph.preparation import GraphModel, prepare
from ptq.models.model import Model
from ptq.quantization.plan import make_plan
from ptq.quantization.spec import QuantPlan
from ptq.tasks.task import Task
from ptq.utils.work_store import WorkStore

__all__ = ["plan_by_images", "plan_by_settings", "prepare_network", "warn_of_float_weights"]

KEY = "last layers"


def prepare_network(model: Model, settings: QuantizationSettings) -> GraphModel:
    """Return the float graph of a network, prepared as the settings say."""
    shape = model.preprocess.input_shape
    return prepare(model.module, shape, task=model.task, keep_branches=_kept_branches(settings))


def _kept_branches(settings: QuantizationSettings) -> KeptBranches:
    """Which branches are not folded: identities, where weights may have less than 8 bits."""
    if settings.keep_branches:
        return "all"
    widths = [settings.bits, *(bits for bits in settings.layers.values() if bits is not None)]
    narrow = min(widths) < MAX_BITS or bit_budget(settings) is not None
    return "identities" if narrow else "none"


def plan_by_settings(
    graph_model: GraphModel, settings: QuantizationSettings, keep_float: Collection[str] = ()
) -> QuantPlan:
    """Return the plan that the settings make, with some layers in float of which they say nothing."""
    return make_plan(
        graph_model,
        settings.bits,
        MAX_BITS if settings.act_bits == "auto" else settings.act_bits,
        reduce_range=settings.reduce_range,
        layers=settings.layers,
        tensors=settings.tensors,
        keep_float=keep_float,
    )


def plan_by_images(
    graph_model: GraphModel, settings: QuantizationSettings, inputs: Tensor, store: WorkStore | None = None
) -> QuantPlan:
    """Return the plan of a run: that of the settings, but for last layers that would cost too much at 8 bits.

    Args:
        graph_model: the float network; it computes where it is.
        settings: layers that they name have the bits that they say.
        inputs: images as the network takes them, (N, C, H, W), normalized; some of them are used.
        store: keeps what was measured, and gives it back.

    Example:
        >>> settings = ptq.make_settings("mine", bits=4).quantization
        >>> plan_by_images(graph_model, settings, images) == ptq.make_plan(graph_model, 4)
        True
    """
    store = store or WorkStore()
    plan = plan_by_settings(graph_model, settings)
    known = store.read(KEY)
    errors = measure_last_layers(graph_model, plan, inputs) if known is None else known[1]
    if errors and known is None:
        store.write(KEY, {}, errors)
    costly = too_costly(errors, graph_model.task)
    plan = plan_by_settings(graph_model, settings, costly)
    left = {layer: each for layer, each in costly.items() if layer not in plan.weights}
    return replace(plan, notes=(*plan.notes, _note(left, graph_model.task))) if left else plan


def _note(left: Mapping[str, Mapping[str, float]], task: Task) -> str:
    kinds = [task.kind(name) for each in left.values() for name in each]
    limits = dict.fromkeys(f"{kind.tolerance:g} {kind.unit}" for kind in kinds)
    costs = (
        f"{layer} ({', '.join(f'{name} {error:.2g} {task.kind(name).unit}' for name, error in each.items())})"
        for layer, each in left.items()
    )
    return (
        f"last layers in float, where 8 bits would cost an output more than {' or '.join(limits)}: {', '.join(costs)}"
    )


def warn_of_float_weights(graph_model: GraphModel, plan: QuantPlan) -> None:
    """Warn where most of the weights stay in float, which no layer of integers reads: an LSTM, a Conv3d."""
    graph = graph_model.module
    layers = [module_of(graph, node) for node in graph.graph.nodes if node.name in plan.weights]
    quantized = sum(layer.weight.numel() for layer in layers if isinstance(layer, LAYERS))
    total = sum(parameter.numel() for parameter in graph.parameters() if parameter.dim() > 1)
    if quantized < total / 2:
        warnings.warn(
            f"{100 * (1 - quantized / total):.0f} % of the weights stay in float: the file will be about as large and "
            "as slow as the float one",
            stacklevel=2,
        )
