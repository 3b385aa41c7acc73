"""Annotated rows become examples: polygons, RLE and crowds alike, specks and empty masks left out."""

from typing import Any

import numpy as np
import pytest

from persam_ray.data.annotations import from_mask
from persam_ray.data.coco import from_coco
from persam_ray.training.examples import ExampleError, make_example
from persam_ray.types import BoolArray
from tests.conftest import scene
from tests.encoded_images import encoded

HEIGHT, WIDTH = 60, 100
PHOTO = encoded(scene(HEIGHT, WIDTH))


def box(left: int, top: int, right: int, bottom: int) -> BoolArray:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def row(*annotations: dict[str, Any], **fields: Any) -> dict[str, Any]:
    base = {"image_id": "a", "image": PHOTO, "height": HEIGHT, "width": WIDTH, "error": None}
    return base | {"annotations": list(annotations)} | fields


def test_objects_are_the_masks_of_the_categories_in_their_classes() -> None:
    first, second, other = box(0, 0, 10, 10), box(20, 0, 30, 40), box(50, 0, 60, 10)
    annotated = row(from_mask("bag", first), from_mask("top", second), from_mask("hair", other))
    example = make_example(annotated, ["top", "bag"], "mask")
    assert example.labels_n.tolist() == [2, 1]
    np.testing.assert_array_equal(example.masks_nhw, [first, second])
    assert example.image_hw3.shape == (HEIGHT, WIDTH, 3)


def test_connected_parts_are_objects_of_their_own_but_specks_are_none() -> None:
    parts = box(0, 0, 10, 10) | box(40, 20, 60, 50) | box(99, 59, 100, 60)  # the last: 1 of 6,000 pixels
    as_mask, as_parts = (make_example(row(from_mask("top", parts)), ["top"], kind) for kind in ("mask", "component"))
    assert len(as_mask.masks_nhw) == 1
    assert sorted(as_parts.masks_nhw.sum(axis=(1, 2)).tolist()) == [100, 600]


def coco_row(*annotations: dict[str, Any]) -> dict[str, Any]:
    common = {"category_id": 1, "iscrowd": 0}
    return row(*from_coco([common | one for one in annotations], {1: "top"}, (HEIGHT, WIDTH)))


def test_polygons_uncompressed_rle_and_crowds_are_read() -> None:
    polygon = {"segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]}
    runs = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 60, 5940]}}  # the first column
    crowd = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [60, 60, 5880]}, "iscrowd": 1}
    example = make_example(coco_row(polygon, runs, crowd), ["top"], "component")
    assert example.iscrowd_n.tolist() == [False, False, True]
    assert example.masks_nhw.sum(axis=(1, 2)).tolist() == [400, 60, 60]


def test_boxes_are_of_no_account_and_masks_of_no_pixel_are_no_objects() -> None:
    empty = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [6000]}, "bbox": [0, 0, 0, 0], "area": 0}
    outside = {"segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]], "bbox": [-50, -50, 9999, 9999], "area": 1}
    example = make_example(coco_row(empty, outside), ["top"], "mask")
    assert example.masks_nhw.sum(axis=(1, 2)).tolist() == [400]


def test_a_photo_without_the_categories_is_an_example_of_background() -> None:
    example = make_example(row(from_mask("hair", box(0, 0, 9, 9))), ["top"], "mask")
    assert example.masks_nhw.shape == (0, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image": b"text"}, "not an image"),
        ({"error": "the annotation cannot be read: gone"}, "the annotation cannot be read: gone"),
        ({"height": 30}, "the annotations are for an image of 100 x 30 pixels, but the photo is 100 x 60"),
        ({"annotations": [from_mask("top", box(0, 0, 9, 9)) | {"rle": "9"}]}, "annotation of 'top'"),
    ],
)
def test_what_cannot_be_trained_on_is_named(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ExampleError, match="training image 'a': .*" + reason):
        make_example(row(from_mask("top", box(0, 0, 9, 9))) | fields, ["top"], "mask")
