"""The values that flow through the method: frozen, and checked when built.

Suffixes name the axes: b batch, h w rows and columns, c channels, k candidates, n points, p prompts.
Masks and boxes are in the frame of the original image (after EXIF rotation) unless a name says "model".
"""

from __future__ import annotations  # torch loads in two seconds: workers that only read or write photos do without

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from persam_ray.errors import BadReferenceError

if TYPE_CHECKING:
    import torch

BoolArray = npt.NDArray[np.bool_]
ByteArray = npt.NDArray[np.uint8]


Tensors = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        tensors: Name to array, as stored.
        metadata: The header's text fields (safetensors only).
        fingerprint: `sha256:...` of the file, for the manifest.
    """

    tensors: Tensors
    metadata: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""


def as_binary_mask(mask: npt.NDArray[np.generic]) -> BoolArray:
    """Read a mask of any dtype and value range (0/1, 0/255, bool, float) as True where it is not zero (NaN is).

    Args:
        mask: (h, w), or (h, w, channels) where any non-zero channel counts.

    Returns:
        (h, w) bool.
    """
    array = np.asarray(mask)
    if array.ndim not in {2, 3}:
        raise BadReferenceError(f"a mask must have shape (h, w) or (h, w, channels), but got {array.shape}")
    nonzero = (array > 0) | (array < 0)  # `!= 0` would take NaN for object
    return np.asarray(nonzero.any(axis=2) if nonzero.ndim == 3 else nonzero)


@dataclass(frozen=True)
class Reference:
    """One photo and the mask that shows the category in it.

    Attributes:
        category: What the mask shows.
        image_hw3: RGB, uint8.
        mask_hw: bool, True on the object, of the image's size and with at least one pixel.
    """

    category: str
    image_hw3: ByteArray
    mask_hw: BoolArray

    def __post_init__(self) -> None:
        image, mask = self.image_hw3, self.mask_hw
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise BadReferenceError(
                f"reference image of {self.category!r} must be uint8 of shape (h, w, 3), but got {image.dtype} "
                f"of shape {image.shape}"
            )
        if mask.dtype != np.bool_:
            raise BadReferenceError(f"reference mask of {self.category!r} must be bool, but got {mask.dtype}")
        if mask.shape != image.shape[:2]:
            raise BadReferenceError(
                f"reference mask of {self.category!r} is {mask.shape[1]} x {mask.shape[0]} pixels, but its photo is "
                f"{image.shape[1]} x {image.shape[0]}"
            )
        if not mask.any():
            raise BadReferenceError(f"reference mask of {self.category!r} is empty: no pixel differs from zero")


@dataclass(frozen=True)
class Target:
    """What the references of one category look like to SAM; made once, shared by all workers.

    Attributes:
        category: The category's name.
        feature_c: Unit-norm feature that similarity maps are made with.
        embedding_c: Mean feature of the target cells, not normalised: the semantic prompt of PerSAM.
        mask_weights_3: PerSAM-F's weights of the three mask scales, summing to 1; None for PerSAM.
    """

    category: str
    feature_c: torch.Tensor
    embedding_c: torch.Tensor
    mask_weights_3: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.feature_c.ndim != 1 or self.feature_c.shape != self.embedding_c.shape:
            raise ValueError(
                f"target features must be vectors of one length, but got {tuple(self.feature_c.shape)} and "
                f"{tuple(self.embedding_c.shape)}"
            )
        if self.mask_weights_3 is not None and self.mask_weights_3.shape != (3,):
            raise ValueError(f"mask weights must have shape (3,), but got {tuple(self.mask_weights_3.shape)}")


@dataclass(frozen=True)
class Points:
    """Point prompts of a batch of images.

    Attributes:
        xy_bn2: x and y in pixels of the model frame (the resized image, before padding), float32.
        labels_bn: 1 for a point on the object, 0 for one off it.
    """

    xy_bn2: torch.Tensor
    labels_bn: torch.Tensor

    def __post_init__(self) -> None:
        if self.xy_bn2.ndim != 3 or self.xy_bn2.shape[2] != 2 or self.xy_bn2.shape[:2] != self.labels_bn.shape:
            raise ValueError(
                f"points must have shapes (b, n, 2) and (b, n), but got {tuple(self.xy_bn2.shape)} and "
                f"{tuple(self.labels_bn.shape)}"
            )


@dataclass(frozen=True)
class MaskCandidates:
    """What one decoder call returns.

    Attributes:
        logits_bkhw: Low-resolution mask logits over the padded model frame; a mask is where they exceed 0.
        iou_scores_bk: SAM's own prediction of each candidate's IoU.
    """

    logits_bkhw: torch.Tensor
    iou_scores_bk: torch.Tensor

    def best(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (b, h, w) and predicted IoU (b) of the candidate that SAM trusts most."""
        best_b1 = self.iou_scores_bk.argmax(dim=1, keepdim=True)
        best_b1hw = best_b1[..., None, None].expand(-1, -1, *self.logits_bkhw.shape[2:])
        return self.logits_bkhw.gather(1, best_b1hw)[:, 0], self.iou_scores_bk.gather(1, best_b1)[:, 0]


@dataclass(frozen=True)
class Frame:
    """Where an image lies in the model's square input.

    Attributes:
        original_hw: (h, w) of the photo in pixels.
        resized_hw: (h, w) after the longest side became the model's image size; padding lies right and below.
    """

    original_hw: tuple[int, int]
    resized_hw: tuple[int, int]


@dataclass(frozen=True)
class Segmentation:
    """One instance.

    Attributes:
        category: What it is.
        mask_hw: bool over the original image, at least one pixel True.
        box_xyxy: x_min, y_min, x_max, y_max of the mask in pixels; the right and lower edges are exclusive.
        score: In [0, 1]; higher means more surely right, comparable across images.
        similarity: Highest cosine similarity to the target within the image; None for other methods.
        predicted_iou: SAM's own prediction of the mask's IoU; None for other methods.
    """

    category: str
    mask_hw: BoolArray
    box_xyxy: tuple[float, float, float, float]
    score: float
    similarity: float | None = None
    predicted_iou: float | None = None

    def __post_init__(self) -> None:
        if self.mask_hw.ndim != 2 or self.mask_hw.dtype != np.bool_:
            raise ValueError(
                f"an instance mask must be a 2D bool array, but got {self.mask_hw.dtype} of shape {self.mask_hw.shape}"
            )


@dataclass(frozen=True)
class DetectionLimits:
    """What of all that a detector finds in a photo is kept.

    Attributes:
        score: Only instances whose class probability is above it, in [0, 1).
        per_image: Only so many, by score. Each carries a mask of the photo's size: 12 MB for 12 megapixels.
    """

    score: float = 0.05
    per_image: int = 100


Objects = Literal["mask", "component"]
