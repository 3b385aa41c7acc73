"""Predicted instance masks against ground truth, image by image: matches, and a summary that can be merged.

A worker evaluates a shard of images (`evaluate_shard`); what goes to the driver is a ShardSummary without masks,
which `evaluation_merge` joins and turns into metrics. The IoUs come from pycocotools; the matching is COCOeval's rule
in numpy (tests hold the two equal), because COCOeval visits each pair of masks for each of 40 thresholds and area
ranges in Python: 0.2 s for an image of 100 detections and 300 specks of truth, and it never sees a 101st detection.

Suffixes: a area range, t IoU threshold, d detection (prediction, by falling score), g ground truth.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from pycocotools import mask as coco_mask

from persam_ray.evaluation_merge import (
    AREA_RANGES_PX,
    DETECTION,
    IOU_THRESHOLDS,
    TALLY,
    FloatArray,
    IntArray,
    Rows,
    ShardSummary,
)
from persam_ray.masks import boundary, check_rle, decode_rle, encode_components, rle_object
from persam_ray.types import BoolArray


@dataclass(frozen=True)
class TruthInstance:
    """One annotated object.

    Attributes:
        category: What it is.
        rle: COCO compressed counts string over the image's (h, w).
        area: In pixels, as annotated; it decides the area range. None takes the mask's own.
        iscrowd: True for a region of many objects, in which predictions count neither as right nor as wrong.
    """

    category: str
    rle: str
    area: float | None = None
    iscrowd: bool = False


@dataclass(frozen=True)
class PredictedInstance:
    """One predicted object.

    Attributes:
        category: What it is.
        rle: COCO compressed counts string over the image's (h, w).
        score: In [0, 1]; higher means more surely right.
    """

    category: str
    rle: str
    score: float


Instance = TypeVar("Instance", TruthInstance, PredictedInstance)


@dataclass(frozen=True)
class ImagePair:
    """The truth and the predictions of one image, checked: errors name the image and the instance.

    Attributes:
        image_id: Unique; its hash breaks ties between equal scores of different images.
        size_hw: (h, w) in pixels that all masks share.
        truths: Annotated objects of any category.
        predictions: Predicted objects of any category; of equal scores the earlier goes first.
    """

    image_id: str
    size_hw: tuple[int, int]
    truths: tuple[TruthInstance, ...]
    predictions: tuple[PredictedInstance, ...]

    def __post_init__(self) -> None:
        if min(self.size_hw) < 1:
            raise ValueError(f"image {self.image_id!r}: height and width must be at least 1, but got {self.size_hw}")
        for index, truth in enumerate(self.truths):
            self._check(truth, f"truth {index}")
        for index, prediction in enumerate(self.predictions):
            self._check(prediction, f"prediction {index}")

    def _check(self, instance: TruthInstance | PredictedInstance, name: str) -> None:
        try:
            check_rle(instance.rle, self.size_hw)
            _check_number(instance)
        except ValueError as error:
            raise ValueError(f"image {self.image_id!r}, {name} ({instance.category}): {error}") from error


def _check_number(instance: TruthInstance | PredictedInstance) -> None:
    if isinstance(instance, PredictedInstance):
        if not 0 <= instance.score <= 1:  # NaN is not
            raise ValueError(f"a score must be in [0, 1], but got {instance.score}")
    elif instance.area is not None and not 0 <= instance.area < math.inf:
        raise ValueError(f"an area must be a number of pixels, at least 0, but got {instance.area}")


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


# --- objects ---------------------------------------------------------------------------------------------------------


def split_components(instances: Sequence[Instance], size_hw: tuple[int, int]) -> list[Instance]:
    """Turn each instance into its 8-connected components; crowd regions stay as they are, empty masks vanish.

    Components keep category and score and come largest first, so that COCO's limit of 100 detections, which at equal
    scores goes by position, drops the smallest. A truth component's area is its pixel count.

    Raises:
        ValueError: A run-length string does not fit the size.
    """
    parts: list[Instance] = []
    for instance in instances:
        if isinstance(instance, PredictedInstance):
            parts += [replace(instance, rle=rle) for rle in encode_components(decode_rle(instance.rle, size_hw))]
        elif instance.iscrowd:
            parts.append(instance)
        else:
            components = encode_components(decode_rle(instance.rle, size_hw))
            parts += [replace(instance, rle=rle, area=None) for rle in components]
    return parts


def drop_small(
    instances: Sequence[PredictedInstance], size_hw: tuple[int, int], min_area_fraction: float
) -> list[PredictedInstance]:
    """Return the predictions whose mask covers at least a fraction, in [0, 1], of the image's pixels."""
    areas = _areas([instance.rle for instance in instances], size_hw)
    least_px = min_area_fraction * size_hw[0] * size_hw[1]
    return [instance for instance, area_px in zip(instances, areas, strict=True) if area_px >= least_px]


