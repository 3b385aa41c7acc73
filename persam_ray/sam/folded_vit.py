"""SAM's ViT image encoder, its relative positions folded into queries and keys: plain attention does the rest.

The official attention adds to each logit, q k / sqrt(c), two terms: q . R_h[row(q) - row(k)], and the same for columns.
It writes all N x N of them: for 4096 tokens and 12 heads 800 MB in float32. Here position terms are appended to the
queries and one-hot row and column codes to the keys,

    q' = [q / sqrt(c), q . R_h(row(q), all rows), q . R_w(column(q), all columns)]
    k' = [k, 1 at its row, 1 at its column]

so that q' k' is the same sum. The algebra is exact; in float32 the features are the package's up to rounding. Windows
are padded after the projection to q, k, v, where padding is that layer's bias, and not before it.

A global block is one window as large as the grid. Tokens are on the grid (b, h, w, c) or in windows, row by row.
"""

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Block, get_rel_pos
from torch import Tensor, nn
from torch.nn import functional as F

from persam_ray.compute.attention import attend
from persam_ray.compute.packed_layers import packed

LANES = 32
"""Heads are widened to a multiple of this, which AMX's bfloat16 tiles and a GPU's tensor cores take in one step."""


class FoldedViT(nn.Module):
    """The forward pass of `segment_anything`'s encoder, over its own modules; for inference, where they are by now.

    Args:
        encoder: Its weights are shared, not copied, but for those that `packed_layers` lays out anew.
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
        spaces: dict[int, Tensor] = {}
        for block in self.blocks:
            x_bhwc = block(x_bhwc, spaces)
        features: Tensor = self.neck(x_bhwc.permute(0, 3, 1, 2))
        return features


class _FoldedBlock(nn.Module):
    rows_hhc: Tensor
    columns_wwc: Tensor
    one_hot_lc: Tensor

    def __init__(self, block: Block, side: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.qkv, self.projection = packed(block.attn.qkv), packed(block.attn.proj)
        self.mlp = nn.Sequential(packed(block.mlp.lin1), block.mlp.act, packed(block.mlp.lin2))
        self.padding: Tensor | float = 0.0 if block.attn.qkv.bias is None else block.attn.qkv.bias
        self.side, self.heads = side, int(block.attn.num_heads)
        rows_hhc, columns_wwc = (
            get_rel_pos(side, side, table).detach() for table in (block.attn.rel_pos_h, block.attn.rel_pos_w)
        )
        self.register_buffer("rows_hhc", rows_hhc)
        self.register_buffer("columns_wwc", columns_wwc)
        places_l = torch.arange(side * side, device=rows_hhc.device)
        one_hot_lc = torch.cat([F.one_hot(places_l // side, side), F.one_hot(places_l % side, side)], dim=1)
        self.widened = -(-(rows_hhc.shape[2] + 2 * side) // LANES) * LANES
        spare = self.widened - rows_hhc.shape[2] - 2 * side
        self.register_buffer("one_hot_lc", F.pad(one_hot_lc, (0, spare)).to(rows_hhc))

    def _new_space(self, x_bhwc: Tensor) -> Tensor:
        """Return room for q', k' and v', (3, windows, a, l, widened), filled with what no block changes."""
        batch, height, width, _ = x_bhwc.shape
        windows = batch * -(-height // self.side) * -(-width // self.side)
        space = x_bhwc.new_zeros(3, windows, self.heads, self.side**2, self.widened)
        space[1, ..., -self.one_hot_lc.shape[1] :] = self.one_hot_lc
        return space

    def forward(self, x_bhwc: Tensor, spaces: dict[int, Tensor]) -> Tensor:
        """Return the tokens after this block.

        Args:
            x_bhwc: Tokens.
            spaces: By side, what the blocks of a pass write q', k' and v' into, one after the other: what lies behind
                the channels of k' and v' is written once.
        """
        if self.side not in spaces:
            spaces[self.side] = self._new_space(x_bhwc)
        x_bhwc = x_bhwc + self._attended(self.norm1(x_bhwc), spaces[self.side])
        x: Tensor = x_bhwc + self.mlp(self.norm2(x_bhwc))
        return x

    def _attended(self, x_bhwc: Tensor, space: Tensor) -> Tensor:
        batch, height, width, channels = x_bhwc.shape
        qkv: Tensor = self.qkv(x_bhwc)
        below, right = -height % self.side, -width % self.side
        if below or right:
            padded = qkv.new_empty(batch, height + below, width + right, 3 * channels)
            padded[:, :height, :width] = qkv
            padded[:, :height, width:] = padded[:, height:] = self.padding
            qkv = padded
        # 3 (q, k, v), b, windows down and across, a, rows and columns of a window, c of a head
        down, across = (height + below) // self.side, (width + right) // self.side
        split = qkv.view(batch, down, self.side, across, self.side, 3, self.heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
        self._fill(space.view(*split.shape[:-1], -1), split)
        attended = attend(space[0], space[1], space[2], split.shape[-1])
        split = attended.view(batch, down, across, self.heads, self.side, self.side, -1)
        x_bhwc = split.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height + below, width + right, channels)
        projected: Tensor = self.projection(x_bhwc[:, :height, :width])
        return projected

    def _fill(self, space: Tensor, split: Tensor) -> None:
        """Write q', k' and v' where they are attended to; each number is copied once."""
        side, channels, (q, k, v) = self.side, split.shape[-1], split
        torch.mul(q, channels**-0.5, out=space[0, ..., :channels])
        space[0, ..., channels : channels + side] = torch.einsum("...hwc,hyc->...hwy", q, self.rows_hhc)
        space[0, ..., channels + side : channels + 2 * side] = torch.einsum("...hwc,wxc->...hwx", q, self.columns_wwc)
        space[1, ..., :channels] = k
        space[2, ..., :channels] = v
