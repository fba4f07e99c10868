"""The quantized network: one graph, computed in integers or on real numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from ptq.config.choices import KeptBranches
from ptq.errors import InputError
from ptq.graph.blocks import Block, split
from ptq.graph.fx_helpers import module_of, sole_input
from ptq.graph.preparation import GraphModel
from ptq.quantization.integer_simulation import run_exact
from ptq.quantization.layers import QuantLayer
from ptq.quantization.quantizers import NO_FLOAT_MODEL, Quantizer, Rounding
from ptq.quantization.spec import QuantPlan
from ptq.tasks.outputs import Output
from ptq.tasks.task import Task

__all__ = ["QuantizedModel"]


@dataclass(frozen=True)
class QuantizedModel:
    """The network with quantizers: the same graph as the float one, plus a node per quantizer.

    Args:
        module: the graph.
        float_model: the float network it imitates; None where it was loaded without that.
        plan: what is quantized.
        blocks: block index by node name.
        input_shape: (C, H, W) of an image.
        task: what the network is for.
        keep_branches: which branches that add up were left as they are when the network was prepared.
    """

    module: fx.GraphModule
    float_model: GraphModel | None
    plan: QuantPlan
    blocks: Mapping[str, int] = field(repr=False)
    input_shape: tuple[int, int, int]
    task: Task
    keep_branches: KeptBranches = "none"

    def integer_forward(self, x: Tensor) -> Output:
        """Run the network in integers, bit for bit as onnxruntime does; no gradients.

        Args:
            x: normalized images, float32 (N, C, H, W).

        Returns:
            The network's output; several by name.

        Raises:
            InputError: when the quantized model has not been calibrated.

        Example:
            >>> quantized_model.integer_forward(images).shape
            torch.Size([8, 10])
        """
        return run_exact(self.module, x)

    def fake_quantized_forward(self, x: Tensor) -> Output:
        """Run the network on real numbers that lie on the grids of the codes, as reconstruction sees it.

        Numbers are rounded elsewhere than in integer kernels, so a code may fall to the other side of a tie.

        Args:
            x: normalized images, float32 (N, C, H, W).

        Returns:
            The network's output; several by name.

        Raises:
            InputError: when the quantized model has not been calibrated.

        Example:
            >>> real, exact = quantized_model.fake_quantized_forward(images), quantized_model.integer_forward(images)
            >>> bool((real - exact).norm() < 0.1 * exact.norm())
            True
        """
        y: Output = self.module(x)
        return y

    @property
    def calibrated(self) -> bool:
        """Whether every activation has a range, and every weight its codes."""
        weights = (layer.weight_quantizer.rounding for layer in self.layers().values())
        return all(q.calibrated for q in self.quantizers().values()) and Rounding.NONE not in weights

    def require_calibrated(self) -> None:
        """Check that the quantized model has been calibrated.

        Raises:
            InputError: when it has not.
        """
        if not self.calibrated:
            raise InputError("the quantized model has no ranges yet: calibrate it first.")

    def require_float_model(self) -> GraphModel:
        """Return the float network.

        Raises:
            InputError: when the quantized model was loaded without it.
        """
        if self.float_model is None:
            raise InputError(NO_FLOAT_MODEL)
        return self.float_model

    def to(self, device: torch.device) -> "QuantizedModel":
        """Move the network, and the float network where there is one, and return self."""
        for module in (self.module, *([] if self.float_model is None else [self.float_model.module])):
            module.to(device)
        return self

    def layers(self) -> dict[str, QuantLayer]:
        """Return the quantized layers by node name, in order of computation."""
        return {n.name: m for n in self.module.graph.nodes if isinstance(m := module_of(self.module, n), QuantLayer)}

    def quantizers(self) -> dict[str, Quantizer]:
        """Return the activation quantizers by the name of the node they quantize."""
        return {
            sole_input(n).name: m
            for n in self.module.graph.nodes
            if isinstance(m := module_of(self.module, n), Quantizer)
        }

    def split(self) -> list[Block]:
        """Return the quantized model's blocks; they share its modules."""
        return split(self.module, self.blocks)
