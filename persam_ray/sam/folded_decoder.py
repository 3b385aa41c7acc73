"""SAM's mask decoder for bfloat16: work at every image cell is folded into the few tokens.

There are 4,096 image cells and 8 tokens, so nearly all time goes into what happens at every cell. The official decoder
projects each cell to queries, keys and values: four products of 256 x 128 in each block. With x a cell, u a token and W
the projections of one head,

    (W_q u) . (W_k x) = (W_k' W_q u) . x        sum over x of p_x W_v x = W_v (sum over x of p_x x)

so the projections can be applied to tokens instead. For each cell and direction two products of 256 x 64 are left (8
tokens in 8 heads), and no projected image is written to memory. What a block adds to a cell is a mix of 64 rows, which
hold the values and the output projection. The transposed convolutions become products as well, because their windows do
not overlap: cells stay rows, channels columns, and only the finished logits are laid out as an image.

The algebra is exact; tests compare it to `OfficialAttention`. Cells are bfloat16; tokens, softmax and predicted IoU are
float32.

Suffixes beside those of `types`: r rows of a product, one for each token in each head; o outputs of a layer.
"""

import copy
from typing import cast

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.transformer import Attention, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from persam_ray.compute.packed_layers import packed
from persam_ray.sam.decoder import with_output_tokens
from persam_ray.sam.two_way_transformer import transform


