"""Attention, by what the device does fastest.

PyTorch's fused attention is made for GPUs and for AMX. On a CPU that multiplies bfloat16 without AMX's tiles (AMD's
since Zen 4) its products reach a fraction of the chip's matrix products. There the logits are computed by matrix
products, a block at a time. On one core of Zen 5 a head of 4,096 tokens in a global block takes 31 ms instead of 144, a
head of 196 tokens in a window 0.07 ms instead of 0.21. Rounding logits to bfloat16 moves the attended values by 0.6%;
the encoder's error stays at the 1.1% that bfloat16 costs anyway.

Suffixes: g windows, each a group of tokens that attend to one another; s sequences, one for each head of each window.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from persam_ray.compute.precision import bfloat16_products

BLOCK_ROWS = 256
"""Queries of a block; of 64 to 512, the fastest by a few percent."""

BLOCK_LOGITS = 2**20
"""Most logits in a block: 2 MB in bfloat16. In small windows several heads share a block, which is a third faster."""


def attend(q_galc: Tensor, k_galc: Tensor, v_galc: Tensor, channels: int) -> Tensor:
    """Return softmax(q k') v of the first channels of v, (g, a, l, channels).

    Args:
        q_galc: Queries, scaled already.
        k_galc: Keys.
        v_galc: Values, as wide as these, for that is what fused attention takes.
        channels: How many of the values' are asked for.
    """
    in_bfloat16_on_cpu = q_galc.device.type == "cpu" and q_galc.dtype == torch.bfloat16
    if in_bfloat16_on_cpu and bfloat16_products() == "vectors":
        return attend_in_blocks(q_galc, k_galc, v_galc[..., :channels])
    return F.scaled_dot_product_attention(q_galc, k_galc, v_galc, scale=1.0)[..., :channels]


def attend_in_blocks(q_galc: Tensor, k_galc: Tensor, v_galc: Tensor) -> Tensor:
    """Return softmax(q k') v, (g, a, l, channels of v), its logits rounded to the tensors' type."""
    q_slc, k_slc, v_slc = (x_galc.flatten(0, 1) for x_galc in (q_galc, k_galc, v_galc))
    heads, tokens, channels = v_slc.shape
    rows = min(tokens, BLOCK_ROWS)
    block_heads = max(1, BLOCK_LOGITS // (rows * tokens))
    attended_slc = v_slc.new_empty(heads, tokens, channels)
    for first_head in range(0, heads, block_heads):
        of_heads = slice(first_head, first_head + block_heads)
        k_scl = k_slc[of_heads].transpose(1, 2)
        for first_row in range(0, tokens, rows):
            block = of_heads, slice(first_row, first_row + rows)
            weights_sll = torch.bmm(q_slc[block], k_scl).softmax(dim=2)
            torch.bmm(weights_sll, v_slc[of_heads], out=attended_slc[block])
    return attended_slc.view(*q_galc.shape[:3], channels)
