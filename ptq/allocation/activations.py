"""Which activations can have few bits: those that harm the network's output little, alone and together.

Integer kernels of CPUs compute in 8 bits, and fewer gain nothing there. This is for machines that multiply 4 bits by 4 bits.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from ptq.allocation.harms import BATCH, share_of_noise
from ptq.analysis.accumulators import Change
from ptq.errors import InputError
from ptq.graph.preparation import GraphModel
from ptq.progress import SILENT, Progress
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.quantizers import Quantizer

__all__ = ["harmless_activations"]

ROUNDS = 6  # of measuring together


@torch.no_grad()
def harmless_activations(
    quantized_model: QuantizedModel, inputs: Tensor, tensors: list[str], limit: float, *, progress: Progress = SILENT
) -> list[str]:
    """Return the activations that together harm the network's output no more than a limit, as many as possible.

    The harm of each alone is measured, all else in float. The least harmful are taken until their sum reaches the limit. Then they are
    measured together, and fewer are taken where that is more.

    Args:
        quantized_model: calibrated with the few bits; with its float network.
        inputs: images as the network takes them, (N, C, H, W), normalized; all are used.
        tensors: names of activations to choose from.
        limit: squared error of the output as a share of the squared output.
        progress: told of every activation.

    Returns:
        Some of the names, the least harmful first.

    Raises:
        InputError: for a quantized model without ranges or without its float network, and for no images.

    Example:
        >>> names = list(quantized_model.quantizers())[1:-1]
        >>> harmless_activations(quantized_model, images, names, limit=0.0)
        []
        >>> sorted(harmless_activations(quantized_model, images, names, limit=10.0)) == sorted(names)
        True
    """
    quantized_model.require_calibrated()
    if not len(inputs):
        raise InputError("what activations cost is measured on at least one image.")
    float_model, quantizers = quantized_model.require_float_model(), quantized_model.quantizers()
    device = next(float_model.module.parameters()).device
    pieces = [piece.to(device) for piece in inputs.split(BATCH)]
    wanted = [float_model.module(piece) for piece in pieces]

    def harm(names: list[str]) -> float:
        network = _QuantizedActivations(float_model, {name: quantizers[name] for name in names})
        change = Change(float_model.task)
        for piece, output in zip(pieces, wanted, strict=True):
            change.add(output, network.run(piece))
        return share_of_noise(change.cost().sqnr)

    harms = {}
    with progress.stage("measure activations", len(tensors)) as task:
        for name in tensors:
            harms[name] = harm([name])
            task.advance()
    within = limit
    for _ in range(ROUNDS):
        chosen = _cheapest(harms, within)
        if not chosen or (together := harm(chosen)) <= limit:
            return chosen
        within = sum(harms[name] for name in chosen) * min(0.9, limit / together)
    return []


def _cheapest(harms: Mapping[str, float], limit: float) -> list[str]:
    """The least harmful, as far as the sum of their harms is within a limit."""
    chosen, total = [], 0.0
    for name in sorted(harms, key=lambda name: harms[name]):
        total += harms[name]
        if total > limit:
            break
        chosen.append(name)
    return chosen


class _QuantizedActivations(fx.Interpreter):
    """The float network with some of its activations quantized."""

    def __init__(self, graph_model: GraphModel, quantizers: Mapping[str, Quantizer]) -> None:
        super().__init__(graph_model.module)
        self.quantizers = quantizers

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        return self.quantizers[n.name](value) if n.name in self.quantizers else value
