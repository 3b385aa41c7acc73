"""SAM's prompt encoder, with points embedded so that a GPU need not be waited for.

The package picks points by their labels with boolean masks, of which the host must know how many are True. Here each
point gets its label's vector; the numbers are the package's, to the bit.
"""

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor
from torch.nn import functional as F

from persam_ray.types import Points

NO_POINT = -1
"""Label of the point that the package adds where no box follows."""


def embed_prompts(
    encoder: PromptEncoder, points: Points, box_n4: Tensor | None, mask_logits_nhw: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the tokens of points and boxes (n, l, c), and what masks add to the image (n, c, h, w).

    Args:
        encoder: The package's module.
        points: Some points for each prompt.
        box_n4: x_min, y_min, x_max, y_max in pixels of the model frame.
        mask_logits_nhw: Low-resolution logits.
    """
    tokens_nlc = _embed_points(encoder, points, is_padded=box_n4 is None)
    if box_n4 is not None:
        tokens_nlc = torch.cat([tokens_nlc, encoder._embed_boxes(box_n4)], dim=1)
    if mask_logits_nhw is not None:
        return tokens_nlc, encoder._embed_masks(mask_logits_nhw[:, None])
    no_mask_1c11 = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    return tokens_nlc, no_mask_1c11.expand(len(tokens_nlc), -1, *encoder.image_embedding_size)


def _embed_points(encoder: PromptEncoder, points: Points, *, is_padded: bool) -> Tensor:
    """Embed points; where no box follows, the package adds one that is none."""
    xy_np2, labels_np = points.xy_np2 + 0.5, points.labels_np  # the centres of pixels
    if is_padded:  # before the product: of more rows it may round otherwise
        xy_np2, labels_np = F.pad(xy_np2, (0, 0, 0, 1)), F.pad(labels_np, (0, 1), value=NO_POINT)
    off_c, on_c = (encoder.point_embeddings[label].weight for label in (0, 1))
    places_npc: Tensor = encoder.pe_layer.forward_with_coords(xy_np2, encoder.input_image_size)
    labels_np1 = labels_np[..., None]
    points_npc = places_npc + torch.where(labels_np1 == 1, on_c, off_c)
    return torch.where(labels_np1 == NO_POINT, encoder.not_a_point_embed.weight, points_npc)
