"""A matching loss: it trains a compact SAM's features so that a thing can be found again in another photo.

PerSAM takes the mean feature of an object in one photo and looks for it in another, by cosine similarity. SAM's
features serve for that because its encoder had learned from many photos before it saw a mask. Here two views of a scene
are compared: the scene, and the scene with some objects left out and other clothes of other fabrics, each cropped,
mirrored and recoloured by itself. The mean feature of a thing in one view must be more similar to the
places on that thing in the other view than to other places; and a place must be more similar to its own thing than to
other things. Category names and other scenes play no part.

Suffixes: b photos, the two views of a scene side by side; h w cells of the features; p the same, flat; n things that
both views show; c channels.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Labels = npt.NDArray[np.int16]

VIEWS = 2
MATCH_WEIGHT = 1.0

TEMPERATURE = 0.1
"""Cosine similarities are divided by it before a softmax."""


def match_loss(features_bchw: Tensor, things_bhw: Sequence[Labels]) -> Tensor:
    """Return the matching loss, a scalar; 0 if no two views share two things.

    Args:
        features_bchw: The photos' features.
        things_bhw: Number of the thing at the middle of each feature cell, -1 on padding.

    Raises:
        ValueError: A photo has no other view.
    """
    if len(things_bhw) % VIEWS:
        raise ValueError(f"{len(things_bhw)} photos are not {VIEWS} views of each scene")
    terms = [
        term
        for first in range(0, len(things_bhw), VIEWS)
        for seen, sought in ((first, first + 1), (first + 1, first))
        for term in _terms(features_bchw[seen], things_bhw[seen], features_bchw[sought], things_bhw[sought])
    ]
    return MATCH_WEIGHT * torch.stack(terms).mean() if terms else features_bchw.new_zeros((), dtype=torch.float32)


def _terms(seen_chw: Tensor, seen_hw: Labels, sought_chw: Tensor, sought_hw: Labels) -> Iterator[Tensor]:
    """Yield two losses for things seen in one view and sought in the other: over places, and over things at a place."""
    things_n = np.intersect1d(seen_hw[seen_hw >= 0], sought_hw)
    if len(things_n) < 2:
        return
    seen_np, sought_np = (
        torch.tensor(things_hw.ravel() == things_n[:, None], device=seen_chw.device)
        for things_hw in (seen_hw, sought_hw)
    )
    targets_nc = F.normalize(_share(seen_np) @ seen_chw.flatten(1).T.float(), dim=1)
    similar_np = targets_nc @ F.normalize(sought_chw.flatten(1).float(), dim=0) / TEMPERATURE
    padding_p = torch.tensor(sought_hw.ravel() < 0, device=seen_chw.device)
    anywhere_n = similar_np.masked_fill(padding_p, -torch.inf).logsumexp(dim=1)
    yield (anywhere_n - similar_np.masked_fill(~sought_np, -torch.inf).logsumexp(dim=1)).mean()
    yield -(similar_np.log_softmax(dim=0) * _share(sought_np)).sum(dim=1).mean()


def _share(mask_np: Tensor) -> Tensor:
    """Return masks of cells as weights that sum to 1."""
    return mask_np / mask_np.sum(dim=1, keepdim=True)
