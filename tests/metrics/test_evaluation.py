"""Matches, counts and regions of images, against pycocotools and by hand."""

import contextlib
import io
import itertools
import json
import pickle
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from persam_ray.keys import image_key
from persam_ray.masks import boundary, components, decode_rle, encode_components, encode_rle
from persam_ray.metrics.evaluation import evaluate_shard
from persam_ray.metrics.instances import ImagePair, PredictedInstance, TruthInstance, drop_small, split_components
from persam_ray.metrics.matching import FalseNegative, FalsePositive, ImageMatches, TruePositive, match_greedily
from persam_ray.metrics.scores import accumulate
from persam_ray.metrics.summary import AREA_RANGES_PX, merge
from tests.image_pairs import (
    CATEGORIES,
    SIZE_HW,
    TWELVE,
    assert_close,
    in_shards,
    random_pairs,
    rectangle,
    region_pair,
    run_cocoeval,
    twelve_numbers,
)

# --- agreement with pycocotools --------------------------------------------------------------------------------------


InstanceT = TypeVar("InstanceT", TruthInstance, PredictedInstance)


@pytest.mark.parametrize("seed", range(4))
def test_any_number_of_shards_gives_the_twelve_numbers_of_cocoeval_on_everything_at_once(seed: int) -> None:
    pairs = random_pairs(seed)
    expected = twelve_numbers(run_cocoeval(pairs, CATEGORIES))
    whole = accumulate(in_shards(pairs, 1))
    assert_close([whole.overall[name] for name in TWELVE], expected)
    assert None not in expected, "every area range must be exercised"
    assert accumulate(in_shards(pairs, 3)) == whole
    assert accumulate(in_shards(pairs, 10)) == whole


def test_each_category_has_the_twelve_numbers_and_the_curve_of_cocoeval_run_on_it_alone() -> None:
    pairs = random_pairs(11)
    metrics = accumulate(in_shards(pairs, 3))
    evaluation = run_cocoeval(pairs, CATEGORIES)
    twelve_numbers(evaluation)
    curves = evaluation.eval["precision"][0, :, :, 0, 2]
    for number, name in enumerate(CATEGORIES, 1):
        evaluation.params.catIds = [number]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
        assert_close([metrics.categories[name][key] for key in TWELVE], twelve_numbers(evaluation))
        if name == "never":
            assert name not in metrics.precision_curves
        else:
            np.testing.assert_allclose(metrics.precision_curves[name], curves[:, number - 1], atol=1e-12)


def test_scores_that_tie_everywhere_are_ordered_as_cocoeval_orders_images_by_hash() -> None:
    pairs = [
        replace(pair, predictions=tuple(replace(found, score=0.5) for found in pair.predictions))
        for pair in random_pairs(5)
    ]
    expected = twelve_numbers(run_cocoeval(pairs, CATEGORIES))
    for shards in (1, 7):
        metrics = accumulate(in_shards(pairs, shards))
        assert_close([metrics.overall[name] for name in TWELVE], expected)


def test_the_key_of_an_image_is_the_same_on_every_machine() -> None:
    assert image_key("photo 1.jpg") == 0xF8307E3A66B3C53F  # printf 'photo 1.jpg' | b2sum -l 64


def test_greedy_matching_is_that_of_cocoeval_where_ious_tie_and_truths_are_ignored() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        detections, truths = rng.integers(1, 9), rng.integers(1, 7)
        ious_dg = rng.choice([0.0, 0.4, 0.5, 0.55, 0.7, 0.75, 0.95, 1.0], (detections, truths))
        crowd_g = rng.random(truths) < 0.3
        areas_g = rng.choice([10.0, 1024.0, 5000.0, 9216.0, 20_000.0], truths)
        evaluation = COCOeval(iouType="segm")
        evaluation.ious[1, 1] = ious_dg
        evaluation._gts[1, 1] = [
            {"id": g + 1, "area": areas_g[g], "iscrowd": crowd_g[g], "ignore": crowd_g[g]} for g in range(truths)
        ]
        evaluation._dts[1, 1] = [{"id": d + 1, "area": 100.0, "score": 1 - d / 10} for d in range(detections)]
        low_a, high_a = AREA_RANGES_PX.T[:, :, None]
        ignored_ag = crowd_g | (areas_g < low_a) | (areas_g > high_a)
        match_atd = match_greedily(ious_dg, ignored_ag, crowd_g)
        for area, range_px in enumerate(AREA_RANGES_PX):
            expected = evaluation.evaluateImg(1, 1, range_px, 100)["dtMatches"]
            np.testing.assert_array_equal(match_atd[area] + 1, expected)


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


