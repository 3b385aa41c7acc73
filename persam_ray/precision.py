"""Which floating-point type a network computes in."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Resolve `auto`: bfloat16 where it is faster, that is on a GPU since Ampere, and on a CPU with AMX.

    Args:
        precision: What the user asked for.
        device: Where the network is.
    """
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if device.type == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        faster = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return torch.bfloat16 if faster else torch.float32