def _areas(rles: Sequence[str], size_hw: tuple[int, int]) -> FloatArray:
    # One at a time: pycocotools 2.0.11 with numpy 2 raises OverflowError for a list of more than 255.
    return np.array([coco_mask.area(rle_object(rle, size_hw)) for rle in rles], dtype=np.float64)


# --- matching --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Matching:
    """One image and category, matched by COCO's rules at every IoU threshold and area range.

    Attributes:
        predictions_d: Positions in the ImagePair.
        truths_g: Positions in the ImagePair.
        scores_d: Falling.
        crowd_g: Which truths are crowd regions.
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


def _match_category(pair: ImagePair, category: str) -> _Matching:
    truths = [place for place, truth in enumerate(pair.truths) if truth.category == category]
    found = [place for place, prediction in enumerate(pair.predictions) if prediction.category == category]
    found.sort(key=lambda place: -pair.predictions[place].score)  # stable: of equal scores the earlier goes first
    truth_rles, found_rles = [pair.truths[g].rle for g in truths], [pair.predictions[d].rle for d in found]
    crowd_g = np.array([pair.truths[g].iscrowd for g in truths], dtype=np.bool_)
    own_areas_g = _areas(truth_rles, pair.size_hw).tolist()
    given_areas_g = [pair.truths[g].area for g in truths]
    areas_g = [own if given is None else given for own, given in zip(own_areas_g, given_areas_g, strict=True)]
    ious_dg = _ious(found_rles, truth_rles, crowd_g, pair.size_hw)
    ignored_ag = crowd_g | _outside(np.array(areas_g))
    match_atd = match_greedily(ious_dg, ignored_ag, crowd_g)
    ignored_or_none = np.concatenate([ignored_ag, np.zeros((len(ignored_ag), 1), dtype=np.bool_)], axis=1)  # -1: none
    took_ignored_atd = ignored_or_none[np.arange(len(ignored_ag))[:, None, None], match_atd]
    outside_a1d = _outside(_areas(found_rles, pair.size_hw))[:, None]
    return _Matching(
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


# --- one shard -------------------------------------------------------------------------------------------------------


def evaluate_shard(
    pairs: Iterable[ImagePair], categories: Sequence[str], *, score_threshold: float
) -> tuple[ShardSummary, list[ImageMatches]]:
    """Evaluate a shard of images.

    Args:
        pairs: The images, each once; also those without instances, so that every image is counted.
        categories: What to evaluate; instances of other categories are not looked at.
        score_threshold: In [0, 1]; the matches, counts and regions take predictions of at least this score.

    Returns:
        The summary for `evaluation_merge.merge`, and the matches of each image and category for error analysis.

    Raises:
        ValueError: An image is in the shard twice, categories repeat, or the threshold is outside [0, 1].
    """
    if len(set(categories)) < len(categories) or not categories:
        raise ValueError(f"categories must be at least one, each named once, but got {list(categories)}")
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"the score threshold must be in [0, 1], but got {score_threshold}")
    keys: dict[str, int] = {}
    truths_ka = np.zeros((len(categories), len(AREA_RANGES_PX)), dtype=np.int64)
    detections, tallies, matches = [np.empty(0, DETECTION)], [np.empty(0, TALLY)], []
    for pair in pairs:
        if pair.image_id in keys:
            raise ValueError(f"image {pair.image_id!r} is in the shard twice")
        key = keys[pair.image_id] = image_key(pair.image_id)
        present = {truth.category for truth in pair.truths} | {found.category for found in pair.predictions}
        for k, category in enumerate(categories):
            if category not in present:
                continue
            matching = _match_category(pair, category)
            outcome = _image_matches(pair.image_id, category, matching, score_threshold)
            truths_ka[k] += np.count_nonzero(~matching.ignored_ag, axis=1)
            detections.append(_detection_rows(matching, key, k))
            tallies.append(_tally_row(pair, outcome, key, k, score_threshold))
            matches.append(outcome)
    images = np.array(list(keys.values()), dtype=np.uint64)
    rows = np.concatenate(detections), np.concatenate(tallies)
    return ShardSummary(tuple(categories), score_threshold, images, truths_ka, *rows), matches


def image_key(image_id: str) -> int:
    """Return a 64-bit hash of an image's name: the same on every machine, so that ties fall alike in all shards."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "big")