class FoldedDecoder(nn.Module):
    """The forward pass of `segment_anything`'s mask decoder, guided as PerSAM's.

    Args:
        decoder: The package's module, in float32; its weights are shared where tokens use them.
        image_pe_1chw: The dense positional encoding.
        dtype: Type of the image's cells.
    """

    key_pe_1mc: Tensor

    def __init__(self, decoder: MaskDecoder, image_pe_1chw: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.decoder, self.dtype = decoder, dtype
        self.register_buffer("key_pe_1mc", image_pe_1chw.flatten(2).transpose(1, 2).contiguous().to(dtype))
        self.transformer = _with_cells_in(dtype, decoder.transformer)
        self.upscale = _Upscale(decoder, dtype)

    def forward(
        self,
        image_embedding_nchw: Tensor,
        prompt_tokens_nlc: Tensor,
        *,
        guidance_nhw: Tensor | None,
        embedding_nc: Tensor | None,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Decode masks: the arguments and results are those of `predict_masks`, all of them float32."""
        decoder = self.decoder
        queries_nlc, keys_nmc = transform(
            self.transformer,
            FoldedAttention(),
            with_output_tokens(decoder, prompt_tokens_nlc),
            image_embedding_nchw.flatten(2).transpose(1, 2).to(self.dtype),
            self.key_pe_1mc,
            guidance_nm=None if guidance_nhw is None else guidance_nhw.flatten(1),
            embedding_nc=embedding_nc,
        )
        kept = range(1, decoder.num_mask_tokens) if multimask else range(1)
        filters_nkc = torch.stack([decoder.output_hypernetworks_mlps[k](queries_nlc[:, 1 + k]) for k in kept], dim=1)
        iou_nk: Tensor = decoder.iou_prediction_head(queries_nlc[:, 0])
        grid_hw = (image_embedding_nchw.shape[2], image_embedding_nchw.shape[3])
        return self.upscale(keys_nmc, filters_nkc, grid_hw), iou_nk[:, kept.start : kept.stop]


def _with_cells_in(dtype: torch.dtype, transformer: TwoWayTransformer) -> TwoWayTransformer:
    """Return a copy whose norms over cells are in another type and whose MLPs are packed; other weights are shared."""
    shared = {id(weight): weight for weight in transformer.parameters()}
    copied = copy.deepcopy(transformer, shared)
    for block in copied.layers:
        block.mlp = nn.Sequential(packed(block.mlp.lin1), block.mlp.act, packed(block.mlp.lin2))
        block.norm4 = _norm_in(dtype, block.norm4)
    return copied


@torch.no_grad()
def _norm_in(dtype: torch.dtype, norm: nn.LayerNorm | LayerNorm2d) -> nn.LayerNorm:
    """Return a copy of a norm over channels, for channels that come last, in another type."""
    converted = nn.LayerNorm(norm.weight.shape[0], eps=norm.eps, device=norm.weight.device, dtype=dtype)
    converted.weight.copy_(norm.weight)
    converted.bias.copy_(norm.bias)
    return converted.requires_grad_(requires_grad=False)


class FoldedAttention:
    """Attention between tokens and image with the image's projections done to tokens."""

    def token_to_image(
        self, layer: Attention, q_nlc: Tensor, k_nmc: Tensor, v_nmc: Tensor, guidance_nm: Tensor | None
    ) -> Tensor:
        """Return what each token takes from the image (n, l, c).

        The key's bias adds the same to a token's logit at every cell, and the softmax drops it.
        """
        prompts, tokens, _ = q_nlc.shape
        q_nrc = _folded(layer, layer.q_proj(q_nlc), layer.k_proj)
        weights_nrm = _products(q_nrc, k_nmc).softmax(dim=2, dtype=torch.float32)
        if guidance_nm is not None:
            weights_nrm = (weights_nrm + guidance_nm[:, None]).softmax(dim=2)  # eq. 4 of PerSAM, as officially done
        attended_nrc = torch.bmm(weights_nrm.to(v_nmc.dtype), v_nmc).float()
        values_acd = _by_head(layer.v_proj.weight, layer.num_heads).transpose(1, 2)
        attended_nald = attended_nrc.view(prompts, layer.num_heads, tokens, -1) @ values_acd
        attended_nlc: Tensor = layer.out_proj(attended_nald.transpose(1, 2).flatten(2) + layer.v_proj.bias)
        return attended_nlc

    def image_to_token(self, layer: Attention, q_nmc: Tensor, k_nlc: Tensor, v_nlc: Tensor, keys_nmc: Tensor) -> Tensor:
        """Return the keys (n, m, c) with what each takes from the tokens added."""
        heads, (prompts, tokens, _) = layer.num_heads, k_nlc.shape
        projected_nlc: Tensor = layer.k_proj(k_nlc)
        k_nrc = _folded(layer, projected_nlc, layer.q_proj)
        bias_nald = _in_heads(projected_nlc * layer.q_proj.bias, heads)
        bias_nal1 = bias_nald.sum(dim=3, keepdim=True) * bias_nald.shape[3] ** -0.5
        logits_nalm = _products(k_nrc, q_nmc).view(prompts, heads, tokens, -1) + bias_nal1
        weights_nrm = logits_nalm.softmax(dim=2).flatten(1, 2).to(keys_nmc.dtype)
        values_nald = _in_heads(layer.v_proj(v_nlc), heads)
        out_adc = _by_head(layer.out_proj.weight.T, heads)
        # A cell's weights are 1 in sum for each head, so the output's bias can come in equal parts with the rows.
        rows_nrc = (values_nald @ out_adc + layer.out_proj.bias / heads).flatten(1, 2)
        return torch.baddbmm(keys_nmc, weights_nrm.transpose(1, 2), rows_nrc.to(keys_nmc.dtype))


def _folded(layer: Attention, projected_nlc: Tensor, image_projection: nn.Linear) -> Tensor:
    """Return rows (n, r, c) whose products with a cell are the scaled logits of projected tokens and projected cell."""
    tokens_nald = _in_heads(projected_nlc, layer.num_heads)
    weight_adc = _by_head(image_projection.weight, layer.num_heads)
    rows_nrc: Tensor = (tokens_nald * tokens_nald.shape[3] ** -0.5 @ weight_adc).flatten(1, 2)
    return rows_nrc


def _in_heads(tokens_nlc: Tensor, heads: int) -> Tensor:
    """Split projected tokens' channels: (n, a, l, d)."""
    return tokens_nlc.reshape(*tokens_nlc.shape[:2], heads, -1).transpose(1, 2)


def _products(rows_nrc: Tensor, cells_nmc: Tensor) -> Tensor:
    """Return each row's product with each cell (n, r, m); not `@`, which copies a single image's transposed cells."""
    return torch.bmm(rows_nrc.to(cells_nmc.dtype), cells_nmc.transpose(1, 2))


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

    def forward(self, cells_nmc: Tensor, filters_nkc: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """Return logits (n, k, 4h, 4w), float32."""
        count, masks = filters_nkc.shape[:2]
        x = self.first(cells_nmc.flatten(0, 1))
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
