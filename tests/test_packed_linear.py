"""Linear layers with packed weights against plain ones."""

import pytest
import torch
from torch import nn

from persam_ray.packed_linear import packed

ROUNDED = {"rtol": 0.01, "atol": 0.004}  # bfloat16 keeps 8 bits of results near 1, and sums come in another order


def layer(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(64, 96, bias=bias).bfloat16().requires_grad_(False)


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (2, 5, 3), (1, 64, 64)])
def test_results_are_the_plain_layers(shape: tuple[int, ...], bias: bool) -> None:
    plain, x = layer(bias), torch.randn(*shape, 64).bfloat16()
    found = packed(plain)
    assert not isinstance(found, nn.Linear)
    torch.testing.assert_close(found(x), plain(x), **ROUNDED)
    torch.testing.assert_close(
        found(x[..., 1:4, :]), plain(x[..., 1:4, :]), **ROUNDED
    )  # rows that do not follow one another


def test_what_cannot_be_packed_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = layer()
    wide = nn.Linear(64, 96)
    assert packed(wide) is wide
    monkeypatch.delattr(torch.ops.mkldnn, "_linear_pointwise")
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *_: torch.zeros(2, 96).bfloat16(), raising=False)
    assert packed(plain) is plain
