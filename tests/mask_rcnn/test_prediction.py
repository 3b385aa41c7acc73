"""Finding instances: masks in the photo's own frame, limits, pasting."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import psutil
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from persam_ray.mask_rcnn.model import MaskRcnn, compute_in, from_checkpoint, to_checkpoint
from persam_ray.mask_rcnn.prediction import paste_masks, predict
from persam_ray.masks import tight_box
from persam_ray.types import BoolArray, DetectionLimits
from tests.few_photos import two_photos


def test_predictions_lie_in_the_photos_own_frame(shape_detector: MaskRcnn) -> None:
    enlarged = two_photos()[0].image_hw3.repeat(5, axis=0).repeat(5, axis=1)  # 480 x 640
    best = predict(shape_detector, [enlarged])[0][0]
    assert best.mask_hw.shape == (480, 640)
    assert best.box_xyxy == tight_box(best.mask_hw)
    assert (best.similarity, best.predicted_iou, best.category) == (None, None, "shape")
    truth_hw = two_photos()[0].masks_nhw[0].repeat(5, axis=0).repeat(5, axis=1)
    assert (best.mask_hw & truth_hw).sum() / (best.mask_hw | truth_hw).sum() > 0.7


def test_thresholds_and_limits_are_kept_and_scores_fall(shape_detector: MaskRcnn) -> None:
    image = two_photos()[0].image_hw3
    scores = [instance.score for instance in predict(shape_detector, [image], DetectionLimits(score=0.0))[0]]
    assert scores == sorted(scores, reverse=True)
    middle = scores[len(scores) // 2]
    assert all(
        instance.score > middle for instance in predict(shape_detector, [image], DetectionLimits(score=middle))[0]
    )
    assert len(predict(shape_detector, [image], DetectionLimits(score=0.0, per_image=2))[0]) == 2


def test_instances_without_a_pixel_are_left_out(shape_detector: MaskRcnn) -> None:
    blind = from_checkpoint(*to_checkpoint(shape_detector))
    with torch.no_grad():
        blind.detector.roi_heads.mask_predictor.mask_fcn_logits.bias.fill_(-1000)
    assert predict(blind, [two_photos()[0].image_hw3]) == [[]]


def test_a_photo_is_judged_alone_whatever_came_before(shape_detector: MaskRcnn) -> None:
    square, tall = (example.image_hw3 for example in two_photos())
    thin = np.full((2000, 25, 3), 128, np.uint8)  # 128 x 2 in the frame: misleads torchvision's guess of the strides
    fresh = from_checkpoint(*to_checkpoint(shape_detector))
    together = predict(fresh, [thin, square, tall])[1:]
    alone = [predict(shape_detector, [square])[0], predict(shape_detector, [tall])[0]]
    assert [[one.score for one in photo] for photo in together] == [[one.score for one in photo] for photo in alone]


def test_pasting_gives_torchvisions_pixels() -> None:
    generator = torch.Generator().manual_seed(5)
    corners = torch.rand(40, 2, 2, generator=generator) * torch.tensor([140.0, 110.0]) - 10  # beyond all edges
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    masks = torch.rand(40, 1, 28, 28, generator=generator)
    expected = paste_masks_in_image(masks, boxes, (90, 120))[:, 0] > 0.5
    np.testing.assert_array_equal(np.stack(paste_masks(masks, boxes, (90, 120))), expected.numpy())


def memory_for_a_hundred_masks() -> tuple[int, float]:
    """The pixels set in 100 masks of a 12-megapixel photo, and by how many bytes this process has grown for them."""
    places = torch.arange(100.0)[:, None] * 20
    boxes = torch.cat([places, places, places + 300, places + 300], dim=1)
    before = psutil.Process().memory_info().rss
    pasted: list[BoolArray] = paste_masks(torch.ones(100, 1, 28, 28), boxes, (3000, 4000))
    return sum(int(mask.sum()) for mask in pasted), psutil.Process().memory_info().rss - before


def test_a_hundred_masks_of_a_12_megapixel_photo_fit_in_memory() -> None:
    # In a process of its own: in one that has freed much, the allocator hands out used pages, which must be cleared.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        pixels, used = fresh.submit(memory_for_a_hundred_masks).result()
    assert pixels > 100 * 250**2
    assert used < 400e6  # as float32 they are 4.8 GB; as bool 1.2 GB, of which most pages are never written


def test_in_bfloat16_boxes_and_scores_stay_float32(shape_detector: MaskRcnn) -> None:
    fast = from_checkpoint(*to_checkpoint(shape_detector))
    compute_in(fast, torch.bfloat16)
    image = two_photos()[0].image_hw3
    exact, found = (predict(model, [image], DetectionLimits(score=0.01))[0] for model in (shape_detector, fast))
    scores = torch.tensor([instance.score for instance in found])
    assert (scores != scores.bfloat16().float()).any()
    assert found[0].score == pytest.approx(exact[0].score, abs=0.05)
    both = found[0].mask_hw & exact[0].mask_hw
    assert both.sum() / (found[0].mask_hw | exact[0].mask_hw).sum() > 0.9
    assert (found[0].mask_hw != exact[0].mask_hw).any() or found[0].score != exact[0].score  # it did compute otherwise
