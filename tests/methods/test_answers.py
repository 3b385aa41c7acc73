"""Answers are sorted by image and target; a mask without a pixel is none; the score of what is left."""

import pytest
import torch

from persam_ray.methods.answers import PendingMasks, RawMask, to_instance


def test_answers_come_by_image_and_target_and_an_empty_mask_is_none() -> None:
    full, empty = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    wide = torch.ones(1, 9, dtype=torch.bool)  # of another image, and of its size
    iou_n, similarity_n = torch.tensor([0.5, 0.25, 0.75, 1.0]), torch.tensor([0.0, 0.125, 0.25, 0.5])
    (first, none), (second, third) = PendingMasks([full, empty, wide, wide], iou_n, similarity_n, targets=2).wait()
    assert none is None
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.mask_hw.equal(full)
    assert second.mask_hw.equal(wide)
    assert [(raw.predicted_iou, raw.similarity) for raw in (first, second, third)] == [(0.5, 0), (0.75, 0.25), (1, 0.5)]


def test_the_score_is_similarity_times_the_root_of_predicted_iou() -> None:
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[2:5, 3:9] = True
    instance = to_instance(RawMask(mask, predicted_iou=0.81, similarity=0.5), "cup")
    assert instance is not None
    assert instance.score == pytest.approx(0.45)
    assert instance.box_xyxy == (3.0, 2.0, 9.0, 5.0)
    assert (instance.similarity, instance.predicted_iou) == (0.5, 0.81)


@pytest.mark.parametrize(("similarity", "iou", "score"), [(-0.2, 0.9, 0.0), (1.1, 1.2, 1.0), (0.9, -0.5, 0.0)])
def test_the_score_stays_between_0_and_1(similarity: float, iou: float, score: float) -> None:
    instance = to_instance(RawMask(torch.ones(4, 4, dtype=torch.bool), iou, similarity), "cup")
    assert instance is not None
    assert instance.score == score
