"""SAM's mask decoder with target-guided attention and target-semantic prompting (PerSAM, arXiv:2305.03048, 3.2).

The forward pass is ours, the modules and weights are `segment_anything`'s. Two things differ from its own pass: one
call serves a batch of images with one prompt each (the package takes one image with a batch of prompts), and the two
blocks' token-to-image cross-attention may be guided. Without guidance and embedding the numbers are the package's.
"""

from typing import cast

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor


def predict_masks(
    decoder: MaskDecoder,
    image_embedding_nchw: Tensor,
    image_pe_1chw: Tensor,
    prompt_tokens_nlc: Tensor,
    *,
    guidance_nhw: Tensor | None,
    embedding_nc: Tensor | None,
    multimask: bool,
) -> tuple[Tensor, Tensor]:
    """Decode masks for a batch of images with one prompt each.

    Args:
        decoder: The package's module.
        image_embedding_nchw: Image features with the dense (mask) prompt already added.
        image_pe_1chw: The dense positional encoding.
        prompt_tokens_nlc: Encoded points and boxes.
        guidance_nhw: Target-guided attention, in [0, 1], over the feature grid.
        embedding_nc: Target-semantic prompt.
        multimask: True for the three scales (tokens 1 to 3), False for the single mask (token 0).

    Returns:
        Mask logits (n, k, 4h, 4w) and predicted IoU (n, k).
    """
    logits_nkhw, iou_nk = predict_all_masks(
        decoder,
        image_embedding_nchw,
        image_pe_1chw,
        prompt_tokens_nlc,
        guidance_nhw=guidance_nhw,
        embedding_nc=embedding_nc,
    )
    kept = slice(1, None) if multimask else slice(0, 1)
    return logits_nkhw[:, kept], iou_nk[:, kept]


def predict_all_masks(
    decoder: MaskDecoder,
    image_embedding_nchw: Tensor,
    image_pe_1chw: Tensor,
    prompt_tokens_nlc: Tensor,
    *,
    guidance_nhw: Tensor | None = None,
    embedding_nc: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode the single mask and the three scales, in this order: `predict_masks`, which see, with nothing left out."""
    batch, channels, height, width = image_embedding_nchw.shape
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens_nlc = torch.cat([output_tokens.expand(batch, -1, -1), prompt_tokens_nlc], dim=1)
    queries_nlc, keys_nmc = _transform(
        decoder.transformer,
        tokens_nlc,
        image_embedding_nchw.flatten(2).transpose(1, 2),
        image_pe_1chw.flatten(2).transpose(1, 2),
        None if guidance_nhw is None else guidance_nhw.reshape(batch, 1, 1, height * width),
        None if embedding_nc is None else embedding_nc[:, None, :],
    )
    upscaled_nchw = decoder.output_upscaling(keys_nmc.transpose(1, 2).reshape(batch, channels, height, width))
    filters_nkc = torch.stack(
        [mlp(queries_nlc[:, 1 + k]) for k, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
    )
    logits_nkhw = (filters_nkc @ upscaled_nchw.flatten(2)).unflatten(2, upscaled_nchw.shape[2:])
    return logits_nkhw, decoder.iou_prediction_head(queries_nlc[:, 0])


def _transform(
    transformer: TwoWayTransformer,
    tokens_nlc: Tensor,
    keys_nmc: Tensor,
    key_pe_1mc: Tensor,
    guidance_n11m: Tensor | None,
    embedding_n1c: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if embedding_n1c is not None:
        # The official code adds the embedding in place before the first block, and the tensor is also the
        # queries' positional encoding: so it carries the embedding through all blocks.
        tokens_nlc = tokens_nlc + embedding_n1c
    queries_nlc = tokens_nlc
    for index, block in enumerate(transformer.layers):
        if embedding_n1c is not None and index > 0:
            queries_nlc = queries_nlc + embedding_n1c
        queries_nlc, keys_nmc = _block(block, queries_nlc, keys_nmc, tokens_nlc, key_pe_1mc, guidance_n11m)

    q_nlc = queries_nlc + tokens_nlc
    if embedding_n1c is not None:
        q_nlc = q_nlc + embedding_n1c
    final = cast(Attention, transformer.final_attn_token_to_image)
    queries_nlc = queries_nlc + _attend(final, q_nlc, keys_nmc + key_pe_1mc, keys_nmc)
    return transformer.norm_final_attn(queries_nlc), keys_nmc


def _block(
    block: TwoWayAttentionBlock,
    queries_nlc: Tensor,
    keys_nmc: Tensor,
    query_pe_nlc: Tensor,
    key_pe_1mc: Tensor,
    guidance_n11m: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if block.skip_first_layer_pe:
        queries_nlc = _attend(block.self_attn, queries_nlc, queries_nlc, queries_nlc)
    else:
        q_nlc = queries_nlc + query_pe_nlc
        queries_nlc = queries_nlc + _attend(block.self_attn, q_nlc, q_nlc, queries_nlc)
    queries_nlc = block.norm1(queries_nlc)

    k_nmc = keys_nmc + key_pe_1mc
    attended_nlc = _attend(block.cross_attn_token_to_image, queries_nlc + query_pe_nlc, k_nmc, keys_nmc, guidance_n11m)
    queries_nlc = block.norm2(queries_nlc + attended_nlc)
    queries_nlc = block.norm3(queries_nlc + block.mlp(queries_nlc))

    attended_nmc = _attend(block.cross_attn_image_to_token, k_nmc, queries_nlc + query_pe_nlc, queries_nlc)
    return queries_nlc, block.norm4(keys_nmc + attended_nmc)


def _attend(
    attention: Attention, query: Tensor, key: Tensor, value: Tensor, guidance_n11m: Tensor | None = None
) -> Tensor:
    """Multi-head attention; with guidance, the map is added to the weights and the softmax applied AGAIN (eq. 4)."""
    heads = attention.num_heads
    q, k, v = (
        projection(x).unflatten(-1, (heads, -1)).transpose(1, 2)
        for projection, x in ((attention.q_proj, query), (attention.k_proj, key), (attention.v_proj, value))
    )
    # Not scaled_dot_product_attention: with 7 tokens there is little to gain, and its CPU kernel is 1e-3 off on logits.
    weights = torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1)
    if guidance_n11m is not None:
        weights = torch.softmax(weights + guidance_n11m, dim=-1)
    return cast(Tensor, attention.out_proj((weights @ v).transpose(1, 2).flatten(2)))
