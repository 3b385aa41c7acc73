"""Attention, by what the device does fastest.

PyTorch's fused attention is made for GPUs and for AMX. On a CPU that multiplies bfloat16 without AMX's tiles (AMD's
since Zen 4) its products run at a fifth of what the chip's matrix products reach: there logits are written out by
those, a block at a time that stays in a core's cache.

Suffixes: b windows, n heads, h heads of all windows, t tokens, c channels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from persam_ray.precision import bfloat16_products

ROWS = 256
"""Queries of a block."""

LOGITS = 2**20
"""Of a block, at most (2 MB in bfloat16): where windows are small, several heads share one."""


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
    rows = min(tokens, ROWS)
    together = max(1, LOGITS // (rows * tokens))
    attended_htc = v_htc.new_empty(heads, tokens, channels)
    for first in range(0, heads, together):
        some = slice(first, first + together)
        k_hct = k_htc[some].transpose(1, 2)
        for top in range(0, tokens, rows):
            block = slice(top, top + rows)
            weights_htt = torch.bmm(q_htc[some, block], k_hct).softmax(dim=2)
            torch.bmm(weights_htt, v_htc[some], out=attended_htc[some, block])
    return attended_htc.view(*q_bntc.shape[:3], channels)
