"""The two operations reconstruction spends its time in, each with its own backward pass.

The reference in plain torch runs on every device; `ptq.quantizer` calls these names only, so a
fused kernel for a device takes its place here.
"""

from ptq.kernels.reference import fake_quantize, rectified_sigmoid, soft_round

__all__ = ["fake_quantize", "rectified_sigmoid", "soft_round"]
