"""Instances: what is refused with its image and place, and how masks become objects."""

from typing import Any, TypeVar

import pytest

from persam_ray.masks import encode_rle
from persam_ray.metrics.instances import ImagePair, PredictedInstance, TruthInstance, drop_small, split_components
from tests.image_pairs import (
    SIZE_HW,
    rectangle,
)

InstanceT = TypeVar("InstanceT", TruthInstance, PredictedInstance)


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
