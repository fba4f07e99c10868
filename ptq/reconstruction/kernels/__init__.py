"""The operations reconstruction spends its time in, each with its own backward pass.

`reference` defines them in plain torch, `fused_cpu` is the same in one pass over memory on a CPU, `fused_triton`
on a GPU, and `functions` makes them differentiable and chooses.
"""

from ptq.reconstruction.kernels.functions import blend, mean_error, quantize_activation, rectified_sigmoid, soft_round

__all__ = ["blend", "mean_error", "quantize_activation", "rectified_sigmoid", "soft_round"]
