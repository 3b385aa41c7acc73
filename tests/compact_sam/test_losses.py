"""Losses of mask candidates, by hand, and the points that follow an answer."""

import numpy as np
import pytest
import torch

from persam_ray.compact_sam.losses import candidate_losses, error_points
from persam_ray.compact_sam.samples import (
    CELL_PX,
)

ALWAYS, NEVER = torch.tensor([True]), torch.tensor([False])


def test_only_the_best_scale_learns_its_mask_and_the_single_mask_where_it_is_asked_for() -> None:
    masks = torch.zeros(1, 8, 8)
    masks[:, :4] = 1
    right = masks * 2 - 1
    for single, learning in ((NEVER, [False, False, True, False]), (ALWAYS, [True, False, True, False])):
        logits = torch.stack([right, -right, right, torch.zeros_like(right)], dim=1).requires_grad_()
        losses = candidate_losses(logits, torch.zeros(1, 4), masks, single)
        torch.autograd.backward(losses["focal"] + losses["dice"])
        assert logits.grad is not None
        assert logits.grad.flatten(2).any(dim=2).tolist() == [learning]
        # sigmoid(1) = 0.7311: -log 0.7311 = 0.3133, (1 - 0.7311)^2 = 0.0723, mean alpha = 1/2, times 20
        assert losses["focal"].item() == pytest.approx(20 * 0.5 * 0.0723 * 0.3133, rel=1e-2)
        # 1 - (2 * 32 * 0.7311 + 1) / (32 + 32 + 1)
        assert losses["dice"].item() == pytest.approx(1 - (64 * 0.7311 + 1) / 65, rel=1e-3)


def test_the_iou_head_learns_the_real_iou_of_every_candidate() -> None:
    masks = torch.zeros(1, 4, 4)
    masks[:, :2] = 1  # 8 cells
    found = torch.full((1, 4, 4, 4), -3.0)
    found[:, 0, :2] = 3  # all of it: 1
    found[:, 1, 1:3] = 3  # 4 of 12: 1/3
    predicted = torch.full((1, 4), 0.5, requires_grad=True)  # the others are empty: 0
    losses = candidate_losses(found.requires_grad_(), predicted, masks, ALWAYS)
    torch.autograd.backward(losses["iou"])
    assert losses["iou"].item() == pytest.approx((0.5**2 + (1 / 6) ** 2 + 0.5**2 + 0.5**2) / 4)
    torch.testing.assert_close(predicted.grad, 2 / 4 * (predicted.detach() - torch.tensor([[1, 1 / 3, 0, 0]])))
    assert found.grad is None  # masks do not learn to fit the prediction


def test_later_points_lie_where_the_answer_is_wrong() -> None:
    mask = np.zeros((4, 8, 8), dtype=np.bool_)
    mask[:, 2:5, 2:5] = True
    found = mask.copy()
    found[0, 3, 3] = False  # missed
    found[1, 7, 0] = True  # wrong
    found[2, 2:5, 2:5] = False
    xy, labels = error_points(found, mask, np.random.default_rng(0))
    assert labels.tolist() == [1, 0, 1, 1]
    assert (xy[:2] // CELL_PX).tolist() == [[3, 3], [0, 7]]
    assert all(2 <= cell <= 4 for cell in (xy[2:] // CELL_PX).flat)  # all missed; nothing wrong: on the object
