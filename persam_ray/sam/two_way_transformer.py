"""The two-way transformer of SAM's mask decoder: tokens and image attend to each other in two blocks.

The modules and weights are `segment_anything`'s, and so are the names: `queries` are the tokens, `keys` the cells of
the image, `query_pe` and `key_pe` their positional encodings. Attention that touches the image is passed in, because
that is where the time goes: `OfficialAttention` computes it as the package does, `FoldedAttention` faster.

Two things are PerSAM's (arXiv:2305.03048, 3.2): the blocks' token-to-image attention may be guided, and a target's
embedding may be added to the queries. Without them the numbers are the package's.
"""

from typing import Protocol, cast

from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor


class ImageAttention(Protocol):
    """How tokens attend to the image, and the image to tokens, with the weights of one of the package's layers."""

    def token_to_image(
        self, layer: Attention, q_nlc: Tensor, k_nmc: Tensor, v_nmc: Tensor, guidance_nm: Tensor | None
    ) -> Tensor:
        """Return what each token takes from the image (n, l, c).

        With guidance, the map is added to the attention weights and the softmax applied AGAIN (eq. 4 of PerSAM, as
        officially done).
        """
        ...

    def image_to_token(self, layer: Attention, q_nmc: Tensor, k_nlc: Tensor, v_nlc: Tensor, keys_nmc: Tensor) -> Tensor:
        """Return the keys (n, m, c) with what each takes from the tokens added."""
        ...


def transform(
    transformer: TwoWayTransformer,
    attention: ImageAttention,
    tokens_nlc: Tensor,
    keys_nmc: Tensor,
    key_pe_1mc: Tensor,
    *,
    guidance_nm: Tensor | None,
    embedding_nc: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return queries and keys after all blocks and the final attention.

    Args:
        transformer: The package's module.
        attention: Between tokens and image.
        tokens_nlc: The decoder's output tokens, then those of the prompt.
        keys_nmc: The image embedding, with the dense (mask) prompt already added.
        key_pe_1mc: Positional encoding of the image.
        guidance_nm: Target-guided attention, in [0, 1].
        embedding_nc: Target-semantic prompt.
    """
    embedding_n1c = 0.0 if embedding_nc is None else embedding_nc[:, None]
    # The official code adds the embedding in place before the first block, and the tensor is also the queries'
    # positional encoding: so it carries the embedding through all blocks.
    query_pe_nlc = queries_nlc = tokens_nlc + embedding_n1c
    for index, block in enumerate(transformer.layers):
        if index > 0:
            queries_nlc = queries_nlc + embedding_n1c
        queries_nlc, keys_nmc = _block(block, attention, queries_nlc, keys_nmc, query_pe_nlc, key_pe_1mc, guidance_nm)
    final = cast(Attention, transformer.final_attn_token_to_image)
    q_nlc = queries_nlc + query_pe_nlc + embedding_n1c
    queries_nlc = queries_nlc + attention.token_to_image(final, q_nlc, keys_nmc + key_pe_1mc, keys_nmc, None)
    return transformer.norm_final_attn(queries_nlc), keys_nmc


def _block(
    block: TwoWayAttentionBlock,
    attention: ImageAttention,
    queries_nlc: Tensor,
    keys_nmc: Tensor,
    query_pe_nlc: Tensor,
    key_pe_1mc: Tensor,
    guidance_nm: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return queries and keys after one block."""
    if block.skip_first_layer_pe:
        queries_nlc = block.self_attn(q=queries_nlc, k=queries_nlc, v=queries_nlc)
    else:
        q_nlc = queries_nlc + query_pe_nlc
        queries_nlc = queries_nlc + block.self_attn(q=q_nlc, k=q_nlc, v=queries_nlc)
    queries_nlc = block.norm1(queries_nlc)

    k_nmc = keys_nmc + key_pe_1mc
    q_nlc = queries_nlc + query_pe_nlc
    attended_nlc = attention.token_to_image(block.cross_attn_token_to_image, q_nlc, k_nmc, keys_nmc, guidance_nm)
    queries_nlc = block.norm2(queries_nlc + attended_nlc)
    queries_nlc = block.norm3(queries_nlc + block.mlp(queries_nlc))

    q_nlc = queries_nlc + query_pe_nlc  # queries and keys swap roles: the image asks
    keys_nmc = attention.image_to_token(block.cross_attn_image_to_token, k_nmc, q_nlc, queries_nlc, keys_nmc)
    return queries_nlc, block.norm4(keys_nmc)
