"""Scores against pycocotools and by hand."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from persam_ray.masks import encode_rle
from persam_ray.metrics.evaluation import evaluate_shard
from persam_ray.metrics.instances import ImagePair, PredictedInstance, TruthInstance
from persam_ray.metrics.scores import accumulate, precision_at_recalls
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

# --- agreement with pycocotools ---------------------------------------------------------------------------------------


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


def test_precision_with_weights_is_that_of_repeated_detections() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        true_d, weights_d = rng.random(40) < 0.6, rng.integers(0, 4, 40)
        repeated_d = np.repeat(true_d, weights_d)
        weighted = precision_at_recalls(true_d * weights_d.astype(float), ~true_d * weights_d.astype(float), 90)
        np.testing.assert_allclose(weighted, precision_at_recalls(repeated_d, ~repeated_d, 90), atol=1e-12)


# --- the best threshold, by hand --------------------------------------------------------------------------------------


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


# --- regions, by hand -------------------------------------------------------------------------------------------------


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


def test_overall_regions_are_means_over_the_categories_that_have_truth() -> None:
    half = region_pair("a", rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 5))
    other = replace(half, image_id="b", truths=(replace(half.truths[0], category="bag"),), predictions=())
    summary, _ = evaluate_shard([half, other], ["top", "bag", "never"], score_threshold=0.5)
    metrics = accumulate(summary)
    assert [metrics.categories[name]["miou"] for name in ("top", "bag", "never")] == [0.5, 0.0, None]
    assert metrics.overall["miou"] == 0.25


# --- edges ------------------------------------------------------------------------------------------------------------


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
