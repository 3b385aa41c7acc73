"""Two methods compared by the paired bootstrap."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from persam_ray.keys import image_key
from persam_ray.masks import encode_rle
from persam_ray.metrics.bootstrap import Difference, Statistic, bootstrap_difference
from persam_ray.metrics.evaluation import evaluate_shard
from persam_ray.metrics.instances import ImagePair, PredictedInstance, TruthInstance
from persam_ray.metrics.scores import accumulate
from tests.image_pairs import in_shards, random_pairs, rectangle, region_pair


def worse(pairs: Sequence[ImagePair]) -> list[ImagePair]:
    """Add a wrong, sure prediction to every other image."""
    wrong = PredictedInstance("top", encode_rle(rectangle(120, 160, 8, 8)), 0.99)
    return [
        replace(pair, predictions=(*pair.predictions, wrong)) if index % 2 else pair for index, pair in enumerate(pairs)
    ]


@pytest.mark.parametrize("statistic", ["miou", "precision", "recall", "f1", "ap50"])
def test_a_difference_is_that_of_the_metrics_and_lies_in_its_interval(statistic: Statistic) -> None:
    pairs = random_pairs(8)
    ours, theirs = in_shards(pairs, 3), in_shards(worse(pairs), 1, score_threshold=0.2)
    for category in (None, "top"):
        result = bootstrap_difference(ours, theirs, statistic, category=category, resamples=300)
        metrics = [accumulate(summary) for summary in (ours, theirs)]
        rows = [each.overall if category is None else each.categories[category] for each in metrics]
        values = [row[statistic] for row in rows]
        assert values[0] is not None
        assert values[1] is not None
        assert result.difference == pytest.approx(values[0] - values[1], abs=1e-12)
        assert result.low is not None
        assert result.high is not None
        assert result.difference is not None
        assert result.low <= result.difference <= result.high
        assert result.resamples == 300
        assert bootstrap_difference(in_shards(pairs, 7), theirs, statistic, category=category, resamples=300) == result


@pytest.mark.parametrize("statistic", ["miou", "precision", "recall", "f1", "ap50"])
def test_a_resample_has_the_metrics_of_the_images_drawn(statistic: Statistic) -> None:
    # Scores without ties, for copies of an image get other keys; the draws are the generator's, images by key.
    rng = np.random.default_rng(5)
    pairs = [
        replace(pair, predictions=tuple(replace(found, score=rng.random()) for found in pair.predictions))
        for pair in sorted(random_pairs(12), key=lambda pair: image_key(pair.image_id))
    ]
    others = worse(pairs)
    drawn = np.random.default_rng(6).integers(len(pairs), size=len(pairs))
    values = []
    for each in (pairs, others):
        copies = [replace(each[place], image_id=f"draw {number}") for number, place in enumerate(drawn)]
        values.append(accumulate(in_shards(copies, 1)).overall[statistic])
    assert values[0] is not None
    assert values[1] is not None
    result = bootstrap_difference(in_shards(pairs, 1), in_shards(others, 1), statistic, resamples=1, seed=6)
    assert result.low == pytest.approx(values[0] - values[1], abs=1e-12)
    assert result.high == result.low


def test_a_method_does_not_differ_from_itself() -> None:
    summary = in_shards(random_pairs(9, images=20), 1)
    assert bootstrap_difference(summary, summary, "f1") == Difference(0.0, 0.0, 0.0, 1000)


def test_the_interval_has_the_width_that_theory_gives_for_a_share() -> None:
    # 400 images with one prediction each; the method is right on all, the baseline on a random 75%. The precision
    # differs by 1 - 300 / 400; its standard error is sqrt(0.25 * 0.75 / 400) = 0.02165.
    size_hw = (8, 8)
    here, there = (encode_rle(rectangle(y, 0, 3, 3, size_hw)) for y in (0, 4))
    pairs = [
        ImagePair(f"{n}", size_hw, (TruthInstance("top", here),), (PredictedInstance("top", here, 0.9),))
        for n in range(400)
    ]
    off = [
        replace(pair, predictions=(PredictedInstance("top", there, 0.9),)) if n % 4 == 0 else pair
        for n, pair in enumerate(pairs)
    ]
    ours, theirs = (evaluate_shard(each, ["top"], score_threshold=0.5)[0] for each in (pairs, off))
    result = bootstrap_difference(ours, theirs, "precision", resamples=4000, seed=3)
    assert result.difference == 0.25
    assert result.low == pytest.approx(0.25 - 1.96 * 0.02165, abs=0.004)
    assert result.high == pytest.approx(0.25 + 1.96 * 0.02165, abs=0.004)
    assert result == bootstrap_difference(ours, theirs, "precision", resamples=4000, seed=3)
    assert result != bootstrap_difference(ours, theirs, "precision", resamples=4000, seed=4)


def test_an_undefined_difference_is_none() -> None:
    missed = evaluate_shard([region_pair("a", rectangle(0, 0, 9, 9), None)], ["top"], score_threshold=0.5)[0]
    assert bootstrap_difference(missed, missed, "precision", resamples=10) == Difference(None, None, None, 10)
    assert bootstrap_difference(missed, missed, "recall", resamples=10) == Difference(0.0, 0.0, 0.0, 10)


def test_methods_that_cannot_be_compared_are_refused() -> None:
    pairs = random_pairs(0, images=6)
    summary = in_shards(pairs, 1)
    without_truth = [replace(pair, truths=()) for pair in pairs]
    with pytest.raises(ValueError, match="same images"):
        bootstrap_difference(summary, in_shards(pairs[1:], 1), "miou")
    with pytest.raises(ValueError, match="same truth"):
        bootstrap_difference(summary, in_shards(without_truth, 1), "miou")
    with pytest.raises(ValueError, match="same categories"):
        bootstrap_difference(summary, evaluate_shard(pairs, ["top"], score_threshold=0.5)[0], "miou")
    with pytest.raises(ValueError, match="'shoe' was not evaluated; allowed: top, bag, hat, never"):
        bootstrap_difference(summary, summary, "miou", category="shoe")
    nothing = evaluate_shard([], ["top"], score_threshold=0.5)[0]
    with pytest.raises(ValueError, match="no images"):
        bootstrap_difference(nothing, nothing, "miou")
