"""Examples of few-shot training: what is refused, what is prepared once, augmentation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from persam_ray.mask_rcnn.examples import Example, augment, prepare
from persam_ray.mask_rcnn.few_shot import TrainingImage
from persam_ray.mask_rcnn.settings import FewShotSettings
from persam_ray.masks import tight_box
from tests.few_photos import RED, SPEC, photo, two_photos


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_hw3": np.zeros((96, 128), np.uint8)}, r"'wide': the image must be uint8 of shape \(h, w, 3\)"),
        ({"masks_nhw": np.zeros((1, 128, 96), bool)}, r"masks must be bool of shape \(n, 96, 128\), but got bool of"),
        ({"masks_nhw": np.ones((1, 96, 128), np.uint8)}, "masks must be bool"),
        ({"labels_n": np.ones(2, np.int64)}, r"labels and iscrowd must be int64 and bool of shape \(1,\)"),
        ({"labels_n": np.ones(1, np.int32)}, "labels and iscrowd must be int64"),
        ({"labels_n": np.zeros(1, np.int64)}, r"labels start at 1 \(0 is the background\), but got \[0\]"),
        ({"masks_nhw": np.zeros((1, 96, 128), bool)}, "mask 0 is empty"),
    ],
)
def test_an_example_that_cannot_be_right_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(two_photos()[0], **wrong)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([photo("a", (0, 0, 9, 9)), photo("a", (0, 0, 9, 9))], "two examples have the image_id 'a'"),
        ([photo("a")], "none of the 1 examples holds an object of shape"),
        ([replace(photo("a", (0, 0, 9, 9)), labels_n=np.array([2]))], "label 2 is beyond the 1 categories"),
    ],
)
def test_examples_that_cannot_be_trained_on_are_refused(examples: list[Example], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(examples, SPEC, FewShotSettings())


def test_a_category_that_no_example_holds_is_named() -> None:
    spec = replace(SPEC, categories=("shape", "hat"))
    with pytest.raises(ValueError, match="none of the 2 examples holds an object of hat"):
        prepare(two_photos(), spec, FewShotSettings())


def test_crowds_are_no_objects_and_their_pixels_show_nothing() -> None:
    example = photo("a", (10, 10, 30, 30), (50, 50, 90, 120))
    crowded = replace(example, iscrowd_n=np.array([False, True]))
    prepared = prepare([crowded], SPEC, FewShotSettings())["a"]
    assert prepared.labels_n.tolist() == [1]
    np.testing.assert_array_equal(prepared.masks_nhw[0], example.masks_nhw[0])
    assert np.ptp(prepared.image_hw3[50:90, 50:120].reshape(-1, 3), axis=0).tolist() == [0, 0, 0]
    assert tuple(prepared.image_hw3[60, 60]) != RED
    np.testing.assert_array_equal(prepared.image_hw3[:50], example.image_hw3[:50])


def test_large_photos_are_reduced_once_to_what_the_largest_scale_needs() -> None:
    prepared = prepare([photo("a", (0, 0, 700, 900), size_hw=(960, 1280))], SPEC, FewShotSettings(scale=1.5))
    assert prepared["a"].image_hw3.shape == (144, 192, 3)


def test_masks_go_with_the_photo_and_boxes_with_the_masks() -> None:
    settings = FewShotSettings(scale=1.5, colour=0.0, hue=0.0)
    example = photo("a", (30, 20, 70, 60), size_hw=(192, 256))
    places = set()
    for seed in range(20):
        seen = augment(example, SPEC, settings, seed)
        red_hw = (seen.image_hw3.astype(int) - RED).__abs__().sum(axis=2) < 60
        mask_hw = seen.masks_nhw[0] if len(seen.masks_nhw) else np.zeros_like(red_hw)
        assert (mask_hw ^ red_hw).sum() <= 2 * (sum(seen.image_hw3.shape[:2]) // 4)  # the soft edge, one pixel wide
        image = TrainingImage.of(seen, seed)
        assert image.boxes_n4.tolist() == [list(tight_box(mask)) for mask in seen.masks_nhw]
        assert image.image_3hw.shape[1] <= 96
        assert image.image_3hw.shape[2] <= 128
        places.add(tuple(image.boxes_n4.flatten().tolist()))
    assert len(places) > 15  # of 20: two crops may both miss the object


def test_an_instance_that_a_crop_leaves_nothing_of_is_dropped_with_its_label() -> None:
    example = replace(photo("a", (0, 0, 10, 10), (40, 50, 60, 80)), labels_n=np.array([1, 2]))
    settings = FewShotSettings(scale=2.0)
    labels = [augment(example, SPEC, settings, seed).labels_n.tolist() for seed in range(30)]
    assert [1, 2] in labels  # the photo is smaller than the frame, or the crop lies at the corner
    assert [2] in labels
