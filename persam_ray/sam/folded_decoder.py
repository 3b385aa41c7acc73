"""SAM's mask decoder with its image-side projections folded into the few prompt tokens: for bfloat16.

Of 4096 image cells and 8 tokens, all that costs time is what happens at every cell. The official decoder projects each
cell to queries, keys and values, four times 256 x 128 products for a block. But with x a cell, u a token and W the
projections of one head,

    (W_q u) . (W_k x) = (W_k' W_q u) . x        sum over x of p_x W_v x = W_v (sum over x of p_x x)

so that the projections can be done to tokens: per cell two times 256 x 64 products are left for each direction (64 is
8 tokens in 8 heads), and no projected image is ever written. What a block adds to a cell is a mix of as many rows,
which hold the values and the output projection. The transposed convolutions, whose windows do not overlap, are products
too: cells stay rows, channels columns, and only the finished logits are laid out as an image.

The algebra is exact (`sam_decoder` is the reference, to which the tests compare). Cells are bfloat16; tokens, softmax
and predicted IoU float32.

Suffix r: rows of a product, one for each token in each head. o: outputs of a layer.
"""

from typing import cast

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from persam_ray.compute.packed_layers import packed


class FoldedDecoder(nn.Module):
    """The forward pass of `segment_anything`'s mask decoder, guided as PerSAM's.

    Args:
        decoder: The package's module, in float32; its weights are shared where tokens use them.
        image_pe_1chw: The dense positional encoding.
        dtype: Of the image's cells.
    """

    key_pe_mc: Tensor

    def __init__(self, decoder: MaskDecoder, image_pe_1chw: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.decoder, self.dtype = decoder, dtype
        self.grid_hw = (image_pe_1chw.shape[2], image_pe_1chw.shape[3])
        self.register_buffer("key_pe_mc", image_pe_1chw[0].flatten(1).T.contiguous().to(dtype))
        self.norms = nn.ModuleList(_norm_in(dtype, block.norm4) for block in self._blocks)
        self.mlps = nn.ModuleList(
            nn.Sequential(packed(block.mlp.lin1), block.mlp.act, packed(block.mlp.lin2)) for block in self._blocks
        )
        self.upscale = _Upscale(decoder, dtype)

    @property
    def _blocks(self) -> list[TwoWayAttentionBlock]:
        return [cast("TwoWayAttentionBlock", block) for block in self.decoder.transformer.layers]

    def forward(
        self,
        keys_nmc: Tensor,
        prompt_tokens_nlc: Tensor,
        *,
        guidance_nm: Tensor | None,
        embedding_nc: Tensor | None,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Decode masks.

        Args:
            keys_nmc: The image of each prompt, with the dense (mask) prompt already added.
            prompt_tokens_nlc: Encoded points and boxes, float32.
            guidance_nm: Target-guided attention, in [0, 1].
            embedding_nc: Target-semantic prompt.
            multimask: True for the three scales (tokens 1 to 3), False for the single mask (token 0).

        Returns:
            Mask logits (n, k, 4h, 4w) and predicted IoU (n, k), float32.
        """
        decoder = self.decoder
        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens_nlc = torch.cat([output_tokens.expand(len(keys_nmc), -1, -1), prompt_tokens_nlc], dim=1)
        queries_nlc, keys_nmc = self._transform(tokens_nlc, keys_nmc, guidance_nm, embedding_nc)
        kept = range(1, decoder.num_mask_tokens) if multimask else range(1)
        filters_nkc = torch.stack([decoder.output_hypernetworks_mlps[k](queries_nlc[:, 1 + k]) for k in kept], dim=1)
        iou_nk: Tensor = decoder.iou_prediction_head(queries_nlc[:, 0])
        return self.upscale(keys_nmc, filters_nkc, self.grid_hw), iou_nk[:, kept.start : kept.stop]

    def _transform(
        self, tokens_nlc: Tensor, keys_nmc: Tensor, guidance_nm: Tensor | None, embedding_nc: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return tokens and cells behind the two-way transformer; how the embedding enters: see `sam_decoder`."""
        embedding_n1c = 0.0 if embedding_nc is None else embedding_nc[:, None]
        tokens_nlc = tokens_nlc + embedding_n1c
        queries_nlc = tokens_nlc
        for index, (block, norm, mlp) in enumerate(zip(self._blocks, self.norms, self.mlps, strict=True)):
            if index > 0:
                queries_nlc = queries_nlc + embedding_n1c
            k_nmc = keys_nmc + self.key_pe_mc
            queries_nlc = _self_attended(block, queries_nlc, tokens_nlc)
            q_nlc = queries_nlc + tokens_nlc
            attended_nlc = _token_to_image(block.cross_attn_token_to_image, q_nlc, k_nmc, keys_nmc, guidance_nm)
            queries_nlc = block.norm2(queries_nlc + attended_nlc)
            queries_nlc = block.norm3(queries_nlc + mlp(queries_nlc))
            q_nlc = queries_nlc + tokens_nlc
            keys_nmc = norm(_image_to_token(block.cross_attn_image_to_token, k_nmc, q_nlc, queries_nlc, keys_nmc))
        final = cast("Attention", self.decoder.transformer.final_attn_token_to_image)
        q_nlc = queries_nlc + tokens_nlc + embedding_n1c
        queries_nlc = queries_nlc + _token_to_image(final, q_nlc, keys_nmc + self.key_pe_mc, keys_nmc, None)
        return self.decoder.transformer.norm_final_attn(queries_nlc), keys_nmc


@torch.no_grad()
def _norm_in(dtype: torch.dtype, norm: nn.LayerNorm | LayerNorm2d) -> nn.LayerNorm:
    """Return a copy of a norm over channels, for channels that come last, in another type."""
    copy = nn.LayerNorm(norm.weight.shape[0], eps=norm.eps, device=norm.weight.device, dtype=dtype)
    copy.weight.copy_(norm.weight)
    copy.bias.copy_(norm.bias)
    return copy.requires_grad_(requires_grad=False)


def _self_attended(block: TwoWayAttentionBlock, queries_nlc: Tensor, tokens_nlc: Tensor) -> Tensor:
    """Return the tokens behind the block's first step, in which they attend to one another."""
    if block.skip_first_layer_pe:
        attended: Tensor = block.self_attn(q=queries_nlc, k=queries_nlc, v=queries_nlc)
    else:
        q_nlc = queries_nlc + tokens_nlc
        attended = queries_nlc + block.self_attn(q=q_nlc, k=q_nlc, v=queries_nlc)
    normed: Tensor = block.norm1(attended)
    return normed


def _token_to_image(
    attention: Attention, q_nlc: Tensor, k_nmc: Tensor, keys_nmc: Tensor, guidance_nm: Tensor | None
) -> Tensor:
    """Token to image attention: what each token gathers from the cells (n, l, c).

    The key's bias adds the same to a token's logit at every cell, and the softmax drops it.
    """
    tokens = q_nlc.shape[1]
    q_nrc = _folded(attention, attention.q_proj(q_nlc), attention.k_proj)
    logits_nrm = _products(q_nrc, k_nmc)
    weights_nrm = logits_nrm.softmax(dim=2, dtype=torch.float32)
    if guidance_nm is not None:
        weights_nrm = (weights_nrm + guidance_nm[:, None]).softmax(dim=2)  # eq. 4 of PerSAM, as officially done
    attended_nrc = torch.bmm(weights_nrm.to(keys_nmc.dtype), keys_nmc).float()
    values_acd = _by_head(attention.v_proj.weight, attention.num_heads).transpose(1, 2)
    in_heads_nald = attended_nrc.view(len(q_nlc), attention.num_heads, tokens, -1) @ values_acd
    attended_nlc: Tensor = attention.out_proj(in_heads_nald.transpose(1, 2).flatten(2) + attention.v_proj.bias)
    return attended_nlc


def _image_to_token(attention: Attention, k_nmc: Tensor, q_nlc: Tensor, values_nlc: Tensor, keys_nmc: Tensor) -> Tensor:
    """Image to token attention: the cells (n, m, c) and what each has taken from the tokens."""
    heads, (prompts, tokens, _) = attention.num_heads, q_nlc.shape
    k_nlc: Tensor = attention.k_proj(q_nlc)
    k_nrc = _folded(attention, k_nlc, attention.q_proj)
    bias_nald = _in_heads(k_nlc * attention.q_proj.bias, heads)
    bias_nal1 = bias_nald.sum(dim=3, keepdim=True) * bias_nald.shape[3] ** -0.5
    logits_nrm = _products(k_nrc, k_nmc)
    biased_nalm = logits_nrm.view(prompts, heads, tokens, -1) + bias_nal1
    weights_nrm = biased_nalm.softmax(dim=2).flatten(1, 2).to(keys_nmc.dtype)
    values_nald = _in_heads(attention.v_proj(values_nlc), heads)
    out_adc = _by_head(attention.out_proj.weight.T, heads)
    # A cell's weights are 1 in sum for each head, so the output's bias can come in equal parts with the rows.
    rows_nrc = (values_nald @ out_adc + attention.out_proj.bias / heads).flatten(1, 2)
    attended_nmc: Tensor = torch.baddbmm(keys_nmc, weights_nrm.transpose(1, 2), rows_nrc.to(keys_nmc.dtype))
    return attended_nmc


def _folded(attention: Attention, tokens_nlc: Tensor, image_projection: nn.Linear) -> Tensor:
    """Return rows (n, r, c) whose products with a cell are the scaled logits of projected tokens and projected cell."""
    in_heads_nald = _in_heads(tokens_nlc, attention.num_heads)
    weight_adc = _by_head(image_projection.weight, attention.num_heads)
    rows_nrc: Tensor = (in_heads_nald * in_heads_nald.shape[3] ** -0.5 @ weight_adc).flatten(1, 2)
    return rows_nrc


def _in_heads(tokens_nlc: Tensor, heads: int) -> Tensor:
    """Split projected tokens' channels: (n, a, l, d)."""
    return tokens_nlc.reshape(*tokens_nlc.shape[:2], heads, -1).transpose(1, 2)


def _products(rows_nrc: Tensor, keys_nmc: Tensor) -> Tensor:
    """Return each row's product with each cell (n, r, m); not `@`, which copies a single image's transposed cells."""
    return torch.bmm(rows_nrc.to(keys_nmc.dtype), keys_nmc.transpose(1, 2))


def _by_head(weight: Tensor, heads: int) -> Tensor:
    """Split a projection's weight (a * d, c) to (a, d, c)."""
    return weight.reshape(heads, -1, weight.shape[1])


class _Upscale(nn.Module):
    """From cells to logits: two transposed convolutions of 2 x 2 windows, then each mask's filter, all as products."""

    def __init__(self, decoder: MaskDecoder, dtype: torch.dtype) -> None:
        super().__init__()
        first, norm, _, second, _ = decoder.output_upscaling
        self.first, self.second = packed(_by_window(first, dtype)), packed(_by_window(second, dtype))
        self.norm = _norm_in(dtype, norm)

    def forward(self, keys_nmc: Tensor, filters_nkc: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """Return logits (n, k, 4h, 4w), float32."""
        count, masks = filters_nkc.shape[:2]
        x = self.first(keys_nmc.flatten(0, 1))
        x = F.gelu(self.norm(x.view(4 * len(x), -1)))
        x = F.gelu(self.second(x))
        logits = x.view(count, -1, filters_nkc.shape[2]) @ filters_nkc.to(x.dtype).transpose(1, 2)
        # n, rows and columns of cells, of the first window, of the second, k
        split = logits.view(count, *grid_hw, 2, 2, 2, 2, masks).permute(0, 7, 1, 3, 5, 2, 4, 6)
        return split.reshape(count, masks, 4 * grid_hw[0], 4 * grid_hw[1]).float()


@torch.no_grad()
def _by_window(convolution: nn.ConvTranspose2d, dtype: torch.dtype) -> nn.Linear:
    """Return a transposed convolution of 2 x 2 windows as a layer; outputs are window positions, each's channels."""
    weight_oc = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    layer = nn.Linear(weight_oc.shape[1], weight_oc.shape[0], device=weight_oc.device, dtype=dtype)
    layer.weight.copy_(weight_oc)
    layer.bias.copy_(cast("Tensor", convolution.bias).repeat(4))
    return layer.requires_grad_(requires_grad=False)
