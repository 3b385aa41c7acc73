"""Matches, counts and regions of images, against pycocotools and by hand."""

from dataclasses import replace

import numpy as np
import pytest

from persam_ray.masks import encode_rle
from persam_ray.metrics.evaluation import evaluate_shard
from persam_ray.metrics.instances import ImagePair, PredictedInstance, TruthInstance
from persam_ray.metrics.matching import FalseNegative, FalsePositive, ImageMatches, TruePositive
from persam_ray.metrics.scores import accumulate
from tests.image_pairs import (
    CATEGORIES,
    SIZE_HW,
    random_pairs,
    rectangle,
    run_cocoeval,
)


@pytest.mark.parametrize("score_threshold", [0.0, 3 / 7, 0.9])
def test_counts_are_those_of_cocoeval_without_its_limit_of_100_detections(score_threshold: float) -> None:
    pairs = random_pairs(2)
    summary, matches = evaluate_shard(pairs, CATEGORIES, score_threshold=score_threshold)
    metrics = accumulate(summary)
    evaluation = run_cocoeval(pairs, CATEGORIES, max_detections=10**6)
    for number, name in enumerate(CATEGORIES, 1):
        rows = [row for row in evaluation.evalImgs if row and row["category_id"] == number and row["aRng"][1] == 1e10]
        rows = [row for row in rows if row["aRng"][0] == 0]
        above = [np.array(row["dtScores"]) >= score_threshold for row in rows]
        judged = [kept & ~row["dtIgnore"][0] for row, kept in zip(rows, above, strict=True)]
        tp = sum(int(np.sum(mask & (row["dtMatches"][0] > 0))) for row, mask in zip(rows, judged, strict=True))
        fp = sum(int(np.sum(mask)) for mask in judged) - tp
        fn = sum(int(np.sum(row["gtIgnore"] == 0)) for row in rows) - tp
        got = metrics.categories[name]
        assert (got["tp"], got["fp"], got["fn"]) == (tp, fp, fn)
        own = [match for match in matches if match.category == name]
        assert sum(len(match.true_positives) for match in own) == tp
        assert sum(len(match.false_positives) for match in own) == fp
        assert sum(len(match.false_negatives) for match in own) == fn
    for key in ("tp", "fp", "fn"):
        assert metrics.overall[key] == sum(int(row[key] or 0) for row in metrics.categories.values())


def crowd_scene() -> ImagePair:
    """Two truths, a crowd region; one is found twice, one too little, two predictions lie in the crowd."""
    truths = (
        TruthInstance("top", encode_rle(rectangle(0, 0, 20, 20))),
        TruthInstance("top", encode_rle(rectangle(0, 40, 20, 20))),
        TruthInstance("top", encode_rle(rectangle(50, 50, 60, 60)), iscrowd=True),
    )
    predictions = (
        PredictedInstance("top", encode_rle(rectangle(0, 0, 20, 18)), 0.8),  # IoU 0.9 with truth 0, taken before
        PredictedInstance("top", encode_rle(rectangle(0, 0, 20, 16)), 0.9),  # IoU 0.8 with truth 0
        PredictedInstance("top", encode_rle(rectangle(0, 40, 20, 8)), 0.7),  # IoU 0.4 with truth 1
        PredictedInstance("top", encode_rle(rectangle(60, 60, 10, 10)), 0.6),  # in the crowd
        PredictedInstance("top", encode_rle(rectangle(80, 80, 10, 10)), 0.6),  # in the crowd
        PredictedInstance("top", encode_rle(rectangle(38, 50, 20, 10)), 0.5),  # 0.4 of it in the crowd: not enough
        PredictedInstance("top", encode_rle(rectangle(0, 40, 20, 20)), 0.1),  # truth 1 exactly, under the threshold
        PredictedInstance("hat", encode_rle(rectangle(0, 40, 20, 20)), 0.9),  # not evaluated
    )
    return ImagePair("scene", SIZE_HW, truths, predictions)