def _image_matches(image_id: str, category: str, matching: _Matching, score_threshold: float) -> ImageMatches:
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


def _detection_rows(matching: _Matching, key: int, k: int) -> Rows:
    rows = np.zeros(len(matching.scores_d), DETECTION)
    bits_t1 = 1 << np.arange(len(IOU_THRESHOLDS))[:, None]
    rows["image"], rows["category"], rows["score"] = key, k, matching.scores_d
    rows["matched"] = ((matching.match_atd >= 0) * bits_t1).sum(axis=1).T
    rows["ignored"] = (matching.ignored_atd * bits_t1).sum(axis=1).T
    rows["rank"] = np.minimum(np.arange(len(rows)), 255)
    return rows


def _tally_row(pair: ImagePair, outcome: ImageMatches, key: int, k: int, score_threshold: float) -> Rows:
    """Count the matches and the pixels of the instances' unions; those of crowd regions alone are not judged."""
    truths = [truth for truth in pair.truths if truth.category == outcome.category]
    truth_hw, crowd_hw = (
        _union_mask([truth.rle for truth in truths if truth.iscrowd == crowd], pair.size_hw) for crowd in (False, True)
    )
    found = [prediction for prediction in pair.predictions if prediction.category == outcome.category]
    found_hw = _union_mask(
        [prediction.rle for prediction in found if prediction.score >= score_threshold], pair.size_hw
    )
    found_hw &= truth_hw | ~crowd_hw
    row = np.zeros(1, TALLY)
    row["image"], row["category"] = key, k
    row["tp"], row["fp"] = len(outcome.true_positives), len(outcome.false_positives)
    row["fn"] = len(outcome.false_negatives)
    row["intersection"], row["union"] = _overlap(truth_hw, found_hw)
    row["truth_px"] = np.count_nonzero(truth_hw)
    row["boundary_iou"] = np.nan
    if truth_hw.any():
        common, either = _overlap(boundary(truth_hw), boundary(found_hw))
        row["boundary_iou"] = common / either
    return row


def _overlap(first_hw: BoolArray, second_hw: BoolArray) -> tuple[int, int]:
    """Return the pixels of intersection and union."""
    return int(np.count_nonzero(first_hw & second_hw)), int(np.count_nonzero(first_hw | second_hw))


def _union_mask(rles: Sequence[str], size_hw: tuple[int, int]) -> BoolArray:
    if not rles:
        return np.zeros(size_hw, dtype=np.bool_)
    merged = coco_mask.merge([rle_object(rle, size_hw) for rle in rles])
    return np.asarray(coco_mask.decode(merged), dtype=np.bool_)
