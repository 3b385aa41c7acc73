"""Which floating-point type a network computes in."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def compute_dtype(precision: Precision, device: torch.device, *, pays_on_cpu: bool) -> torch.dtype:
    """Resolve `auto`: bfloat16 where it is faster, that is on a GPU since Ampere, and on a CPU with AMX if it pays.

    Args:
        precision: What the user asked for.
        device: Where the network is.
        pays_on_cpu: Whether this network was measured to be faster in bfloat16 on a CPU with AMX.
    """
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if device.type == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        faster = pays_on_cpu and bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return torch.bfloat16 if faster else torch.float32
