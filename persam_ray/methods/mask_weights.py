"""The fit of PerSAM-F: two free weights that mix SAM's three mask scales (arXiv:2305.03048, section 3.3).

In come the logits of the three scales over a reference's own pixels (3 x 832 x 550 float32: 5 MB) and its mask.
Out come the weights (3). The logits never change, so each of the 1,000 steps only mixes them again.

The gradient is in closed form because autograd is too slow: for a photo of 550 x 832, on two cores of an AMD EPYC, the
fit takes 1.1 s. Autograd took 8.6 s on the loss as published and 3.8 s on the loss as written below, with the same
weights to 2e-5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

STEPS = 1000
LEARNING_RATE = 1e-3
ADAM_EPS = 1e-4
FOCAL_ALPHA = 0.25

LEAST_PROBABILITY = 1e-12
"""Its cube is still a normal float32: denormal numbers made the fit twice as slow on confident logits."""

FIT_PIXELS = 2**19
"""References of more pixels are averaged in square blocks for the fit. Logits come from a 256 x 256 grid, so a block
holds little more than one value: the weights move by less than 1e-3 (measured in tests), and a fit stays under 2 s."""


class ScaleMixingLoss:
    """Dice + focal loss of one reference as a function of the two free mask weights, with its gradient in closed form.

    The mixed logit of a pixel is z = l0 + w1 (l1 - l0) + w2 (l2 - l0). With the error margin s = z off the target and
    -z on it, q = sigmoid(s) is the probability given to the wrong answer, and both losses are sums over q alone:

        dice  = 1 - (2 sum_on(1 - q) + 1) / (sum_on(1 - q) + sum_off(q) + |on| + 1)        (smoothing 1)
        focal = mean(alpha_t q^2 softplus(s)),  d focal / ds = alpha_t q^2 (q + 2 (1 - q) softplus(s)) / n

    Args:
        logits_khw: The three scales' logits over the reference's own pixels.
        mask_hw: bool, the truth.
    """

    def __init__(self, logits_khw: Tensor, mask_hw: Tensor) -> None:
        block = math.ceil(math.sqrt(mask_hw.numel() / FIT_PIXELS))
        logits_ki = _block_means(logits_khw, block)
        on_i = _block_means(mask_hw[None].float(), block)[0]
        count_i = _block_means(torch.ones_like(mask_hw, dtype=torch.float32)[None], block, total=True)[0]
        self.device = logits_khw.device
        self.pixels = mask_hw.numel()
        self.on_pixels = float(mask_hw.sum())
        self._on = _Margins.of(-logits_ki, count_i * on_i)
        self._off = _Margins.of(logits_ki, count_i * (1 - on_i))

    def gradient(self, weights_2: Tensor) -> Tensor:
        """Return the derivative (2) of the loss by the two free weights."""
        wrong_on, slope_on_2, focal_on_2 = self._on.sums(weights_2)
        wrong_off, slope_off_2, focal_off_2 = self._off.sums(weights_2)
        hit = self.on_pixels - wrong_on  # sum over the target of the probability given to it
        numerator, denominator = 2 * hit + 1, hit + wrong_off + self.on_pixels + 1
        # On the target dp/dw = -dq/dw; off it dp/dw = dq/dw.
        dice_2 = 2 * slope_on_2 / denominator + numerator * (slope_off_2 - slope_on_2) / denominator**2
        focal_2 = FOCAL_ALPHA * focal_on_2 + (1 - FOCAL_ALPHA) * focal_off_2
        return dice_2 + focal_2 / self.pixels


@dataclass(frozen=True)
class _Margins:
    """Error margins s = base + w @ free of the pixels on (or off) the target, and how much each of them counts.

    Pixels lie along the contiguous axis and every step writes into the same buffers: both are worth a factor of 7.
    """

    base_i: Tensor
    free_2i: Tensor
    counted_3i: Tensor  # pixel count, and count * free: what q and its derivatives are summed with
    terms_3i: Tensor
    right_i: Tensor

    @classmethod
    def of(cls, signed_logits_ki: Tensor, count_i: Tensor) -> "_Margins":
        logits_ki, count_i = signed_logits_ki[:, count_i > 0], count_i[count_i > 0]
        free_2i = logits_ki[1:] - logits_ki[0]
        counted_3i = torch.cat([count_i[None], count_i * free_2i])
        return cls(logits_ki[0].clone(), free_2i, counted_3i, torch.empty_like(counted_3i), torch.empty_like(count_i))

    def sums(self, weights_2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return sum(q), d sum(q) / dw (2) and the sum of the focal loss's derivative by w (2), without alpha."""
        wrong_i, slope_i, focal_i = self.terms_3i
        right_i = self.right_i
        torch.addmv(self.base_i, self.free_2i.t(), weights_2, out=wrong_i).sigmoid_().clamp_min_(LEAST_PROBABILITY)
        torch.sub(1, wrong_i, out=right_i).clamp_min_(LEAST_PROBABILITY)
        torch.mul(wrong_i, right_i, out=slope_i)
        torch.log(right_i, out=focal_i).mul_(right_i)  # -(1 - q) softplus(s)
        torch.sub(wrong_i, focal_i, alpha=2, out=focal_i).mul_(wrong_i).mul_(wrong_i)
        sums_33 = self.terms_3i @ self.counted_3i.t()
        return sums_33[0, 0], sums_33[1, 1:], sums_33[2, 1:]


def _block_means(maps_khw: Tensor, block: int, *, total: bool = False) -> Tensor:
    """Average (or add up) each map over blocks of block x block pixels, flattened; blocks at the edge are smaller."""
    if block == 1:
        return maps_khw.flatten(1)
    padded = F.pad(maps_khw, (0, -maps_khw.shape[2] % block, 0, -maps_khw.shape[1] % block))
    sums = F.avg_pool2d(padded, block, divisor_override=1).flatten(1)
    return sums if total else sums / _block_means(torch.ones_like(maps_khw[:1]), block, total=True)


@torch.inference_mode()
def fit_mask_weights(losses: Sequence[ScaleMixingLoss]) -> Tensor:
    """Fit the weights (3) of the mask scales: AdamW from 1/3 each, 1,000 steps, cosine schedule to 0.

    The weights sum to 1, but each may be negative or above 1.
    """
    weights_2 = torch.full((2,), 1 / 3, device=losses[0].device)
    optimizer = AdamW([weights_2], lr=LEARNING_RATE, eps=ADAM_EPS, foreach=False)  # on a GPU the same steps as on a CPU
    schedule = CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        weights_2.grad = torch.stack([loss.gradient(weights_2) for loss in losses]).mean(dim=0)
        optimizer.step()
        schedule.step()
    return torch.cat([1 - weights_2.sum(dim=0, keepdim=True), weights_2])
