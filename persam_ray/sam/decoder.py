"""SAM's mask decoder with target-guided attention and target-semantic prompting (PerSAM, arXiv:2305.03048, 3.2).

The forward pass is ours, the modules and weights are `segment_anything`'s. Two things differ from its own pass: one
call serves a batch of images with one prompt each (the package takes one image with a batch of prompts), and the two
blocks' token-to-image cross-attention may be guided. Without guidance and embedding the numbers are the package's.
"""

from typing import cast

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention
from torch import Tensor

from persam_ray.sam.two_way_transformer import transform


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
        image_embedding_nchw: The image of each prompt, with the dense (mask) prompt already added.
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
    """Decode the single mask and the three scales, in this order; the arguments are those of `predict_masks`."""
    queries_nlc, keys_nmc = transform(
        decoder.transformer,
        OfficialAttention(),
        with_output_tokens(decoder, prompt_tokens_nlc),
        image_embedding_nchw.flatten(2).transpose(1, 2),
        image_pe_1chw.flatten(2).transpose(1, 2),
        guidance_nm=None if guidance_nhw is None else guidance_nhw.flatten(1),
        embedding_nc=embedding_nc,
    )
    upscaled_nchw = decoder.output_upscaling(keys_nmc.transpose(1, 2).reshape(image_embedding_nchw.shape))
    filters_nkc = torch.stack(
        [mlp(queries_nlc[:, 1 + k]) for k, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
    )
    logits_nkhw = (filters_nkc @ upscaled_nchw.flatten(2)).unflatten(2, upscaled_nchw.shape[2:])
    return logits_nkhw, decoder.iou_prediction_head(queries_nlc[:, 0])


def with_output_tokens(decoder: MaskDecoder, prompt_tokens_nlc: Tensor) -> Tensor:
    """Return the decoder's tokens: the one that becomes the predicted IoU, those of the four masks, the prompt's."""
    output_lc = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    return torch.cat([output_lc.expand(len(prompt_tokens_nlc), -1, -1), prompt_tokens_nlc], dim=1)


class OfficialAttention:
    """Attention between tokens and image as `segment_anything` computes it, to the bit."""

    def token_to_image(
        self, layer: Attention, q_nlc: Tensor, k_nmc: Tensor, v_nmc: Tensor, guidance_nm: Tensor | None
    ) -> Tensor:
        """Return what each token takes from the image (n, l, c)."""
        return _attend(layer, q_nlc, k_nmc, v_nmc, guidance_nm)

    def image_to_token(self, layer: Attention, q_nmc: Tensor, k_nlc: Tensor, v_nlc: Tensor, keys_nmc: Tensor) -> Tensor:
        """Return the keys (n, m, c) with what each takes from the tokens added."""
        return keys_nmc + _attend(layer, q_nmc, k_nlc, v_nlc)


def _attend(layer: Attention, query: Tensor, key: Tensor, value: Tensor, guidance_nm: Tensor | None = None) -> Tensor:
    """Multi-head attention; with guidance, the map is added to the weights and the softmax applied AGAIN (eq. 4)."""
    q, k, v = (
        projection(x).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
        for projection, x in ((layer.q_proj, query), (layer.k_proj, key), (layer.v_proj, value))
    )
    # Not scaled_dot_product_attention: with 7 tokens there is little to gain, and its CPU kernel is 1e-3 off on logits.
    weights = torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1)
    if guidance_nm is not None:
        weights = torch.softmax(weights + guidance_nm[:, None, None], dim=-1)
    return cast(Tensor, layer.out_proj((weights @ v).transpose(1, 2).flatten(2)))
