"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): steps along the orthogonalised momentum.

Muon steps move all directions of a weight matrix equally; AdamW's follow the few that most gradients share. Parameter
groups choose Muon; AdamW takes the rest. `torch.optim.Muon` does the same for matrices only, but most weights here are
convolutions: they are flattened to matrices with a row for each output channel.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

MOMENTUM = 0.95
UPDATE_RMS = 0.2
"""Root mean square of the entries of a step, about that of AdamW's steps, so that learning rates are comparable (Liu et
al. 2025, arXiv:2502.16982)."""

ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration's polynomial: it takes singular values in (0, 1] to about 0.7 to 1.2, fast."""


class MuonAdamW(AdamW):
    """AdamW, but Muon for parameter groups with `"muon": True`; both use the group's `lr` and `weight_decay`."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # no loss to return
        """Take one step.

        Raises:
            ValueError: A closure is given.
        """
        if closure is not None:
            raise ValueError("MuonAdamW takes no closure")
        turned = [
            (group, weight, weight.grad)
            for group in self.param_groups
            if group.get("muon")
            for weight in group["params"]
            if weight.grad is not None
        ]
        for _, weight, _ in turned:
            weight.grad = None  # AdamW skips weights without a gradient
        super().step()
        for group, weight, gradient in turned:
            weight.grad = gradient
            self._turn(weight, gradient, group["lr"], group["weight_decay"])

    def _turn(self, weight: Tensor, gradient: Tensor, learning_rate: float, weight_decay: float) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())  # AdamW's own loading asks every state for it
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum_buffer"]
        momentum.lerp_(gradient, 1 - MOMENTUM)
        direction = orthogonalised(gradient.lerp(momentum, MOMENTUM).flatten(1))
        weight.mul_(1 - learning_rate * weight_decay)
        scale = UPDATE_RMS * max(direction.shape) ** 0.5
        weight.add_(direction.view(weight.shape).to(weight), alpha=-learning_rate * scale)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return nearly the closest matrix with orthonormal rows or columns, by a Newton-Schulz iteration in bfloat16."""
    first, third, fifth = QUINTIC
    x = matrix.bfloat16()
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x.T if is_tall else x
