"""PerSAM: segment a category that one photo and mask have shown, without training (arXiv:2305.03048, section 3.2).

One function per step of the paper, in its order; the arithmetic is the official implementation's, batched over images.
Features of a batch come in (b x 256 x 64 x 64), one mask and its scores per image and target go out; where a step
leaves a mask empty, the image has no instance of that target. All targets of all images are decoded together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from persam_ray.methods.answers import PendingInstances, PendingMasks
from persam_ray.methods.references import EncodedReference, target_features
from persam_ray.sam.model import LOGITS_PER_CELL, Sam
from persam_ray.types import EncodedPhotos, Frame, Guidance, MaskCandidates, Points, Target

# --- 1. the target ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureTarget(Target):
    """A category as one feature.

    Attributes:
        feature_c: Unit-norm feature that similarity maps are made with.
    """

    feature_c: Tensor

    def __post_init__(self) -> None:
        if self.feature_c.ndim != 1:
            raise ValueError(f"a target's feature must be a vector, but got {tuple(self.feature_c.shape)}")


@dataclass(frozen=True)
class PersamTarget(FeatureTarget):
    """A category as PerSAM knows it.

    Attributes:
        embedding_c: Mean feature of the target cells, not normalised: the semantic prompt.
    """

    embedding_c: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feature_c.shape != self.embedding_c.shape:
            raise ValueError(
                f"target features must be vectors of one length, but got {tuple(self.feature_c.shape)} and "
                f"{tuple(self.embedding_c.shape)}"
            )


def make_target(sam: Sam, references: Sequence[EncodedReference]) -> PersamTarget:
    """Describe a category by the cells of all its references, pooled: their mean, and that mean at unit norm."""
    cells_mc = torch.cat([target_features(sam, encoded) for encoded in references])
    embedding_c = cells_mc.mean(dim=0)
    return PersamTarget(references[0].reference.category, F.normalize(embedding_c, dim=0), embedding_c)


# --- 2. the location prior -------------------------------------------------------------------------------------------


@torch.inference_mode()
def similarity_map(features_bchw: Tensor, targets: Sequence[FeatureTarget]) -> Tensor:
    """Return the cosine of each target's feature with every cell (n, h, w), in [-1, 1]."""
    unit_bchw = features_bchw / features_bchw.norm(dim=1, keepdim=True)
    feature_tc = torch.stack([target.feature_c for target in targets])
    similarity_nhw: Tensor = (feature_tc @ unit_bchw.flatten(2)).view(-1, *unit_bchw.shape[2:])
    return similarity_nhw


@torch.inference_mode()
def similarity_on_image(sam: Sam, similarity_hw: Tensor, frame: Frame) -> Tensor:
    """Upsample one image's map to its own pixels (H, W): four times to the masks' resolution, then as a mask."""
    low_11hw = F.interpolate(similarity_hw[None, None], scale_factor=LOGITS_PER_CELL, mode="bilinear")
    return sam.to_original(low_11hw[0], frame)[0]


def similarities_on_images(
    sam: Sam, features_bchw: Tensor, frames: Sequence[Frame], targets: Sequence[FeatureTarget]
) -> Iterator[tuple[Tensor, Tensor, Frame]]:
    """Yield each prompt's map over the feature grid (h, w), over its image's own pixels (H, W), and its frame.

    One at a time: over a photo of 12 megapixels a single map takes 48 MB.

    Args:
        sam: The model.
        features_bchw: The images' features.
        frames: Where the image of each prompt lies in the model frame.
        targets: The same for every image.
    """
    for grid_hw, frame in zip(similarity_map(features_bchw, targets), frames, strict=True):
        yield grid_hw, similarity_on_image(sam, grid_hw, frame), frame


# --- 3. the points ---------------------------------------------------------------------------------------------------


def select_points(similarities: Sequence[Tensor], frames: Sequence[Frame], *, negative: bool) -> Points:
    """Choose the pixel most like the target (label 1) and, if asked, the one least like it (label 0).

    Args:
        similarities: Each image's map over its own pixels (H, W); of equal pixels the first in row-major order.
        frames: Where the images lie in the model frame.
        negative: False gives the positive point alone (PerSAM-F).

    Returns:
        One or two points for each image, in the model frame.
    """
    chosen = [torch.stack([hw.argmax(), hw.argmin()] if negative else [hw.argmax()]) for hw in similarities]
    xy_np2 = torch.stack([_to_model_xy(flat_p, frame) for flat_p, frame in zip(chosen, frames, strict=True)])
    labels_np = torch.ones_like(xy_np2[..., 0])
    labels_np[:, 1:].fill_(0)  # assigned, torch 2.14.1 would make the number on the host first
    return Points(xy_np2, labels_np)