# --- counts, by hand -------------------------------------------------------------------------------------------------


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


def test_the_best_threshold_takes_all_predictions_of_equal_score() -> None:
    truth, other = (encode_rle(rectangle(0, x, 9, 9)) for x in (0, 50))
    predictions = tuple(PredictedInstance("top", rle, 0.5) for rle in (truth, other))
    pair = ImagePair("a", SIZE_HW, (TruthInstance("top", truth),), predictions)
    overall = accumulate(evaluate_shard([pair], ["top"], score_threshold=0.9)[0]).overall
    assert (overall["best_score_threshold"], overall["best_tp"], overall["best_fp"]) == (0.5, 1, 1)


def test_of_thresholds_of_equal_f1_the_highest_is_best() -> None:
    first, second, *wrong = (encode_rle(rectangle(0, x, 9, 9)) for x in (0, 20, 40, 60))
    scored = zip([first, *wrong, second], [0.9, 0.8, 0.7, 0.6], strict=True)
    predictions = tuple(PredictedInstance("top", rle, score) for rle, score in scored)
    pair = ImagePair("a", SIZE_HW, (TruthInstance("top", first), TruthInstance("top", second)), predictions)
    # At 0.9: 1 right, 1 missed, F1 2/3. At 0.6: 2 right, 2 wrong, F1 4/6.
    overall = accumulate(evaluate_shard([pair], ["top"], score_threshold=0.5)[0]).overall
    assert overall["f1"] == overall["best_f1"] == 2 / 3
    assert (overall["best_score_threshold"], overall["best_tp"], overall["best_fn"]) == (0.9, 1, 1)


def test_the_best_threshold_is_the_one_that_trying_every_score_finds() -> None:
    pairs = [pair for pair in random_pairs(3, images=30) if len(pair.predictions) < 50]
    best = accumulate(in_shards(pairs, 2)).overall
    scores = sorted({found.score for pair in pairs for found in pair.predictions}, reverse=True)
    tried = [accumulate(in_shards(pairs, 1, score_threshold=score)).overall for score in scores]
    expected = max(tried, key=lambda metrics: metrics["f1"] or 0)
    assert best["best_score_threshold"] == expected["score_threshold"]
    for name in ("tp", "fp", "fn", "precision", "recall", "f1"):
        assert best[f"best_{name}"] == expected[name]


# --- regions, by hand ------------------------------------------------------------------------------------------------


def test_miou_and_macc_are_sums_over_sums_as_the_persam_paper_computes_them() -> None:
    pairs = [
        region_pair("a", rectangle(0, 0, 10, 10), rectangle(0, 5, 10, 10)),  # common 50, union 150, truth 100
        region_pair("b", rectangle(0, 0, 20, 20), rectangle(0, 0, 20, 10)),  # common 200, union 400, truth 400
        region_pair("c", rectangle(0, 0, 5, 10), None),  # common 0, union 50, truth 50
        region_pair("d", None, rectangle(0, 0, 20, 20)),  # no truth; union 400
        region_pair("e", rectangle(0, 0, 5, 10), rectangle(0, 0, 5, 10), score=0.4),  # under the threshold: as c
    ]
    overall = accumulate(evaluate_shard(pairs, ["top"], score_threshold=0.5)[0]).overall
    assert overall["miou"] == 250 / (150 + 400 + 50 + 50)
    assert overall["miou_all_images"] == 250 / (150 + 400 + 50 + 50 + 400)
    assert overall["macc"] == 250 / (100 + 400 + 50 + 50)


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


