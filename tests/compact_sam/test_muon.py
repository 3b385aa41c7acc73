"""Muon: its matrices' steps against torch's own, convolutions as matrices, AdamW's share, and going on from a state."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon

from persam_ray.compact_sam.muon import MuonAdamW, orthogonalised

RATE, DECAY = 0.02, 0.1


def gradients(*shapes: tuple[int, ...], steps: int = 3) -> list[list[Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [[torch.randn(shape, generator=random) for shape in shapes] for _ in range(steps)]


def after(optimiser: torch.optim.Optimizer, weights: list[nn.Parameter], given: list[list[Tensor]]) -> list[Tensor]:
    for step in given:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.clone()
        optimiser.step()
    return [weight.detach().clone() for weight in weights]


def muon(*weights: nn.Parameter) -> MuonAdamW:
    return MuonAdamW([{"params": list(weights), "muon": True}], lr=RATE, weight_decay=DECAY)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_all_directions_of_a_matrix_become_alike(shape: tuple[int, int]) -> None:
    matrix = gradients(shape)[0][0]
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    strengths = torch.diagonal(left.T @ orthogonalised(matrix).float() @ right.T)
    assert 0.6 < strengths.min() <= strengths.max() < 1.3


@pytest.mark.parametrize("shape", [(8, 24), (24, 8)])
def test_a_matrix_takes_the_steps_of_torchs_muon(shape: tuple[int, int]) -> None:
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    given = gradients(shape)
    torchs = Muon([theirs], lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    torch.testing.assert_close(after(muon(ours), [ours], given), after(torchs, [theirs], given), rtol=0, atol=1e-6)


def test_a_convolution_is_a_matrix_with_a_row_for_each_output() -> None:
    kernel, matrix = nn.Parameter(torch.ones(8, 4, 3, 3)), nn.Parameter(torch.ones(8, 36))
    given = gradients((8, 36))
    as_kernels = [[gradient.view(8, 4, 3, 3) for gradient in step] for step in given]
    kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    moved = after(muon(kernel), [kernel], as_kernels)[0]
    torch.testing.assert_close(moved.flatten(1), after(muon(matrix), [matrix], given)[0], rtol=0, atol=1e-6)
    assert moved.is_contiguous(memory_format=torch.channels_last)


def test_the_other_groups_are_adamws() -> None:
    matrix, ours, theirs = (nn.Parameter(torch.ones(6, 6)) for _ in range(3))
    given = gradients((6, 6))
    groups: list[dict[str, Any]] = [{"params": [matrix], "muon": True}, {"params": [ours]}]
    mixed = MuonAdamW(groups, lr=RATE, weight_decay=DECAY)
    with_both = after(mixed, [matrix, ours], [step * 2 for step in given])
    alone = after(AdamW([theirs], lr=RATE, weight_decay=DECAY), [theirs], given)
    torch.testing.assert_close(with_both[1], alone[0], rtol=0, atol=0)
    assert not torch.allclose(with_both[0], alone[0], atol=1e-3)


def test_a_weight_without_a_gradient_stays() -> None:
    still, moving = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    moving.grad = torch.eye(4)
    muon(still, moving).step()
    assert torch.equal(still, torch.ones(4, 4))
    assert not torch.equal(moving, torch.ones(4, 4))


def test_it_goes_on_from_its_state() -> None:
    weight = nn.Parameter(torch.ones(6, 6))
    given = gradients((6, 6), steps=4)
    first = muon(weight)
    after(first, [weight], given[:2])
    copied = nn.Parameter(weight.detach().clone())
    second = muon(copied)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    torch.testing.assert_close(after(second, [copied], given[2:]), after(first, [weight], given[2:]), rtol=0, atol=0)


def test_it_takes_no_closure() -> None:
    with pytest.raises(ValueError, match="takes no closure"):
        muon(nn.Parameter(torch.ones(2, 2))).step(lambda: 0.0)
