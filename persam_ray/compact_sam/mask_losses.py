"""Losses of masks: focal (Lin et al. 2017, arXiv:1708.02002) and dice, as the Segment Anything Model mixes them.

Suffixes: n photos or target masks, m masks of each, h w rows and columns.
"""

from torch import Tensor
from torch.nn import functional as F

FOCAL_WEIGHT = 20.0  # against 1 of the dice loss, as in the paper
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # of the focal loss's own paper (Lin et al. 2017), which SAM keeps


def focal_loss(logits_nmhw: Tensor, truth_nmhw: Tensor) -> Tensor:
    """Return the focal loss (n, m), the mean over cells."""
    entropy = F.binary_cross_entropy_with_logits(logits_nmhw, truth_nmhw, reduction="none")
    missed = (logits_nmhw.sigmoid() - truth_nmhw).abs()
    alpha = FOCAL_ALPHA * truth_nmhw + (1 - FOCAL_ALPHA) * (1 - truth_nmhw)
    return (alpha * missed**FOCAL_GAMMA * entropy).mean(dim=(2, 3))


def dice_loss(logits_nmhw: Tensor, truth_nmhw: Tensor) -> Tensor:
    """Return the dice loss (n, m); the 1 above and below, as everywhere, keeps it defined on empty masks."""
    probability = logits_nmhw.sigmoid()
    both = (probability * truth_nmhw).sum(dim=(2, 3))
    return 1 - (2 * both + 1) / (probability.sum(dim=(2, 3)) + truth_nmhw.sum(dim=(2, 3)) + 1)
