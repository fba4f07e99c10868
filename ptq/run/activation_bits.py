"""The bits of activations where the settings leave them to ptq: 4 where that harms little, 8 elsewhere."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ptq.allocation.activations import harmless_activations
from ptq.config.settings import QuantizationSettings
from ptq.graph.preparation import GraphModel
from ptq.progress import SILENT, Progress
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.spec import QuantPlan
from ptq.run.planning import plan_by_settings
from ptq.utils.sampling import evenly
from ptq.utils.work_store import WorkStore

__all__ = ["plan_activations"]

KEY = "activations"
FEW = 4  # bits
IMAGES = 32


def plan_activations(
    graph_model: GraphModel,
    plan: QuantPlan,
    settings: QuantizationSettings,
    inputs: Tensor,
    calibrate: Callable[[QuantizedModel], object],
    store: WorkStore | None = None,
    *,
    progress: Progress = SILENT,
) -> QuantPlan:
    """Return the plan with 4 bits for activations that layers read, as many as harm the output little together.

    Args:
        graph_model: the float network; it computes where it is.
        plan: with 8 bits for them.
        settings: `act_harm` says what is little; activations that they name keep the bits given there.
        inputs: images as the network takes them, (N, C, H, W), normalized; up to 32 are used.
        calibrate: gives a quantized model its ranges.
        store: keeps what was found, and gives it back.
        progress: told of every activation.

    Example:
        >>> from functools import partial
        >>> settings = ptq.make_settings("mine", act_bits="auto").quantization
        >>> plan = ptq.make_plan(graph_model, 4)
        >>> found = plan_activations(graph_model, plan, settings, images, partial(ptq.calibrate, inputs=images))
        >>> sorted({spec.bits for spec in found.activations.values()})
        [4, 8]
    """
    store = store or WorkStore()
    narrow = plan_by_settings(graph_model, replace(settings, act_bits=FEW)).activations
    few = {
        name: narrow[name]
        for name, spec in plan.activations.items()
        if name in narrow and narrow[name].bits < spec.bits
    }
    known = store.read(KEY)
    if known is None:
        quantized_model = insert_quantizers(graph_model, replace(plan, activations={**plan.activations, **few}))
        calibrate(quantized_model)
        chosen = harmless_activations(
            quantized_model, evenly(inputs, IMAGES), [*few], settings.act_harm, progress=progress
        )
        store.write(KEY, {}, {"chosen": chosen})
    else:
        chosen = known[1]["chosen"]
    note = (
        f"{FEW} bits for {len(chosen)} of {len(few)} activations that layers read: together they err the output by "
        f"{100 * settings.act_harm:.3g} % at most before tuning; kernels that compute in 8 bits gain nothing by it"
    )
    changed = {**plan.activations, **{name: few[name] for name in chosen}}
    return replace(plan, activations=changed, notes=(*plan.notes, note))
