"""Which prediction found which object in one image: COCO's rules, at every IoU threshold and area range.

The IoUs come from pycocotools; the matching is COCOeval's rule in numpy (tests hold the two equal).

Suffixes: a area range, t IoU threshold, d detection (prediction, by falling score), g ground truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from persam_ray.masks import rle_object
from persam_ray.metrics.instances import ImagePair, mask_areas
from persam_ray.metrics.summary import AREA_RANGES_PX, IOU_THRESHOLDS, FloatArray, IntArray
from persam_ray.types import BoolArray


@dataclass(frozen=True)
class TruePositive:
    """A prediction that found an object: positions in the ImagePair, their IoU in [0.5, 1], the score."""

    prediction: int
    truth: int
    iou: float
    score: float


@dataclass(frozen=True)
class FalsePositive:
    """A prediction that found none: its position in the ImagePair, its best IoU with any truth (0: none), the score."""

    prediction: int
    best_iou: float
    score: float


@dataclass(frozen=True)
class FalseNegative:
    """An object not found: its position in the ImagePair, its best IoU with any prediction of whatever score."""

    truth: int
    best_iou: float


@dataclass(frozen=True)
class ImageMatches:
    """What became of one category's instances in one image, at IoU 0.5 and the score threshold.

    Crowd regions, predictions matched to them, and predictions under the threshold are in none of the lists.

    Attributes:
        image_id: The image.
        category: The category; there is one ImageMatches for each that has an instance in the image.
        true_positives: By falling score.
        false_positives: By falling score.
        false_negatives: By position.
    """

    image_id: str
    category: str
    true_positives: tuple[TruePositive, ...]
    false_positives: tuple[FalsePositive, ...]
    false_negatives: tuple[FalseNegative, ...]


@dataclass(frozen=True)
class Matching:
    """One image and category, matched by COCO's rules at every IoU threshold and area range.

    Attributes:
        predictions_d: Positions in the ImagePair.
        truths_g: Positions in the ImagePair.
        scores_d: Falling.
        crowd_g: True where a truth is a crowd region.
        ious_dg: In [0, 1]; over a crowd region, the part of the prediction that lies in it.
        ignored_ag: Truths that do not count in an area range.
        match_atd: The truth (place in g) that a prediction took, -1 for none.
        ignored_atd: Predictions that do not count: matched to an ignored truth, or unmatched and outside the range.
    """

    predictions_d: IntArray
    truths_g: IntArray
    scores_d: FloatArray
    crowd_g: BoolArray
    ious_dg: FloatArray
    ignored_ag: BoolArray
    match_atd: IntArray
    ignored_atd: BoolArray


def match_category(pair: ImagePair, category: str) -> Matching:
    """Match the predictions of one category with the truth, in one image."""
    truths = [place for place, truth in enumerate(pair.truths) if truth.category == category]
    found = [place for place, prediction in enumerate(pair.predictions) if prediction.category == category]
    found.sort(key=lambda place: -pair.predictions[place].score)  # stable: of equal scores the earlier goes first
    truth_rles, found_rles = [pair.truths[g].rle for g in truths], [pair.predictions[d].rle for d in found]
    crowd_g = np.array([pair.truths[g].iscrowd for g in truths], dtype=np.bool_)
    own_areas_g = mask_areas(truth_rles, pair.size_hw).tolist()
    given_areas_g = [pair.truths[g].area for g in truths]
    areas_g = [own if given is None else given for own, given in zip(own_areas_g, given_areas_g, strict=True)]
    ious_dg = _ious(found_rles, truth_rles, crowd_g, pair.size_hw)
    ignored_ag = crowd_g | _outside(np.array(areas_g))
    match_atd = match_greedily(ious_dg, ignored_ag, crowd_g)
    ignored_or_none = np.concatenate([ignored_ag, np.zeros((len(ignored_ag), 1), dtype=np.bool_)], axis=1)  # -1: none
    took_ignored_atd = ignored_or_none[np.arange(len(ignored_ag))[:, None, None], match_atd]
    outside_a1d = _outside(mask_areas(found_rles, pair.size_hw))[:, None]
    return Matching(
        predictions_d=np.array(found, dtype=np.int64),
        truths_g=np.array(truths, dtype=np.int64),
        scores_d=np.array([pair.predictions[d].score for d in found], dtype=np.float64),
        crowd_g=crowd_g,
        ious_dg=ious_dg,
        ignored_ag=ignored_ag,
        match_atd=match_atd,
        ignored_atd=took_ignored_atd | ((match_atd < 0) & outside_a1d),
    )


def _outside(areas: FloatArray) -> BoolArray:
    """Return (a, n): which areas lie outside each area range."""
    low_a, high_a = AREA_RANGES_PX.T[:, :, None]
    return np.asarray((areas < low_a) | (areas > high_a))


def _ious(found: Sequence[str], truths: Sequence[str], crowd_g: BoolArray, size_hw: tuple[int, int]) -> FloatArray:
    if not found or not truths:
        return np.zeros((len(found), len(truths)))
    found_rles, truth_rles = ([rle_object(rle, size_hw) for rle in rles] for rles in (found, truths))
    return np.asarray(coco_mask.iou(found_rles, truth_rles, crowd_g), dtype=np.float64)


def match_greedily(ious_dg: FloatArray, ignored_ag: BoolArray, crowd_g: BoolArray) -> IntArray:
    """Give each prediction in turn the free truth of highest IoU, as COCOeval.evaluateImg does.

    A truth that counts goes before one that is ignored, of equal IoUs the later goes first, and a crowd region stays
    free. Predictions under the lowest threshold everywhere are passed over: most specks cost nothing.

    Returns:
        (a, t, d): the truth taken at each area range and IoU threshold, -1 for none.
    """
    least_t1 = IOU_THRESHOLDS[:, None]
    match_atd = np.full((len(ignored_ag), len(least_t1), len(ious_dg)), -1)
    free_atg = np.ones((*match_atd.shape[:2], len(crowd_g)), dtype=np.bool_)
    for d in np.flatnonzero((ious_dg >= least_t1[0]).any(axis=1)):
        open_atg = (free_atg | crowd_g) & (ious_dg[d] >= least_t1)
        counting_atg = open_atg & ~ignored_ag[:, None]
        open_atg = np.where(counting_atg.any(axis=2, keepdims=True), counting_atg, open_atg)
        from_last_at = np.argmax(np.where(open_atg, ious_dg[d], -1)[:, :, ::-1], axis=2)
        match_atd[:, :, d] = np.where(open_atg.any(axis=2), len(crowd_g) - 1 - from_last_at, -1)
        area, threshold = np.nonzero(match_atd[:, :, d] >= 0)
        free_atg[area, threshold, match_atd[area, threshold, d]] = False
    return match_atd


def image_matches(image_id: str, category: str, matching: Matching, score_threshold: float) -> ImageMatches:
    """Read the matches at the first area range (all) and IoU threshold (0.5)."""
    match_d = matching.match_atd[0, 0]
    judged_d = ~matching.ignored_atd[0, 0] & (matching.scores_d >= score_threshold)
    right, wrong = np.flatnonzero(judged_d & (match_d >= 0)), np.flatnonzero(judged_d & (match_d < 0))
    missed_g = ~matching.ignored_ag[0]
    missed_g[match_d[right]] = False
    predictions, truths = matching.predictions_d.tolist(), matching.truths_g.tolist()
    scores, ious = matching.scores_d.tolist(), matching.ious_dg
    best_d = ious[:, ~matching.crowd_g].max(axis=1, initial=0)
    best_g = ious.max(axis=0, initial=0)
    return ImageMatches(
        image_id,
        category,
        tuple(TruePositive(predictions[d], truths[match_d[d]], float(ious[d, match_d[d]]), scores[d]) for d in right),
        tuple(FalsePositive(predictions[d], float(best_d[d]), scores[d]) for d in wrong),
        tuple(FalseNegative(truths[g], float(best_g[g])) for g in np.flatnonzero(missed_g)),
    )
