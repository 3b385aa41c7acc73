"""PerSAM-F: PerSAM with two mask weights fitted on the reference in seconds (arXiv:2305.03048, section 3.3).

SAM offers a part, a sub-part and the whole; the fit learns how to mix these three scales. SAM is frozen and the prompt
fixed, so the three logits are decoded once, and each of the 1,000 steps only mixes them again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from persam_ray.methods.answers import PendingInstances, PendingMasks
from persam_ray.methods.mask_weights import ScaleMixingLoss, fit_mask_weights
from persam_ray.methods.persam import (
    FeatureTarget,
    Prior,
    decode_in_box,
    refine_in_box,
    repeat_frames,
    select_points,
    similarities_on_images,
)
from persam_ray.methods.references import EncodedReference, target_features
from persam_ray.sam.model import Sam
from persam_ray.types import EncodedPhotos, Frame, Target


@dataclass(frozen=True)
class PersamFTarget(FeatureTarget):
    """A category as PerSAM-F knows it.

    Attributes:
        mask_weights_3: Fitted weights of the three mask scales, summing to 1.
    """

    mask_weights_3: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_weights_3.shape != (3,):
            raise ValueError(f"mask weights must have shape (3,), but got {tuple(self.mask_weights_3.shape)}")


def make_target_f(sam: Sam, references: Sequence[EncodedReference]) -> PersamFTarget:
    """Describe a category by mean / 2 + max / 2 of the target cells, and fit the three mask weights.

    The target cells of all references are pooled, and the fit's loss is the mean over the references.
    """
    cells_mc = torch.cat([target_features(sam, encoded) for encoded in references])
    blend_c = cells_mc.mean(dim=0) / 2 + cells_mc.amax(dim=0) / 2
    target = FeatureTarget(references[0].reference.category, F.normalize(blend_c, dim=0))
    losses = []
    for encoded in references:
        mask_hw = encoded.reference.mask_hw
        frame = sam.frame((mask_hw.shape[0], mask_hw.shape[1]))
        points = locate_f(sam, encoded.features_1chw, [frame], [target]).points
        scales = sam.decode(encoded.features_1chw, points, multimask=True)
        logits_khw = sam.to_original(scales.logits_nkhw[0], frame)
        losses.append(ScaleMixingLoss(logits_khw, torch.from_numpy(mask_hw).to(sam.device)))
    return PersamFTarget(target.category, target.feature_c, fit_mask_weights(losses))


def locate_f(sam: Sam, features_bchw: Tensor, frames: Sequence[Frame], targets: Sequence[FeatureTarget]) -> Prior:
    """Choose the pixel most like the target: one positive point for each prompt (arguments as for `persam.locate`)."""
    points, peaks = [], []
    for _, image_hw, frame in similarities_on_images(sam, features_bchw, frames, targets):
        points.append(select_points([image_hw], [frame], negative=False))
        peaks.append(image_hw.max())
    return Prior.joined(points, peaks)


@torch.inference_mode()
def segment_f(
    sam: Sam, features_bchw: Tensor, frames: Sequence[Frame], targets: Sequence[PersamFTarget]
) -> PendingMasks:
    """Segment targets in a batch of images: the weighted scales from one point, then two steps of the cascade.

    Args:
        sam: The model.
        features_bchw: The images' features.
        frames: Where the images lie in the model frame.
        targets: The same for every image.

    Returns:
        For each image and each target its mask, or none where a step found nothing.
    """
    frames_n = repeat_frames(frames, len(targets))
    prior = locate_f(sam, features_bchw, frames_n, targets)
    scales = sam.decode(features_bchw, prior.points, multimask=True)
    weights_tk = torch.stack([target.mask_weights_3 for target in targets])
    weights_nk11 = weights_tk.repeat(len(frames), 1)[..., None, None]
    mixed_nhw = (scales.logits_nkhw * weights_nk11).sum(dim=1)
    masks = [
        (sam.to_original(low_khw, frame) * weights_k11).sum(dim=0) > 0
        for low_khw, frame, weights_k11 in zip(scales.logits_nkhw, frames_n, weights_nk11, strict=True)
    ]
    logits_nhw, _ = decode_in_box(sam, features_bchw, frames_n, prior.points, mixed_nhw, masks).best()
    masks = [
        (sam.to_original(low[None], frame)[0] > 0) & earlier_hw.any()
        for low, frame, earlier_hw in zip(logits_nhw, frames_n, masks, strict=True)
    ]
    return refine_in_box(sam, features_bchw, frames_n, prior, logits_nhw, masks, len(targets))


class PersamF:
    """PerSAM-F as a method (`registry.Method`)."""

    fits: ClassVar[bool] = True

    def learn(self, sam: Sam, references: Sequence[EncodedReference]) -> PersamFTarget:
        """Fit the mask weights of a category on its references."""
        return make_target_f(sam, references)

    def segment(self, sam: Sam, photos: EncodedPhotos, targets: Sequence[Target]) -> PendingInstances:
        """Segment targets in a batch of photos."""
        own = PersamFTarget.all_of(targets)
        return PendingInstances(segment_f(sam, photos.features_bchw, photos.frames, own), own)
