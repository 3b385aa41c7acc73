"""SAM's mask decoder with target-guided attention and target-semantic prompting (PerSAM, arXiv:2305.03048, 3.2).

The forward pass is ours, the modules and weights are `segment_anything`'s. Two things differ from its own pass: one
call serves a batch of images with one prompt each (the package takes one image with a batch of prompts), and the two
blocks' token-to-image cross-attention may be guided. Without guidance and embedding the numbers are the package's.

Suffixes: b batch (one image and its prompt), t prompt tokens, m image cells (grid h * w), c channels, k masks.
"""

from typing import cast

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor


def predict_masks(
    decoder: MaskDecoder,
    image_bchw: Tensor,
    position_1chw: Tensor,
    prompt_tokens_btc: Tensor,
    *,
    guidance_bhw: Tensor | None,
    embedding_bc: Tensor | None,
    multimask: bool,
) -> tuple[Tensor, Tensor]:
    """Decode masks for a batch of images with one prompt each.

    Args:
        decoder: The package's module.
        image_bchw: Image features with the dense (mask) prompt already added.
        position_1chw: The dense positional encoding.
        prompt_tokens_btc: Encoded points and boxes.
        guidance_bhw: Target-guided attention, in [0, 1], over the feature grid.
        embedding_bc: Target-semantic prompt.
        multimask: True for the three scales (tokens 1 to 3), False for the single mask (token 0).

    Returns:
        Mask logits (b, k, 4h, 4w) and predicted IoU (b, k).
    """
    logits_bkhw, iou_bk = predict_all_masks(
        decoder, image_bchw, position_1chw, prompt_tokens_btc, guidance_bhw=guidance_bhw, embedding_bc=embedding_bc
    )
    kept = slice(1, None) if multimask else slice(0, 1)
    return logits_bkhw[:, kept], iou_bk[:, kept]


def predict_all_masks(
    decoder: MaskDecoder,
    image_bchw: Tensor,
    position_1chw: Tensor,
    prompt_tokens_btc: Tensor,
    *,
    guidance_bhw: Tensor | None = None,
    embedding_bc: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode the single mask and the three scales, in this order: `predict_masks`, which see, with nothing left out."""
    batch, channels, height, width = image_bchw.shape
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens_btc = torch.cat([output_tokens.expand(batch, -1, -1), prompt_tokens_btc], dim=1)
    queries_btc, keys_bmc = _transform(
        decoder.transformer,
        tokens_btc,
        image_bchw.flatten(2).transpose(1, 2),
        position_1chw.flatten(2).transpose(1, 2),
        None if guidance_bhw is None else guidance_bhw.reshape(batch, 1, 1, height * width),
        None if embedding_bc is None else embedding_bc[:, None, :],
    )
    upscaled_bchw = decoder.output_upscaling(keys_bmc.transpose(1, 2).reshape(batch, channels, height, width))
    filters_bkc = torch.stack(
        [mlp(queries_btc[:, 1 + k]) for k, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
    )
    logits_bkhw = (filters_bkc @ upscaled_bchw.flatten(2)).unflatten(2, upscaled_bchw.shape[2:])
    return logits_bkhw, decoder.iou_prediction_head(queries_btc[:, 0])


def _transform(
    transformer: TwoWayTransformer,
    tokens_btc: Tensor,
    keys_bmc: Tensor,
    key_position_1mc: Tensor,
    guidance_b11m: Tensor | None,
    embedding_b1c: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if embedding_b1c is not None:
        # The official code adds the embedding in place before the first block, and the tensor is also the
        # queries' positional encoding: so it carries the embedding through all blocks.
        tokens_btc = tokens_btc + embedding_b1c
    queries_btc = tokens_btc
    for index, block in enumerate(transformer.layers):
        if embedding_b1c is not None and index > 0:
            queries_btc = queries_btc + embedding_b1c
        queries_btc, keys_bmc = _block(block, queries_btc, keys_bmc, tokens_btc, key_position_1mc, guidance_b11m)

    query_btc = queries_btc + tokens_btc
    if embedding_b1c is not None:
        query_btc = query_btc + embedding_b1c
    final = cast(Attention, transformer.final_attn_token_to_image)
    queries_btc = queries_btc + _attend(final, query_btc, keys_bmc + key_position_1mc, keys_bmc)
    return transformer.norm_final_attn(queries_btc), keys_bmc


def _block(
    block: TwoWayAttentionBlock,
    queries_btc: Tensor,
    keys_bmc: Tensor,
    query_position_btc: Tensor,
    key_position_1mc: Tensor,
    guidance_b11m: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if block.skip_first_layer_pe:
        queries_btc = _attend(block.self_attn, queries_btc, queries_btc, queries_btc)
    else:
        query_btc = queries_btc + query_position_btc
        queries_btc = queries_btc + _attend(block.self_attn, query_btc, query_btc, queries_btc)
    queries_btc = block.norm1(queries_btc)

    positioned_keys_bmc = keys_bmc + key_position_1mc
    attended_btc = _attend(
        block.cross_attn_token_to_image, queries_btc + query_position_btc, positioned_keys_bmc, keys_bmc, guidance_b11m
    )
    queries_btc = block.norm2(queries_btc + attended_btc)
    queries_btc = block.norm3(queries_btc + block.mlp(queries_btc))

    attended_bmc = _attend(
        block.cross_attn_image_to_token, positioned_keys_bmc, queries_btc + query_position_btc, queries_btc
    )
    return queries_btc, block.norm4(keys_bmc + attended_bmc)


def _attend(
    attention: Attention, query: Tensor, key: Tensor, value: Tensor, guidance_b11m: Tensor | None = None
) -> Tensor:
    """Multi-head attention; with guidance, the map is added to the weights and the softmax applied AGAIN (eq. 4)."""
    heads = attention.num_heads
    q, k, v = (
        projection(x).unflatten(-1, (heads, -1)).transpose(1, 2)
        for projection, x in ((attention.q_proj, query), (attention.k_proj, key), (attention.v_proj, value))
    )
    # Not scaled_dot_product_attention: with 7 tokens there is little to gain, and its CPU kernel is 1e-3 off on logits.
    weights = torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1)
    if guidance_b11m is not None:
        weights = torch.softmax(weights + guidance_b11m, dim=-1)
    return cast(Tensor, attention.out_proj((weights @ v).transpose(1, 2).flatten(2)))
