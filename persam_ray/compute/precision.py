"""Which floating-point type a network computes in."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Resolve `auto`: bfloat16 where it is faster, that is on a GPU since Ampere, and on a CPU that multiplies it.

    Args:
        precision: What the user asked for.
        device: Where the network is.
    """
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if device.type == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        faster = bfloat16_products() is not None
    return torch.bfloat16 if faster else torch.float32


def bfloat16_products() -> Literal["tiles", "vectors"] | None:
    """Return how this CPU multiplies bfloat16: by AMX's tiles, by AVX-512's vectors, or not at all."""
    able = torch.cpu.get_capabilities()
    return "tiles" if able.get("amx_bf16") else "vectors" if able.get("avx512_bf16") else None