def test_overall_regions_are_means_over_the_categories_that_have_truth() -> None:
    half = region_pair("a", rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 5))
    other = replace(half, image_id="b", truths=(replace(half.truths[0], category="bag"),), predictions=())
    summary, _ = evaluate_shard([half, other], ["top", "bag", "never"], score_threshold=0.5)
    metrics = accumulate(summary)
    assert [metrics.categories[name]["miou"] for name in ("top", "bag", "never")] == [0.5, 0.0, None]
    assert metrics.overall["miou"] == 0.25


def test_boundary_iou_of_a_shifted_square_is_that_counted_by_hand() -> None:
    # 2% of the diagonal of 100 x 100 is 3 px: rings of 20^2 - 14^2 = 204. Shifted by 1 px the squares share 19 x 20
    # pixels, of which 14 x 15 are inner to one of them: 170 common, 2 * 204 - 170 = 238 in either.
    size_hw = (100, 100)
    truth, found = (encode_rle(rectangle(30, x, 20, 20, size_hw)) for x in (30, 31))
    pair = ImagePair("a", size_hw, (TruthInstance("top", truth),), (PredictedInstance("top", found, 1.0),))
    missed = replace(pair, image_id="b", predictions=())
    overall = accumulate(evaluate_shard([pair, missed], ["top"], score_threshold=0.5)[0]).overall
    assert overall["boundary_iou"] == 170 / 238 / 2


def test_the_edge_of_the_image_belongs_to_the_boundary() -> None:
    everything_hw = np.ones((100, 100), dtype=np.bool_)
    assert np.count_nonzero(boundary(everything_hw)) == 100**2 - 94**2
    assert np.count_nonzero(boundary(everything_hw, dilation_ratio=0.0)) == 100**2 - 98**2


# --- edges -----------------------------------------------------------------------------------------------------------


def test_figures_without_truth_or_predictions_are_none_and_the_rest_is_plain_json() -> None:
    empty = [ImagePair("a", SIZE_HW, (), ())]
    metrics = accumulate(evaluate_shard(empty, ["top"], score_threshold=0.5)[0])
    undefined = {name for name, value in metrics.overall.items() if value is None}
    counts = {"tp", "fp", "fn", "best_tp", "best_fp", "best_fn"}
    assert undefined == set(metrics.overall) - counts - {"iou_threshold", "score_threshold"}
    for pairs in (empty, random_pairs(1, images=20)):
        content = accumulate(evaluate_shard(pairs, CATEGORIES, score_threshold=0.5)[0]).as_dict()
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        assert set(content) == {"overall", "categories"}


def test_truth_that_nothing_was_predicted_for_has_precision_zero_and_recall_zero_as_in_cocoeval() -> None:
    metrics = accumulate(evaluate_shard([region_pair("a", rectangle(0, 0, 9, 9), None)], ["top"], score_threshold=0)[0])
    assert (metrics.overall["map"], metrics.overall["ar100"], metrics.overall["ap_large"]) == (0, 0, None)
    assert (metrics.overall["precision"], metrics.overall["recall"], metrics.overall["f1"]) == (None, 0, 0)
    assert (metrics.overall["best_score_threshold"], metrics.overall["best_fn"]) == (None, 1)
    assert metrics.precision_curves["top"] == [0.0] * 101


def test_empty_shards_and_any_grouping_of_merges_change_nothing() -> None:
    pairs = random_pairs(4, images=24)
    first, second, third = (evaluate_shard(pairs[i::3], CATEGORIES, score_threshold=0.5)[0] for i in range(3))
    nothing = evaluate_shard([], CATEGORIES, score_threshold=0.5)[0]
    sent = pickle.loads(pickle.dumps(merge([third, nothing, merge([second, first])])))
    assert accumulate(sent) == accumulate(in_shards(pairs, 1))
    assert accumulate(nothing).overall["tp"] == 0


def test_a_summary_takes_some_hundred_bytes_for_each_instance_whatever_the_size_of_the_masks() -> None:
    pairs = random_pairs(6)
    summary = in_shards(pairs, 1)
    instances = sum(len(pair.predictions) + len(pair.truths) for pair in pairs)
    assert len(pickle.dumps(summary)) < 100 * instances + 5000


