"""Attention in blocks against PyTorch's."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from persam_ray.compute import attention
from persam_ray.compute.attention import attend, attend_in_blocks

CHANNELS = 16


def inputs(windows: int, heads: int, tokens: int) -> Tensor:
    """Return q, k and v of width 32, of which 16 channels of v count."""
    return torch.randn(3, windows, heads, tokens, 32, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("windows", "heads", "tokens"),
    [(1, 2, 600), (5, 3, 196), (1, 1, 1), (2, 3, attention.BLOCK_ROWS)],
    ids=["a last block of fewer rows", "heads share a block", "one token", "whole blocks"],
)
@pytest.mark.parametrize("logits", [2**20, 2**17, 1])
def test_blocks_give_what_the_whole_gives(
    monkeypatch: pytest.MonkeyPatch, windows: int, heads: int, tokens: int, logits: int
) -> None:
    monkeypatch.setattr(attention, "BLOCK_LOGITS", logits)
    q, k, v = inputs(windows, heads, tokens)
    expected = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :CHANNELS]
    torch.testing.assert_close(attend_in_blocks(q, k, v[..., :CHANNELS]), expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(("able", "in_blocks"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, False)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_blocks_serve_a_cpu_without_tiles_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], in_blocks: bool, dtype: torch.dtype
) -> None:
    calls = []

    def counted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append(v.shape)
        return attend_in_blocks(q, k, v)

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(attention, "attend_in_blocks", counted)
    q, k, v = inputs(2, 3, 600)
    found = attend(q.to(dtype), k.to(dtype), v.to(dtype), CHANNELS).float()
    assert calls == ([(2, 3, 600, CHANNELS)] if in_blocks and dtype == torch.bfloat16 else [])
    expected = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :CHANNELS]
    assert (found - expected).norm() < 0.03 * expected.norm()
