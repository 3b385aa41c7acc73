"""PerSAM-F: PerSAM with two mask weights fitted on the reference in seconds (arXiv:2305.03048, section 3.3).

SAM offers a part, a sub-part and the whole; the fit learns how to mix these three scales. SAM is frozen and the prompt
fixed, so the three logits are decoded once, and each of the 1,000 steps only mixes them again.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from persam_ray.methods.answers import PendingMasks
from persam_ray.methods.mask_weights import ScaleMixingLoss, fit_mask_weights
from persam_ray.methods.persam import decode_in_box, locate, refine_in_box, repeat_frames
from persam_ray.methods.target import ReferenceEncoder, target_features
from persam_ray.sam.model import Sam
from persam_ray.types import Frame, Reference, Target


def make_target_f(sam: Sam, references: Sequence[Reference], encode: ReferenceEncoder | None = None) -> Target:
    """Describe a category by mean / 2 + max / 2 of the target cells, and fit the three mask weights.

    Args:
        sam: The model.
        references: Of one category: their target cells are pooled, and the fit's loss is the mean over them.
        encode: Shares encodings with other categories.
    """
    encode = encode or ReferenceEncoder(sam, references)
    encoded = [target_features(sam, reference, encode) for reference in references]
    cells_mc = torch.cat([cells for _, cells in encoded])
    blend_c = cells_mc.mean(dim=0) / 2 + cells_mc.amax(dim=0) / 2
    target = Target(references[0].category, F.normalize(blend_c, dim=0), cells_mc.mean(dim=0))
    losses = []
    for reference, (features_1chw, _) in zip(references, encoded, strict=True):
        frame = sam.frame((reference.mask_hw.shape[0], reference.mask_hw.shape[1]))
        points = locate(sam, features_1chw, [frame], [target], guidance=None).points
        scales = sam.decode(features_1chw, points, multimask=True)
        logits_khw = sam.to_original(scales.logits_nkhw[0], frame)
        losses.append(ScaleMixingLoss(logits_khw, torch.from_numpy(reference.mask_hw).to(sam.device)))
    return replace(target, mask_weights_3=fit_mask_weights(losses))


@torch.inference_mode()
def segment_f(sam: Sam, features_bchw: Tensor, frames: Sequence[Frame], targets: Sequence[Target]) -> PendingMasks:
    """Segment targets in a batch of images: the weighted scales from one point, then two steps of the cascade.

    Args:
        sam: The model.
        features_bchw: Of the images.
        frames: Where the images lie in the model frame.
        targets: With fitted `mask_weights_3`.

    Returns:
        For each image and each target its mask, or none where a step found nothing.
    """
    frames_n = repeat_frames(frames, len(targets))
    prior = locate(sam, features_bchw, frames_n, targets, guidance=None)
    scales = sam.decode(features_bchw, prior.points, multimask=True)
    fitted = [target.mask_weights_3 for target in targets if target.mask_weights_3 is not None]
    weights_nk11 = torch.stack(fitted).repeat(len(frames), 1)[..., None, None]
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
