"""References as methods learn from them: encoded, and which cells of the feature grid lie on the target."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from persam_ray.images import resize_longest_side
from persam_ray.sam.model import Sam
from persam_ray.types import BoolArray, Reference


@dataclass(frozen=True)
class EncodedReference:
    """A reference, and what SAM's encoder makes of its photo.

    Attributes:
        reference: The photo and its mask.
        features_1chw: Features of the whole photo, over the padded model frame.
    """

    reference: Reference
    features_1chw: Tensor


class ReferenceEncoder:
    """Encodes reference photos: once each, though several references, of several categories, may show the same photo.

    Args:
        sam: The model.
        references: Every reference that will be requested, each once; features are freed after a photo's last one.
    """

    def __init__(self, sam: Sam, references: Iterable[Reference]) -> None:
        self._sam = sam
        self._left = Counter(_photo_digest(reference) for reference in references)
        self._kept: dict[bytes, Tensor] = {}

    def __call__(self, reference: Reference) -> EncodedReference:
        """Encode a reference, or find it encoded."""
        photo = _photo_digest(reference)
        features_1chw = self._kept.pop(photo, None)
        if features_1chw is None:
            features_1chw = self._sam.encode([resize_longest_side(reference.image_hw3, self._sam.image_size_px)])
        self._left[photo] -= 1
        if self._left[photo] > 0:
            self._kept[photo] = features_1chw
        return EncodedReference(reference, features_1chw)


def encode_references(sam: Sam, references: Sequence[Reference]) -> list[EncodedReference]:
    """Encode some references, each photo once."""
    return list(map(ReferenceEncoder(sam, references), references))


def _photo_digest(reference: Reference) -> bytes:
    """Tell photos apart by content: each reference has read its own."""
    shape = np.array(reference.image_hw3.shape, dtype=np.int64)
    return hashlib.sha256(shape.tobytes() + reference.image_hw3.tobytes()).digest()


@torch.inference_mode()
def target_features(sam: Sam, encoded: EncodedReference) -> Tensor:
    """Return the features (m, c) of the cells on a reference's target."""
    cells_hw = target_cells(sam, encoded.reference.mask_hw).to(sam.device)
    return encoded.features_1chw[0].permute(1, 2, 0)[cells_hw]


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
