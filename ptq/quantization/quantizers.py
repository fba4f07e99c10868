"""Quantizers of activations and of weights.

What is decided is state of its own. A quantizer has no scale until it is calibrated. The codes of a weight are
integers: calibration fixes them to the nearest ones, reconstruction to those it learned. Everything behind reads
these integers; they are not derived from real numbers a second time.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from ptq.errors import InputError
from ptq.quantization.activation_grids import clear_of_ties
from ptq.quantization.affine import fake_quant, per_channel, qparams, quantize
from ptq.quantization.spec import QuantSpec

__all__ = ["NO_FLOAT_MODEL", "Quantizer", "Rounding", "WeightQuantizer"]

NO_FLOAT_MODEL = (
    "this quantized model was loaded without its float network: load it with that, as ptq.load(folder, model)."
)


class Rounding(StrEnum):
    """How the codes of a weight came about."""

    NONE = "not calibrated"
    NEAREST = "nearest"
    LEARNED = "learned"


def _decided(value: Tensor | None) -> Tensor:
    if value is None:
        raise InputError("this quantizer has no range yet: calibrate the quantized model first.")
    return value


class _Calibrated(nn.Module):
    """A module with buffers that are None until it is calibrated, or given the state of one that was."""

    def _room(self) -> Mapping[str, Tensor]:
        """What a state is copied into, for the buffers that may be None."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name, room in self._room().items():
            if getattr(self, name) is None and prefix + name in state_dict:
                setattr(self, name, room)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Quantizer(_Calibrated):
    """Fake-quantizes an activation, per tensor and affine.

    Nothing here has a gradient; reconstruction learns the scale in a view of its own (`ptq.reconstruction.soft_modules`).

    Args:
        spec: the codes; per tensor.

    Raises:
        InputError: on a forward pass before `set_range`, instead of silently calibrating.

    Example:
        >>> quantizer = Quantizer(ptq.QuantSpec(8)).set_range(torch.tensor(0.0), torch.tensor(6.0))
        >>> quantizer(torch.tensor(7.0))
        tensor(6.)
    """

    zero_point: Tensor
    _scale: Tensor | None

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("_scale", None)
        self.register_buffer("zero_point", torch.zeros(()))

    def set_range(self, low: Tensor, high: Tensor) -> "Quantizer":
        """Spread the codes over [low, high], each (), and return self."""
        scale, zero_point = qparams(low, high, self.spec)
        if self.spec.grid == "sigmoid":
            scale = clear_of_ties(scale, zero_point, self.spec.qmax)
        self.set_scale(scale)
        self.zero_point.copy_(zero_point.detach())
        return self

    def set_scale(self, scale: Tensor) -> None:
        """Set the scale, (); the zero point stays."""
        self._scale = self.zero_point.new_tensor(0.0).copy_(scale.detach())

    @property
    def scale(self) -> Tensor:
        """The distance between two neighboring codes, ().

        Raises:
            InputError: when no range has been set.
        """
        return _decided(self._scale)

    @property
    def calibrated(self) -> bool:
        """Whether a range has been set."""
        return self._scale is not None

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` on the quantizer's grid; same shape."""
        return fake_quant(x, self.scale, self.zero_point, self.spec.qmin, self.spec.qmax)

    def extra_repr(self) -> str:
        """Show the bits and the range."""
        if self._scale is None:
            return f"bits={self.spec.bits}, {Rounding.NONE}"
        return f"bits={self.spec.bits}, scale={float(self._scale):.4g}, zero_point={float(self.zero_point):.0f}"

    def _room(self) -> Mapping[str, Tensor]:
        return {"_scale": torch.empty_like(self.zero_point)}


class WeightQuantizer(_Calibrated):
    """Holds the integer codes of a weight, and their scale per output channel; symmetric.

    Its state is the codes and the scale. The float weight they stand for is at hand where there is a float network,
    and no part of the state.

    Args:
        spec: signed and symmetric, `axis` the output channel.
        weight: in float; it is not changed.

    Example:
        >>> quantizer = WeightQuantizer(ptq.QuantSpec(4, signed=True, symmetric=True, axis=0), torch.tensor([[0.3, -0.7]]))
        >>> quantizer.set_scale(torch.tensor([0.1]))
        >>> quantizer.codes, quantizer.rounding.value
        (tensor([[ 3, -7]], dtype=torch.int8), 'nearest')
        >>> quantizer.harden(torch.tensor([[2, -7]]))
        >>> quantizer(), quantizer.rounding.value
        (tensor([[ 0.2000, -0.7000]]), 'learned')
    """

    _float_weight: Tensor | None
    _scale: Tensor | None
    _codes: Tensor | None
    _learned: Tensor

    def __init__(self, spec: QuantSpec, weight: Tensor) -> None:
        super().__init__()
        self.spec, self.shape = spec, weight.shape
        self.register_buffer("_float_weight", weight.detach(), persistent=False)
        self.register_buffer("_scale", None)
        self.register_buffer("_codes", None)
        self.register_buffer("_learned", torch.tensor(False))

    def set_scale(self, scale: Tensor) -> None:
        """Set the scale, (C,) and > 0, and every code to the nearest one."""
        weight = self.float_weight
        self._scale = scale.detach().clone()
        zero = torch.zeros((), device=weight.device)
        of_channel = per_channel(self._scale, weight, self.spec.axis)
        self._codes = quantize(weight, of_channel, zero, self.spec.qmin, self.spec.qmax).to(torch.int8)
        self._learned.fill_(False)

    def rescale(self, scale: Tensor) -> None:
        """Set the scale, (C,) and > 0; the codes stay, so the weight they stand for becomes another."""
        self.scale.copy_(scale)

    def harden(self, codes: Tensor) -> None:
        """Set the codes to those that were learned: integer-valued, shaped like the weight; the scale stays.

        Raises:
            InputError: before `set_scale`, or for codes of another shape or beyond the spec's.
        """
        low, high = (int(end) for end in codes.aminmax())
        if codes.shape != self.shape or low < self.spec.qmin or high > self.spec.qmax:
            raise InputError(f"codes must be {self.spec.qmin}..{self.spec.qmax}, shaped {tuple(self.shape)}.")
        self.codes.copy_(codes)
        self._learned.fill_(True)

    @property
    def scale(self) -> Tensor:
        """What one code stands for, (C,).

        Raises:
            InputError: before `set_scale`.
        """
        return _decided(self._scale)

    @property
    def codes(self) -> Tensor:
        """The weight in integers: int8, shaped like it.

        Raises:
            InputError: before `set_scale`.
        """
        return _decided(self._codes)

    @property
    def float_weight(self) -> Tensor:
        """The weight that is quantized.

        Raises:
            InputError: in a quantized model that was loaded without its float network.
        """
        if self._float_weight is None:
            raise InputError(NO_FLOAT_MODEL)
        return self._float_weight

    def drop_float_weight(self) -> None:
        """Forget the float weight; codes and scale stay."""
        self._float_weight = None

    @property
    def rounding(self) -> Rounding:
        """How the codes came about."""
        if self._codes is None:
            return Rounding.NONE
        return Rounding.LEARNED if bool(self._learned) else Rounding.NEAREST

    def forward(self) -> Tensor:
        """Return the real numbers that the codes stand for, shaped like the weight."""
        return self.codes * per_channel(self.scale, self.codes, self.spec.axis)

    def extra_repr(self) -> str:
        """Show the bits and how the codes came about."""
        return f"bits={self.spec.bits}, rounding: {self.rounding}"

    def _room(self) -> Mapping[str, Tensor]:
        device = self._learned.device
        channels = self.shape[self.spec.axis or 0]
        return {
            "_scale": torch.empty(channels, device=device),
            "_codes": torch.empty(self.shape, dtype=torch.int8, device=device),
        }
