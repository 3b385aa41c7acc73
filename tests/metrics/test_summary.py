"""Summaries of shards merge in any grouping."""

import pickle

import pytest

from persam_ray.metrics.evaluation import evaluate_shard
from persam_ray.metrics.scores import accumulate
from persam_ray.metrics.summary import merge
from tests.image_pairs import (
    CATEGORIES,
    in_shards,
    random_pairs,
)


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
