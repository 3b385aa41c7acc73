"""PerSAM-F's fit against the official loss and loop, written out with autograd and torch.optim."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from persam_ray.images import resize_longest_side
from persam_ray.methods import mask_weights, persam_f
from persam_ray.methods.mask_weights import ScaleMixingLoss, fit_mask_weights
from persam_ray.methods.references import encode_references, target_features
from persam_ray.sam.model import Sam
from persam_ray.types import MaskCandidates, Reference
from tests.conftest import disc, scene


def smooth_logits(height: int, width: int, seed: int = 0, scale: float = 8.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 12, 12, generator=generator) * scale
    return F.interpolate(coarse, (height, width), mode="bicubic")[0]


def official_loss(logits: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    mixed = (logits * torch.cat([1 - weights.sum()[None], weights])[:, None, None]).sum(0).flatten()
    truth = mask.flatten().float()
    p = mixed.sigmoid()
    dice = 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    ce = F.binary_cross_entropy_with_logits(mixed, truth, reduction="none")
    p_t = p * truth + (1 - p) * (1 - truth)
    alpha = 0.25 * truth + 0.75 * (1 - truth)
    return dice + (alpha * ce * (1 - p_t) ** 2).mean()


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3), (1.4, -0.7), (-0.2, 0.1)])
def test_the_closed_form_gradient_is_autograds(weights: tuple[float, float]) -> None:
    logits, mask = smooth_logits(40, 60).double(), torch.from_numpy(disc(40, 60))
    free = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    official_loss(logits, mask, free).backward()
    found = ScaleMixingLoss(logits.float(), mask).gradient(free.detach().float())
    torch.testing.assert_close(found.double(), free.grad, rtol=1e-4, atol=1e-7)


def test_the_fit_ends_where_the_official_loop_does() -> None:
    logits, mask = smooth_logits(40, 60, seed=3), torch.from_numpy(disc(40, 60))
    free = torch.nn.Parameter(torch.ones(2) / 3)
    optimizer = torch.optim.AdamW([free], lr=1e-3, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    for _ in range(1000):
        optimizer.zero_grad()
        official_loss(logits, mask, free).backward()
        optimizer.step()
        schedule.step()
    expected = torch.cat([1 - free.sum()[None], free]).detach()
    assert (expected - 1 / 3).abs().max() > 0.05  # the fit has gone somewhere
    torch.testing.assert_close(fit_mask_weights([ScaleMixingLoss(logits, mask)]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_averaging_blocks_of_a_large_reference_moves_the_weights_by_less_than_a_thousandth(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, mask = smooth_logits(301, 403, seed), torch.from_numpy(disc(301, 403))
    exact = fit_mask_weights([ScaleMixingLoss(logits, mask)])
    monkeypatch.setattr(mask_weights, "FIT_PIXELS", 301 * 403 // 3)  # blocks of 2 x 2, with odd edges
    blocked_loss = ScaleMixingLoss(logits, mask)
    assert blocked_loss.on_pixels == int(mask.sum())
    torch.testing.assert_close(fit_mask_weights([blocked_loss]), exact, atol=1e-3, rtol=0)


def test_confident_logits_do_not_give_nan() -> None:
    logits = torch.tensor([-200.0, 200.0, 90.0])[:, None, None].expand(3, 8, 8).clone()
    weights = fit_mask_weights([ScaleMixingLoss(logits, torch.from_numpy(disc(8, 8)))])
    assert torch.isfinite(weights).all()


def test_the_three_logits_are_decoded_once(
    small_sam: Sam, disc_reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    decode = small_sam.decode

    def counting(*args: Any, **kwargs: Any) -> MaskCandidates:
        calls.append(1)
        return decode(*args, **kwargs)

    monkeypatch.setattr(small_sam, "decode", counting)
    target = persam_f.make_target_f(small_sam, encode_references(small_sam, [disc_reference]))
    assert len(calls) == 1
    assert float(target.mask_weights_3.sum()) == pytest.approx(1.0)


def test_the_target_is_half_mean_half_maximum_at_unit_norm(small_sam: Sam, disc_reference: Reference) -> None:
    (encoded,) = encode_references(small_sam, [disc_reference])
    cells = target_features(small_sam, encoded)
    blend = (cells.mean(0) + cells.max(0).values) / 2
    target = persam_f.make_target_f(small_sam, encode_references(small_sam, [disc_reference]))
    torch.testing.assert_close(target.feature_c, blend / blend.norm())


def test_several_references_are_fitted_together(small_sam: Sam, disc_reference: Reference) -> None:
    other = Reference("disc", scene(64, 128, seed=5), disc(64, 128))
    both = persam_f.make_target_f(small_sam, encode_references(small_sam, [disc_reference, other]))
    alone = persam_f.make_target_f(small_sam, encode_references(small_sam, [disc_reference]))
    assert not torch.allclose(both.mask_weights_3, alone.mask_weights_3)


def test_an_empty_weighted_mask_is_no_instance(small_sam: Sam, disc_reference: Reference) -> None:
    fitted = persam_f.make_target_f(small_sam, encode_references(small_sam, [disc_reference]))
    target = replace(fitted, mask_weights_3=torch.zeros(3))
    features = small_sam.encode([resize_longest_side(scene(90, 120), 128)])
    # Weights of 0 make every logit 0, and a mask is where they exceed 0.
    assert persam_f.segment_f(small_sam, features, [small_sam.frame((90, 120))], [target]).wait() == [[None]]
