"""The values that flow through the method: frozen, and checked when built.

Masks and boxes are in the frame of the original image (after EXIF rotation) unless a name says "model".

A suffix names the axes of an array, one letter each, with the same meaning in the whole package:

    b  images of a batch                     h w  rows and columns
    n  prompts: an image with a target       m    cells of the feature grid, row by row
    t  targets                               i    pixels, row by row
    k  mask candidates of a prompt           c    channels
    p  points of a prompt                    d    channels of one attention head
    l  tokens                                a    attention heads

A digit is an axis of that length: `image_hw3`, `box_n4`. The n prompts of b images with t targets lie image by image.
A module that needs other letters, or that stands apart from SAM, explains them at its top.
"""

from __future__ import annotations  # torch loads in two seconds: workers that only read or write photos do without

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from persam_ray.errors import BadReferenceError

if TYPE_CHECKING:
    import torch

BoolArray = npt.NDArray[np.bool_]
ByteArray = npt.NDArray[np.uint8]
Tensors = Mapping[str, npt.NDArray[np.generic]]

Objects = Literal["mask", "component"]
"""What an object is: a whole mask, or each connected part of it."""

Format = Literal["auto", "parquet", "folder", "webdataset", "coco", "deepfashion"]
"""How the files of a dataset are laid out; `auto` looks at their names."""

Guidance = Literal["aligned", "official"]
"""Where PerSAM's attention map lies on photos that are not square: on the cells it speaks of, or as published."""


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


@dataclass(frozen=True, eq=False)
class Reference:
    """One photo and the mask that shows the category in it.

    Attributes:
        category: What the mask shows; not empty.
        image_hw3: RGB, uint8.
        mask_hw: bool, True on the object, of the image's size and with at least one pixel.
    """

    category: str
    image_hw3: ByteArray
    mask_hw: BoolArray

    def __post_init__(self) -> None:
        image, mask = self.image_hw3, self.mask_hw
        if not isinstance(self.category, str) or not self.category:
            raise BadReferenceError(f"the category of a reference must be a name, but is {self.category!r}")
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
    """What a method has learned from the references of one category; made once, shared by all workers.

    Each method has its own kind, with fields of its own.

    Attributes:
        category: The category's name.
    """

    category: str

    def to(self, device: torch.device | str) -> Self:
        """Return the target with its tensors on a device."""
        import torch

        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: one.to(device) for name, one in values.items() if isinstance(one, torch.Tensor)}
        return type(self)(**(values | moved))

    @classmethod
    def all_of(cls, targets: Sequence[Target]) -> list[Self]:
        """Return the targets, having checked that they are of this kind.

        Raises:
            TypeError: Another method has made one of them.
        """
        own = [target for target in targets if isinstance(target, cls)]
        if len(own) < len(targets):
            kinds = sorted({type(target).__name__ for target in targets})
            raise TypeError(f"targets must be {cls.__name__}, but got {', '.join(kinds)}")
        return own


@dataclass(frozen=True)
class Points:
    """The points of each prompt.

    Attributes:
        xy_np2: x and y in pixels of the model frame (the resized image, before padding), float32.
        labels_np: 1 for a point on the object, 0 for one off it.
    """

    xy_np2: torch.Tensor
    labels_np: torch.Tensor

    def __post_init__(self) -> None:
        if self.xy_np2.ndim != 3 or self.xy_np2.shape[2] != 2 or self.xy_np2.shape[:2] != self.labels_np.shape:
            raise ValueError(
                f"points must have shapes (n, p, 2) and (n, p), but got {tuple(self.xy_np2.shape)} and "
                f"{tuple(self.labels_np.shape)}"
            )


@dataclass(frozen=True)
class MaskCandidates:
    """What one decoder call returns.

    Attributes:
        logits_nkhw: Low-resolution mask logits over the padded model frame; a mask is where they exceed 0.
        iou_scores_nk: SAM's own prediction of each candidate's IoU.
    """

    logits_nkhw: torch.Tensor
    iou_scores_nk: torch.Tensor

    def best(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (n, h, w) and predicted IoU (n) of the candidate that SAM trusts most."""
        best_n1 = self.iou_scores_nk.argmax(dim=1, keepdim=True)
        best_n1hw = best_n1[..., None, None].expand(-1, -1, *self.logits_nkhw.shape[2:])
        return self.logits_nkhw.gather(1, best_n1hw)[:, 0], self.iou_scores_nk.gather(1, best_n1)[:, 0]


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
class EncodedPhotos:
    """A batch of photos as SAM's encoder has seen them.

    Attributes:
        features_bchw: float32, over the padded model frame.
        frames: Where each photo lies in the model frame.
    """

    features_bchw: torch.Tensor
    frames: Sequence[Frame]


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
    """Limits on which of a detector's instances are kept.

    Attributes:
        score: Only instances whose class probability is above it, in [0, 1).
        per_image: Only so many, by score. Each carries a mask of the photo's size: 12 MB for 12 megapixels.
    """

    score: float = 0.05
    per_image: int = 100
