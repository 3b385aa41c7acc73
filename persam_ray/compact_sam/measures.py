"""Measure a Segment Anything Model on scenes that it never saw: the figures of the model card.

The model is prompted twice for every object and group that covers enough of a scene: by one point, the pixel farthest
from the mask's border, and by its exact box. The best of three candidates counts, in the photo's own frame. Two
figures come out: the mean IoU of the targets, in which small ones weigh as much as large ones, and summed intersection
over summed union, as in PerSAM's evaluation.

Suffixes: k targets, p prompts (a point, a box), m candidates, h w rows and columns.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from persam_ray.demo.scenes import Scene
from persam_ray.images import resize_longest_side
from persam_ray.masks import tight_box
from persam_ray.sam.model import Sam
from persam_ray.types import BoolArray, Frame, Points

LEAST_SHARE = 0.002
"""Least part of the photo's pixels that a target covers: 430 of 560 x 384, a square of 21."""

TARGETS_AT_ONCE = 16  # decoded in one call: 16 x 32 x 32 x 256 features in float32 are 17 MB


@dataclass(frozen=True)
class Quality:
    """IoU of the best of three candidates.

    Attributes:
        by_point: From one point, the mean over targets.
        by_box: From the exact box, the mean over targets.
        summed_by_point: From one point, summed intersection over summed union.
        summed_by_box: From the exact box, likewise.
        targets: Number of target masks.
    """

    by_point: float
    by_box: float
    summed_by_point: float
    summed_by_box: float
    targets: int


def evaluate(sam: Sam, scenes: Iterable[Scene], least_share: float = LEAST_SHARE) -> Quality:
    """Measure a model; the scenes should be of seeds that it was not trained on.

    Args:
        sam: The model.
        scenes: Scenes to measure on.
        least_share: Least part of the photo's pixels that a target covers.

    Raises:
        ValueError: No scene has a target.
    """
    # intersection and union of each target and prompt
    overlaps_kp2 = np.concatenate([np.zeros((0, 2, 2)), *(_overlaps(sam, scene, least_share) for scene in scenes)])
    if not len(overlaps_kp2):
        raise ValueError(f"no object of the scenes covers {least_share:.1%} of its photo")
    by_point, by_box = (overlaps_kp2[..., 0] / overlaps_kp2[..., 1]).mean(axis=0).tolist()
    sums_p2 = overlaps_kp2.sum(axis=0)
    summed_by_point, summed_by_box = (sums_p2[:, 0] / sums_p2[:, 1]).tolist()
    return Quality(by_point, by_box, summed_by_point, summed_by_box, len(overlaps_kp2))


def targets(scene: Scene, least_share: float = LEAST_SHARE) -> list[BoolArray]:
    """Return the visible masks (h, w) of the objects and groups that are large enough, none twice.

    A group with one visible object has that object's mask, which is returned once.
    """
    least = least_share * scene.object_map_hw.size
    masks = {mask_hw.tobytes(): mask_hw for _, mask_hw in (*scene.objects, *scene.groups) if mask_hw.sum() >= least}
    return list(masks.values())


def central_pixel(mask_hw: BoolArray) -> tuple[int, int]:
    """Return x and y of the pixel farthest from the mask's border; the photo's edge is one."""
    distance_hw = cv2.distanceTransform(np.pad(mask_hw, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    y, x = divmod(int(distance_hw[1:-1, 1:-1].argmax()), mask_hw.shape[1])
    return x, y


def _overlaps(sam: Sam, scene: Scene, least_share: float) -> npt.NDArray[np.float64]:
    """Return intersection and union, in pixels, of each target and its best candidate: (k, p, 2)."""
    masks = targets(scene, least_share)
    features_1chw = sam.encode([resize_longest_side(scene.image_hw3, sam.image_size_px)])
    frame = sam.frame(scene.object_map_hw.shape)
    overlaps = [np.zeros((0, 2, 2))]
    for start in range(0, len(masks), TARGETS_AT_ONCE):
        some = masks[start : start + TARGETS_AT_ONCE]
        truth_khw = torch.tensor(np.array(some), device=sam.device)
        found = [_decoded(sam, features_1chw, some, frame, by_box=by_box) for by_box in (False, True)]
        by_prompt = [list(_best_overlaps(sam, logits_kmhw, truth_khw, frame)) for logits_kmhw in found]
        overlaps.append(np.array(by_prompt).swapaxes(0, 1))
    return np.concatenate(overlaps)


def _decoded(sam: Sam, features_1chw: Tensor, masks: list[BoolArray], frame: Frame, *, by_box: bool) -> Tensor:
    """Return the low-resolution logits (k, m, h, w) of the three candidates."""
    count = len(masks)
    scale_xy = np.array(frame.resized_hw[::-1]) / np.array(frame.original_hw[::-1])
    if by_box:
        boxes_k4 = np.array([tight_box(mask_hw) for mask_hw in masks]) * np.tile(scale_xy, 2)
        points = Points(torch.zeros(count, 0, 2, device=sam.device), torch.zeros(count, 0, device=sam.device))
        box_k4 = torch.tensor(boxes_k4, dtype=torch.float32, device=sam.device)
    else:
        xy_k2 = np.array([central_pixel(mask_hw) for mask_hw in masks]) * scale_xy
        xy_k12 = torch.tensor(xy_k2, dtype=torch.float32, device=sam.device)[:, None]
        points, box_k4 = Points(xy_k12, torch.ones(count, 1, device=sam.device)), None
    features_kchw = features_1chw.expand(count, -1, -1, -1)
    return sam.decode(features_kchw, points, box_n4=box_k4, multimask=True).logits_nkhw


def _best_overlaps(sam: Sam, logits_kmhw: Tensor, truth_khw: Tensor, frame: Frame) -> Iterator[tuple[float, float]]:
    for logits_mhw, truth_hw in zip(logits_kmhw, truth_khw, strict=True):
        found_mhw = sam.to_original(logits_mhw, frame) > 0
        both_m = (found_mhw & truth_hw).sum(dim=(1, 2))
        either_m = (found_mhw | truth_hw).sum(dim=(1, 2))
        best = int((both_m / either_m).argmax())
        yield both_m[best].item(), either_m[best].item()
