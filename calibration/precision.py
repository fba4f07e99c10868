"""Half precision where the processor has it."""

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["fast_autocast"]


def fast_autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where the processor has it; elsewhere it is emulated, slower than float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = device.type == "cpu" and any(getattr(torch.cpu, p, bool)() for p in probes)
    return torch.autocast(device.type, torch.bfloat16) if native else nullcontext()
