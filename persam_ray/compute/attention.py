"""Attention, by what the device does fastest.

PyTorch's fused attention is made for GPUs and for AMX. On a CPU that multiplies bfloat16 without AMX's tiles (AMD's
since Zen 4) its products reach a fraction of the chip's matrix products. There logits are written out by those, a block
at a time: of one core of Zen 5, 31 ms instead of 144 for a head of 4,096 tokens in a global block, 0.07 instead of 0.21
for one of 196 in a window. Rounding logits to bfloat16 moves what is attended to by 0.6%, the encoder's features not
beyond the 1.1% that they are off by anyway.

Suffixes: b windows, n heads, h heads of all windows, t tokens, c channels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from persam_ray.compute.precision import bfloat16_products

BLOCK_ROWS = 256
"""Queries of a block; of 64 to 512, the fastest by a few percent."""

BLOCK_LOGITS = 2**20
"""Of a block of several heads, at most: 2 MB in bfloat16. In small windows heads share one, a third faster."""


def attend(q_bntc: Tensor, k_bntc: Tensor, v_bntc: Tensor, channels: int) -> Tensor:
    """Return softmax(q k') v of the first channels of v, (b, n, t, channels).

    Args:
        q_bntc: Queries, scaled already.
        k_bntc: Keys.
        v_bntc: Values, as wide as these, for that is what fused attention takes.
        channels: How many of the values' are asked for.
    """
    in_bfloat16_on_cpu = q_bntc.device.type == "cpu" and q_bntc.dtype == torch.bfloat16
    if in_bfloat16_on_cpu and bfloat16_products() == "vectors":
        return attend_in_blocks(q_bntc, k_bntc, v_bntc[..., :channels])
    return F.scaled_dot_product_attention(q_bntc, k_bntc, v_bntc, scale=1.0)[..., :channels]


def attend_in_blocks(q_bntc: Tensor, k_bntc: Tensor, v_bntc: Tensor) -> Tensor:
    """Return softmax(q k') v, (b, n, t, channels of v), its logits rounded to the tensors' type."""
    q_htc, k_htc, v_htc = (x_bntc.flatten(0, 1) for x_bntc in (q_bntc, k_bntc, v_bntc))
    heads, tokens, channels = v_htc.shape
    rows = min(tokens, BLOCK_ROWS)
    block_heads = max(1, BLOCK_LOGITS // (rows * tokens))
    attended_htc = v_htc.new_empty(heads, tokens, channels)
    for first_head in range(0, heads, block_heads):
        of_heads = slice(first_head, first_head + block_heads)
        k_hct = k_htc[of_heads].transpose(1, 2)
        for first_row in range(0, tokens, rows):
            block = of_heads, slice(first_row, first_row + rows)
            weights_htt = torch.bmm(q_htc[block], k_hct).softmax(dim=2)
            torch.bmm(weights_htt, v_htc[of_heads], out=attended_htc[block])
    return attended_htc.view(*q_bntc.shape[:3], channels)
