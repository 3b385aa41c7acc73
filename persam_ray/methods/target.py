"""TODO methods.target."""

import hashlib
from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from persam_ray.images import resize_longest_side
from persam_ray.sam.model import Sam
from persam_ray.types import BoolArray, Reference


class ReferenceEncoder:
    """Encodes reference photos: once each, though several references, of several categories, may show the same photo.

    Args:
        sam: The model.
        references: All that will be asked for, each once; features are let go of with a photo's last reference.
    """

    def __init__(self, sam: Sam, references: Iterable[Reference]) -> None:
        self._sam = sam
        self._left = Counter(_photo_digest(reference) for reference in references)
        self._kept: dict[bytes, Tensor] = {}

    def __call__(self, reference: Reference) -> Tensor:
        """Return the features (1, c, h, w) of a reference's photo."""
        photo = _photo_digest(reference)
        features_1chw = self._kept.pop(photo, None)
        if features_1chw is None:
            features_1chw = self._sam.encode([resize_longest_side(reference.image_hw3, self._sam.image_size_px)])
        self._left[photo] -= 1
        if self._left[photo] > 0:
            self._kept[photo] = features_1chw
        return features_1chw


def _photo_digest(reference: Reference) -> bytes:
    """Tell photos apart by content: each reference has read its own."""
    shape = np.array(reference.image_hw3.shape, dtype=np.int64)
    return hashlib.sha256(shape.tobytes() + reference.image_hw3.tobytes()).digest()


@torch.inference_mode()
def target_features(sam: Sam, reference: Reference, encode: ReferenceEncoder | None = None) -> tuple[Tensor, Tensor]:
    """Encode a reference.

    Args:
        sam: The model.
        reference: What to encode.
        encode: Shares encodings with other references.

    Returns:
        The features (1, c, h, w) of the whole photo and those of the cells on the target (cells, c).
    """
    features_1chw = (encode or ReferenceEncoder(sam, [reference]))(reference)
    cells_hw = target_cells(sam, reference.mask_hw).to(sam.device)
    return features_1chw, features_1chw[0].permute(1, 2, 0)[cells_hw]


def target_cells(sam: Sam, mask_hw: BoolArray) -> Tensor:
    """Return which cells of the feature grid (h, w) belong to the target.

    A cell belongs where more than 123.675 / 255 of it is covered: the official code sends the 0/255 mask through the
    pixel normalisation, resizes it bilinearly and asks for values above 0. A target too small to reach that in any
    cell gets the one cell that it covers most.
    """
    gray_hw3 = np.repeat(mask_hw[:, :, None].astype(np.uint8) * 255, 3, axis=2)
    normal_3hw = sam.normalize(resize_longest_side(gray_hw3, sam.image_size_px))
    cells_hw = F.interpolate(normal_3hw[None], sam.grid_hw, mode="bilinear", align_corners=False)[0, 0] > 0
    return cells_hw if cells_hw.any() else _most_covered_cell(sam, mask_hw)


def _most_covered_cell(sam: Sam, mask_hw: BoolArray) -> Tensor:
    rows_px, columns_px = np.nonzero(mask_hw)
    grid_w = sam.grid_hw[1]
    cell_px = max(mask_hw.shape) / grid_w
    cells = (rows_px / cell_px).astype(int) * grid_w + (columns_px / cell_px).astype(int)
    only_hw = torch.zeros(sam.grid_hw, dtype=torch.bool)
    only_hw.view(-1)[np.bincount(cells).argmax()] = True
    return only_hw