def test_matches_of_a_scene_with_a_crowd_are_those_counted_by_hand() -> None:
    summary, matches = evaluate_shard([crowd_scene()], ["top"], score_threshold=0.5)
    assert matches == [
        ImageMatches(
            "scene",
            "top",
            (TruePositive(1, 0, 0.8, 0.9),),
            (FalsePositive(0, 0.9, 0.8), FalsePositive(2, 0.4, 0.7), FalsePositive(5, 0.0, 0.5)),
            (FalseNegative(1, 1.0),),
        )
    ]
    top = accumulate(summary).categories["top"]
    assert (top["tp"], top["fp"], top["fn"]) == (1, 3, 1)
    assert (top["precision"], top["recall"], top["f1"]) == (1 / 4, 1 / 2, 2 / 6)
    assert (top["iou_threshold"], top["score_threshold"]) == (0.5, 0.5)
    # All predictions: 2 right, 3 wrong, none missed: F1 4/7. The one of score 0.9 alone: 1 right, 1 missed: 2/3.
    assert (top["best_score_threshold"], top["best_tp"], top["best_fp"], top["best_fn"]) == (0.9, 1, 0, 1)
    assert (top["best_precision"], top["best_recall"], top["best_f1"]) == (1.0, 0.5, 2 / 3)


def test_a_score_equal_to_the_threshold_counts() -> None:
    mask = encode_rle(rectangle(0, 0, 9, 9))
    pair = ImagePair("a", SIZE_HW, (TruthInstance("top", mask),), (PredictedInstance("top", mask, 0.3),))
    assert accumulate(evaluate_shard([pair], ["top"], score_threshold=0.3)[0]).overall["tp"] == 1
    assert accumulate(evaluate_shard([pair], ["top"], score_threshold=0.301)[0]).overall["fn"] == 1


def test_overlapping_instances_count_once_and_pixels_of_crowds_do_not_count_in_regions() -> None:
    truths = (
        TruthInstance("top", encode_rle(rectangle(0, 0, 10, 10))),
        TruthInstance("top", encode_rle(rectangle(0, 5, 10, 10))),  # together 150
        TruthInstance("top", encode_rle(rectangle(0, 10, 10, 40)), iscrowd=True),
    )
    predictions = (
        PredictedInstance("top", encode_rle(rectangle(0, 0, 10, 30)), 0.9),  # 150 on truth, 150 in the crowd
        PredictedInstance("top", encode_rle(rectangle(5, 0, 10, 10)), 0.9),  # 50 more below
    )
    summary, _ = evaluate_shard([ImagePair("a", SIZE_HW, truths, predictions)], ["top"], score_threshold=0.5)
    overall = accumulate(summary).overall
    assert overall["miou"] == 150 / 200
    assert overall["macc"] == 1


def test_boundary_iou_of_a_shifted_square_is_that_counted_by_hand() -> None:
    # 2% of the diagonal of 100 x 100 is 3 px: rings of 20^2 - 14^2 = 204. Shifted by 1 px the squares share 19 x 20
    # pixels, of which 14 x 15 are inner to one of them: 170 common, 2 * 204 - 170 = 238 in either.
    size_hw = (100, 100)
    truth, found = (encode_rle(rectangle(30, x, 20, 20, size_hw)) for x in (30, 31))
    pair = ImagePair("a", size_hw, (TruthInstance("top", truth),), (PredictedInstance("top", found, 1.0),))
    missed = replace(pair, image_id="b", predictions=())
    overall = accumulate(evaluate_shard([pair, missed], ["top"], score_threshold=0.5)[0]).overall
    assert overall["boundary_iou"] == 170 / 238 / 2


def test_a_shard_is_refused_where_an_image_or_a_category_repeats_or_the_threshold_is_no_score() -> None:
    pair = ImagePair("twin", SIZE_HW, (), ())
    with pytest.raises(ValueError, match="image 'twin' is in the shard twice"):
        evaluate_shard([pair, pair], ["top"], score_threshold=0.5)
    with pytest.raises(ValueError, match="each named once"):
        evaluate_shard([pair], ["top", "top"], score_threshold=0.5)
    with pytest.raises(ValueError, match="in \\[0, 1\\], but got nan"):
        evaluate_shard([pair], ["top"], score_threshold=float("nan"))
    with pytest.raises(ValueError, match="at least 1, but got"):
        ImagePair("flat", (0, 10), (), ())