def _to_model_xy(flat_p: Tensor, frame: Frame) -> Tensor:
    """Return the x and y (p, 2) of pixels counted row by row."""
    width = frame.original_hw[1]
    scale_y, scale_x = _scale_yx(frame)
    return torch.stack([(flat_p % width).double() * scale_x, (flat_p // width).double() * scale_y], dim=1).float()


def _scale_yx(frame: Frame) -> tuple[float, float]:
    return frame.resized_hw[0] / frame.original_hw[0], frame.resized_hw[1] / frame.original_hw[1]


# --- 4. target-guided attention --------------------------------------------------------------------------------------


@torch.inference_mode()
def attention_guidance(
    sam: Sam, similarity_nhw: Tensor, similarities: Sequence[Tensor], frames: Sequence[Frame], guidance: Guidance
) -> Tensor:
    """Turn similarity into a map in [0, 1] over the feature grid (n, h, w): z-score, resize, sigmoid.

    Args:
        sam: The model, for its grid.
        similarity_nhw: The maps over the feature grid, which covers the padded square.
        similarities: The same over each image's own pixels (H, W).
        frames: Where the images lie in the model frame.
        guidance: `official` squashes the image's map onto the whole grid, as published: on photos that are not
            square it no longer lies on the cells it speaks of. `aligned` keeps every cell its own value, and 0 in the
            padding.
    """
    maps = []
    for grid_hw, image_hw, frame in zip(similarity_nhw, similarities, frames, strict=True):
        mean, std = image_hw.mean(), image_hw.std() if image_hw.numel() > 1 else image_hw.new_zeros(())
        std = torch.where(std > 0, std, 1.0)  # a constant map: no cell stands out
        if guidance == "official":
            z_hw = (image_hw - mean) / std
            z_hw = F.interpolate(z_hw[None, None], sam.grid_hw, mode="bilinear", align_corners=False)[0, 0]
            maps.append(z_hw.sigmoid())
        else:
            maps.append(((grid_hw - mean) / std).sigmoid() * _holds_image(sam, frame))
    return torch.stack(maps)


def _holds_image(sam: Sam, frame: Frame) -> Tensor:
    """Return 1 in the cells (h, w) that hold any of the image, 0 in the padding."""
    cell_px = sam.image_size_px / sam.grid_hw[0]
    inside_hw = torch.zeros(sam.grid_hw, device=sam.device)
    rows, columns = (int(np.ceil(side_px / cell_px)) for side_px in frame.resized_hw)
    inside_hw[:rows, :columns].fill_(1)
    return inside_hw


# --- 5. and 6. the decoder calls -------------------------------------------------------------------------------------


@torch.inference_mode()
def segment(
    sam: Sam,
    features_bchw: Tensor,
    frames: Sequence[Frame],
    targets: Sequence[PersamTarget],
    guidance: Guidance = "aligned",
) -> PendingMasks:
    """Segment targets in a batch of images: three decoder calls, for all targets on the features of all images.

    There is no GPU-to-CPU synchronisation between features and masks.

    Returns:
        For each image and each target its mask, or none where a step found nothing.
    """
    frames_n = repeat_frames(frames, len(targets))
    prior, guidance_nhw = locate(sam, features_bchw, frames_n, targets, guidance)
    embedding_tc = torch.stack([target.embedding_c for target in targets])
    first = sam.decode(
        features_bchw,
        prior.points,
        guidance_nhw=guidance_nhw,
        embedding_nc=embedding_tc.repeat(len(frames), 1),
        multimask=False,
    )
    refined = sam.decode(features_bchw, prior.points, mask_logits_nhw=first.logits_nkhw[:, 0], multimask=True)
    logits_nhw, _ = refined.best()
    masks = [sam.to_original(low[None], frame)[0] > 0 for low, frame in zip(logits_nhw, frames_n, strict=True)]
    return refine_in_box(sam, features_bchw, frames_n, prior, logits_nhw, masks, len(targets))


def repeat_frames(frames: Sequence[Frame], targets: int) -> list[Frame]:
    """Return the frame of each prompt: every image's as often as there are targets."""
    return [frame for frame in frames for _ in range(targets)]


@dataclass(frozen=True)
class Prior:
    """Where the targets may be.

    Attributes:
        points: The points of each prompt, the same in every step.
        peak_n: Each prompt's highest similarity.
    """

    points: Points
    peak_n: Tensor

    @classmethod
    def joined(cls, points: Sequence[Points], peaks: Sequence[Tensor]) -> Prior:
        """Join what was found for each prompt."""
        xy_np2, labels_np = (torch.cat([getattr(one, name) for one in points]) for name in ("xy_np2", "labels_np"))
        return cls(Points(xy_np2, labels_np), torch.stack(list(peaks)))


def locate(
    sam: Sam,
    features_bchw: Tensor,
    frames: Sequence[Frame],
    targets: Sequence[PersamTarget],
    guidance: Guidance,
) -> tuple[Prior, Tensor]:
    """Compare images with targets.

    Args:
        sam: The model.
        features_bchw: The images' features.
        frames: Where the image of each prompt lies in the model frame.
        targets: The same for every image.
        guidance: Which map of attention to make.

    Returns:
        A positive and a negative point for each prompt, and its target-guided attention (n, h, w).
    """
    points, peaks, maps = [], [], []
    for grid_hw, image_hw, frame in similarities_on_images(sam, features_bchw, frames, targets):
        points.append(select_points([image_hw], [frame], negative=True))
        peaks.append(image_hw.max())
        maps.append(attention_guidance(sam, grid_hw[None], [image_hw], [frame], guidance))
    return Prior.joined(points, peaks), torch.cat(maps)


def refine_in_box(
    sam: Sam,
    features_bchw: Tensor,
    frames: Sequence[Frame],
    prior: Prior,
    logits_nhw: Tensor,
    masks: Sequence[Tensor],
    targets: int,
) -> PendingMasks:
    """Take the last step of the cascade: prompt with the tight box of each mask as well, keep the best of three.

    Args:
        sam: The model.
        features_bchw: The images' features.
        frames: Where the image of each prompt lies in the model frame.
        prior: Whose points are prompts again.
        logits_nhw: The previous masks at low resolution.
        masks: The previous masks over each image's own pixels (H, W), bool.
        targets: Prompts of an image.

    Returns:
        For each prompt its mask, or none where the previous or the new one is empty.
    """
    final_nhw, iou_n = decode_in_box(sam, features_bchw, frames, prior.points, logits_nhw, masks).best()
    found = [
        (sam.to_original(low_hw[None], frame)[0] > 0) & previous_hw.any()
        for low_hw, frame, previous_hw in zip(final_nhw, frames, masks, strict=True)
    ]
    return PendingMasks(found, iou_n, prior.peak_n, targets)


def decode_in_box(
    sam: Sam,
    features_bchw: Tensor,
    frames: Sequence[Frame],
    points: Points,
    logits_nhw: Tensor,
    masks: Sequence[Tensor],
) -> MaskCandidates:
    """Decode three masks from points, the tight boxes of earlier masks and their logits.

    An empty mask gets a box of one pixel: its candidates mean nothing and are to be ignored. They are decoded all the
    same, for only the host could leave them out, and would have to wait.
    """
    box_n4 = torch.stack([_box_in_model_frame(mask_hw, frame) for mask_hw, frame in zip(masks, frames, strict=True)])
    return sam.decode(features_bchw, points, box_n4=box_n4, mask_logits_nhw=logits_nhw, multimask=True)


def _box_in_model_frame(mask_hw: Tensor, frame: Frame) -> Tensor:
    """Return x_min, y_min, x_max, y_max of the mask's pixels (inclusive, as officially), scaled to the model frame."""
    columns, rows = mask_hw.any(dim=0), mask_hw.any(dim=1)
    scale_y, scale_x = _scale_yx(frame)
    edges = (_first(columns) * scale_x, _first(rows) * scale_y, _last(columns) * scale_x, _last(rows) * scale_y)
    return torch.stack(edges).float() * columns.any()


def _first(line: Tensor) -> Tensor:
    """Return the index of the first True, float64."""
    return line.byte().argmax().double()


def _last(line: Tensor) -> Tensor:
    """Return the index of the last True, float64."""
    return len(line) - 1 - _first(line.flip(0))


# --- the method ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Persam:
    """PerSAM as a method (`registry.Method`).

    Attributes:
        guidance: Which map of attention guides the first decoder call.
    """

    guidance: Guidance = "aligned"
    fits: ClassVar[bool] = False

    def learn(self, sam: Sam, references: Sequence[EncodedReference]) -> PersamTarget:
        """Describe a category by its references."""
        return make_target(sam, references)

    def segment(self, sam: Sam, photos: EncodedPhotos, targets: Sequence[Target]) -> PendingInstances:
        """Segment targets in a batch of photos."""
        own = PersamTarget.all_of(targets)
        return PendingInstances(segment(sam, photos.features_bchw, photos.frames, own, self.guidance), own)
