"""SAM's ViT image encoder, its relative positions folded into queries and keys: plain fused attention does the rest.

The official attention adds to each logit, q k / sqrt(c), two terms: q . R_h[row(q) - row(k)], and the same for columns.
It writes all N x N of them: for 4096 tokens and 12 heads 800 MB in float32. Here a query carries its terms for every
row and column behind its channels, and a key a 1 at its own row and column,

    q' = [q / sqrt(c), q . R_h(row(q), all rows), q . R_w(column(q), all columns)]
    k' = [k, 1 at its row, 1 at its column]

so that q' k' is the same sum. The algebra is exact; in float32 the features are the package's up to rounding. Windows
are padded after the projection to q, k, v, where padding is that layer's bias, and not before it.

Suffixes: b images, h w rows and columns of the token grid, c channels, n heads, t tokens of a window (the whole grid in
a global block), s side of a window.
"""

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Block, get_rel_pos
from torch import Tensor, nn
from torch.nn import functional as F

from persam_ray.packed_linear import packed

LANES = 32
"""Heads are widened to a multiple of this, which AMX's bfloat16 tiles and a GPU's tensor cores take in one step."""


class FoldedViT(nn.Module):
    """The forward pass of `segment_anything`'s encoder, over its own modules.

    Args:
        encoder: Its weights are shared, not copied, but for those that `packed_linear` lays out anew.
    """

    def __init__(self, encoder: ImageEncoderViT) -> None:
        super().__init__()
        grid = encoder.pos_embed.shape[1]
        self.patch_embed, self.pos_embed, self.neck = encoder.patch_embed, encoder.pos_embed, encoder.neck
        self.blocks = nn.ModuleList(_FoldedBlock(block, block.window_size or grid) for block in encoder.blocks)

    def forward(self, image_b3hw: Tensor) -> Tensor:
        """Return the features (b, c, h, w) of normalised images."""
        # The convolution's channels come last as a view: every later sum would go through memory column by column.
        x_bhwc = (self.patch_embed(image_b3hw) + self.pos_embed).contiguous()
        for block in self.blocks:
            x_bhwc = block(x_bhwc)
        features: Tensor = self.neck(x_bhwc.permute(0, 3, 1, 2))
        return features


class _FoldedBlock(nn.Module):
    rows_ssc: Tensor
    columns_ssc: Tensor
    ones_tk: Tensor

    def __init__(self, block: Block, side: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.qkv_bias = block.norm1, block.norm2, block.attn.qkv.bias
        self.qkv, self.projection = packed(block.attn.qkv), packed(block.attn.proj)
        self.mlp = nn.Sequential(packed(block.mlp.lin1, gelu=True), packed(block.mlp.lin2))
        self.side, self.heads = side, int(block.attn.num_heads)
        rows_ssc, columns_ssc = (
            get_rel_pos(side, side, table).detach() for table in (block.attn.rel_pos_h, block.attn.rel_pos_w)
        )
        self.register_buffer("rows_ssc", rows_ssc)
        self.register_buffer("columns_ssc", columns_ssc)
        places_t = torch.arange(side * side, device=rows_ssc.device)
        ones_tk = torch.cat([F.one_hot(places_t // side, side), F.one_hot(places_t % side, side)], dim=1)
        self.widened = -(-(rows_ssc.shape[2] + 2 * side) // LANES) * LANES
        spare = self.widened - rows_ssc.shape[2] - 2 * side
        self.register_buffer("ones_tk", F.pad(ones_tk, (0, spare)).to(rows_ssc))

    def forward(self, x_bhwc: Tensor) -> Tensor:
        x_bhwc = x_bhwc + self._attended(self.norm1(x_bhwc))
        x: Tensor = x_bhwc + self.mlp(self.norm2(x_bhwc))
        return x

    def _attended(self, x_bhwc: Tensor) -> Tensor:
        batch, height, width, channels = x_bhwc.shape
        qkv: Tensor = self.qkv(x_bhwc)
        below, right = -height % self.side, -width % self.side
        if below or right:
            padded = self.qkv_bias.expand(batch, height + below, width + right, -1).clone()
            padded[:, :height, :width] = qkv
            qkv = padded
        # 3 (q, k, v), b * windows, n, t, c of a head
        windows_hw = (height + below) // self.side, (width + right) // self.side
        split = qkv.view(batch, windows_hw[0], self.side, windows_hw[1], self.side, 3, self.heads, -1)
        in_windows = split.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(
            3, batch * windows_hw[0] * windows_hw[1], self.heads, self.side**2, -1
        )
        attended = self._fused(*in_windows)
        split = attended.view(batch, *windows_hw, self.heads, self.side, self.side, -1)
        x_bhwc = split.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height + below, width + right, channels)
        projected: Tensor = self.projection(x_bhwc[:, :height, :width])
        return projected

    def _fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention with relative positions; all (windows, n, t, c of a head)."""
        windows, heads, tokens, channels = q.shape
        q_ss = q.view(windows, heads, self.side, self.side, channels)
        to_rows = torch.einsum("xnhwc,hkc->xnhwk", q_ss, self.rows_ssc).reshape(windows, heads, tokens, self.side)
        to_columns = torch.einsum("xnhwc,wkc->xnhwk", q_ss, self.columns_ssc).reshape(windows, heads, tokens, self.side)
        spare = q.new_zeros(windows, heads, tokens, self.widened - channels - 2 * self.side)
        q = torch.cat([q * channels**-0.5, to_rows, to_columns, spare], dim=-1)
        k = torch.cat([k, self.ones_tk.expand(windows, heads, -1, -1)], dim=-1)
        v = F.pad(v, (0, self.widened - channels))
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :channels]
