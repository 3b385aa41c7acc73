"""Rows of annotations: masks of a category, and truth that does not fit its photo."""

from typing import Any

import numpy as np
import pytest

from persam_ray.data.annotations import BadAnnotationError, category_mask, category_rle, check_truth, from_mask
from tests.data.datasets import mask

SIZE_HW = (4, 5)
SQUARE = mask(1, 2, 2, 2)
CUPS = (mask(0, 0, 2, 2), mask(1, 1, 2, 2))
ROWS = [
    *(from_mask("cup", cup) for cup in CUPS),
    from_mask("spoon", mask(3, 0, 1, 5)),
    from_mask("cup", mask(3, 4, 1, 1)) | {"iscrowd": True},
]


def test_the_mask_of_a_category_unites_its_instances_without_crowds() -> None:
    np.testing.assert_array_equal(category_mask(ROWS, "cup", SIZE_HW), CUPS[0] | CUPS[1])
    np.testing.assert_array_equal(category_mask(ROWS, "spoon", SIZE_HW), mask(3, 0, 1, 5))


def test_a_category_that_is_not_there_has_an_empty_mask_and_no_rle() -> None:
    assert not category_mask(ROWS, "fork", SIZE_HW).any()
    assert category_mask([], "fork", SIZE_HW).shape == SIZE_HW
    assert category_rle(ROWS, "fork", SIZE_HW) is None


def test_a_row_that_does_not_say_whether_it_is_a_crowd_counts() -> None:
    row = from_mask("cup", SQUARE) | {"iscrowd": None}
    np.testing.assert_array_equal(category_mask([row], "cup", SIZE_HW), SQUARE)


def test_a_mask_of_another_size_is_refused_by_name() -> None:
    with pytest.raises(BadAnnotationError, match=r"annotation of 'cup': .* covers 20 pixels"):
        category_rle(ROWS, "cup", (4, 6))


def image_row(**fields: object) -> dict[str, Any]:
    return {"height": None, "width": None, "annotations": ROWS, **fields}


@pytest.mark.parametrize(
    "row",
    [
        image_row(),
        image_row(height=4, width=5),
        image_row(annotations=None, height=9),
        image_row(annotations=[ROWS[0] | {"area": None, "iscrowd": None, "bbox_xywh": None}]),
    ],
)
def test_truth_over_the_photos_own_size_is_accepted(row: dict[str, Any]) -> None:
    check_truth(row, SIZE_HW)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (image_row(height=5, width=4), "for an image of 4 x 5 pixels, but the photo is 5 x 4"),
        (image_row(height=-4), "for an image of 5 x -4 pixels"),
        (image_row(annotations=[ROWS[0] | {"rle": "922"}]), "annotation of 'cup': the run-length string covers"),
        (image_row(annotations=[ROWS[0] | {"rle": None}]), "lacks its category or its mask"),
        (image_row(annotations=[ROWS[0] | {"category": None}]), "lacks its category or its mask"),
        (image_row(annotations=[None]), "lacks its category or its mask: None"),
    ],
)
def test_truth_that_does_not_fit_is_refused(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadAnnotationError, match=reason):
        check_truth(row, SIZE_HW)


@pytest.mark.parametrize("area", [float("nan"), float("inf"), -1])
def test_an_area_is_a_number_of_pixels(area: float) -> None:
    with pytest.raises(BadAnnotationError, match="annotation of 'cup': `area` must be a number of pixels"):
        check_truth(image_row(annotations=[ROWS[0] | {"area": area}]), SIZE_HW)
