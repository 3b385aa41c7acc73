"""Losses of a Segment Anything Model's answers (Kirillov et al. 2023, arXiv:2304.02643, appendix A).

Suffixes: n target masks, m candidates of a mask (the single mask, then three scales), h w rows and columns, in cells.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from persam_ray.compact_sam.mask_losses import FOCAL_WEIGHT, dice_loss, focal_loss
from persam_ray.compact_sam.samples import CELL_PX, random_pixels
from persam_ray.types import BoolArray


def candidate_losses(logits_nmhw: Tensor, iou_nm: Tensor, masks_nhw: Tensor, single_n: Tensor) -> dict[str, Tensor]:
    """Return the losses of one round, scalars.

    Only the best of the three scales learns its mask. The single mask (the first candidate) learns where `single_n` is
    True. All candidates learn to predict their real IoU.

    Args:
        logits_nmhw: Logits of each target's candidates.
        iou_nm: IoU that the model predicts for them.
        masks_nhw: The targets, 0 or 1.
        single_n: True where the prompt is more than one point, and thus unambiguous.
    """
    truth_nmhw = masks_nhw[:, None].expand_as(logits_nmhw)
    focal_nm = FOCAL_WEIGHT * focal_loss(logits_nmhw, truth_nmhw)
    dice_nm = dice_loss(logits_nmhw, truth_nmhw)
    best_n = (focal_nm + dice_nm)[:, 1:].argmin(dim=1) + 1
    learns_nm = F.one_hot(best_n, logits_nmhw.shape[1]).to(focal_nm)
    learns_nm[:, 0] = single_n.to(focal_nm)
    return {
        "focal": (focal_nm * learns_nm).sum() / learns_nm.sum(),
        "dice": (dice_nm * learns_nm).sum() / learns_nm.sum(),
        "iou": F.mse_loss(iou_nm, real_iou(logits_nmhw, truth_nmhw)),
    }


@torch.no_grad()
def real_iou(logits_nmhw: Tensor, truth_nmhw: Tensor) -> Tensor:
    """Return the IoU (n, m) of the masks, which are where logits exceed 0."""
    found, truth = logits_nmhw > 0, truth_nmhw > 0.5
    return (found & truth).sum(dim=(2, 3)) / (found | truth).sum(dim=(2, 3)).clamp(min=1).to(logits_nmhw)


def error_points(
    found_nhw: BoolArray, masks_nhw: BoolArray, random: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return a random wrong pixel (n, 2) of each answer and its label (n): 1 if missed, 0 if wrongly included.

    If nothing is wrong, the pixel is one of the object.
    """
    wrong_nhw = found_nhw ^ masks_nhw
    right_n = ~wrong_nhw.any(axis=(1, 2))
    wrong_nhw[right_n] = masks_nhw[right_n]
    xy_n2 = random_pixels(wrong_nhw, random)
    columns, rows = (xy_n2 // CELL_PX).astype(np.int64).T
    return xy_n2, masks_nhw[np.arange(len(masks_nhw)), rows, columns].astype(np.int64)
