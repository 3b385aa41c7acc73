"""Predicted instance masks against ground truth, image by image: matches, and a summary that can be merged.

A worker evaluates a shard of images (`evaluate_shard`). The driver gets a ShardSummary without masks, which
`summary.merge` joins and `scores.accumulate` turns into metrics. COCOeval itself is not used: it visits each pair of
masks for each of 40 thresholds and area ranges in Python (0.2 s for an image of 100 detections and 300 specks of
truth), and it never sees a 101st detection.

Suffixes: a area range, t IoU threshold, d detection (prediction, by falling score), g ground truth.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from persam_ray.keys import image_key
from persam_ray.masks import boundary, rle_object
from persam_ray.metrics.instances import ImagePair
from persam_ray.metrics.matching import ImageMatches, Matching, image_matches, match_category
from persam_ray.metrics.summary import (
    AREA_RANGES_PX,
    DETECTION,
    IOU_THRESHOLDS,
    TALLY,
    Rows,
    ShardSummary,
)
from persam_ray.types import BoolArray


def evaluate_shard(
    pairs: Iterable[ImagePair], categories: Sequence[str], *, score_threshold: float
) -> tuple[ShardSummary, list[ImageMatches]]:
    """Evaluate a shard of images.

    Args:
        pairs: The images, each once; also those without instances, so that every image is counted.
        categories: What to evaluate; instances of other categories are not looked at.
        score_threshold: In [0, 1]; the matches, counts and regions take predictions of at least this score.

    Returns:
        The summary for `summary.merge`, and the matches of each image and category for error analysis.

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
            matching = match_category(pair, category)
            outcome = image_matches(pair.image_id, category, matching, score_threshold)
            truths_ka[k] += np.count_nonzero(~matching.ignored_ag, axis=1)
            detections.append(_detection_rows(matching, key, k))
            tallies.append(_tally_row(pair, outcome, key, k, score_threshold))
            matches.append(outcome)
    images = np.array(list(keys.values()), dtype=np.uint64)
    rows = np.concatenate(detections), np.concatenate(tallies)
    return ShardSummary(tuple(categories), score_threshold, images, truths_ka, *rows), matches


def _detection_rows(matching: Matching, key: int, k: int) -> Rows:
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