def test_summaries_that_do_not_belong_together_are_refused() -> None:
    pairs = random_pairs(0, images=4)
    summary = evaluate_shard(pairs, CATEGORIES, score_threshold=0.5)[0]
    with pytest.raises(ValueError, match="no evaluated shard"):
        merge([])
    with pytest.raises(ValueError, match="4 of 8 images occur twice"):
        merge([summary, summary])
    with pytest.raises(ValueError, match="different categories or score thresholds"):
        merge([summary, evaluate_shard([], CATEGORIES, score_threshold=0.6)[0]])


@pytest.mark.parametrize(
    ("truths", "predictions", "message"),
    [
        ([], [("top", "bad!", 0.5)], r"image 'x', prediction 0 \(top\): the character '!'"),
        ([("top", encode_rle(rectangle(0, 0, 2, 2, (5, 5))))], [], r"image 'x', truth 0 \(top\): .* covers 25 pixels"),
        ([], [("top", None, float("nan"))], r"image 'x', prediction 0 \(top\): a score .* but got nan"),
        ([], [("top", None, 0.5), ("bag", None, 1.01)], r"image 'x', prediction 1 \(bag\): a score .* but got 1.01"),
        ([("top", None, float("inf"))], [], r"image 'x', truth 0 \(top\): an area .* but got inf"),
    ],
)
def test_an_instance_that_cannot_be_is_refused_with_its_image_and_place(
    truths: list[tuple[Any, ...]], predictions: list[tuple[Any, ...]], message: str
) -> None:
    good = encode_rle(rectangle(1, 1, 3, 3))

    def build(kind: type[InstanceT], rows: list[tuple[Any, ...]]) -> tuple[InstanceT, ...]:
        return tuple(kind(category, good if rle is None else rle, *rest) for category, rle, *rest in rows)

    with pytest.raises(ValueError, match=message):
        ImagePair("x", SIZE_HW, build(TruthInstance, truths), build(PredictedInstance, predictions))


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


# --- objects ---------------------------------------------------------------------------------------------------------


def test_encoded_components_are_the_components_largest_first() -> None:
    rng = np.random.default_rng(0)
    for size_hw, density in itertools.product([(1, 1), (1, 9), (9, 1), (23, 17)], [0.0, 0.1, 0.4, 1.0]):
        mask_hw = rng.random(size_hw) < density
        encoded = encode_components(mask_hw)
        assert sorted(encoded) == sorted(encode_rle(component) for component in components(mask_hw))
        areas = [np.count_nonzero(decode_rle(rle, size_hw)) for rle in encoded]
        assert areas == sorted(areas, reverse=True)


def test_split_components_gives_each_part_its_category_and_score_and_leaves_crowds_whole() -> None:
    small, large = rectangle(0, 0, 4, 4), rectangle(40, 40, 20, 20)
    diagonal = rectangle(60, 60, 5, 5)  # touches `large` at a corner: one 8-connected component
    both = encode_rle(small | large | diagonal)
    parts = [encode_rle(large | diagonal), encode_rle(small)]
    crowd = TruthInstance("top", both, 77.0, iscrowd=True)
    truths = [TruthInstance("top", both, area=1000.0), crowd, TruthInstance("bag", encode_rle(small & large))]
    assert split_components(truths, SIZE_HW) == [*(TruthInstance("top", rle) for rle in parts), crowd]
    predictions = [PredictedInstance("bag", both, 0.7)]
    assert split_components(predictions, SIZE_HW) == [PredictedInstance("bag", rle, 0.7) for rle in parts]
    with pytest.raises(ValueError, match="covers"):
        split_components(predictions, (10, 10))


def test_drop_small_keeps_masks_of_at_least_the_fraction() -> None:
    just, under = rectangle(0, 0, 10, 10, (100, 100)), rectangle(0, 0, 9, 11, (100, 100))
    predictions = [PredictedInstance("top", encode_rle(mask), 0.5) for mask in (just, under)]
    assert drop_small(predictions, (100, 100), 0.01) == predictions[:1]
    assert drop_small(predictions, (100, 100), 0.0) == predictions
    assert drop_small([], (100, 100), 0.01) == []
