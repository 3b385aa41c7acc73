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
    if isinstance(found, nn.Linear):
        pytest.skip("torch packs no weights on this machine")
    torch.testing.assert_close(found(x), plain(x), **ROUNDED)
    torch.testing.assert_close(
        found(x[..., 1:4, :]), plain(x[..., 1:4, :]), **ROUNDED
    )  # rows that do not follow one another


def test_what_cannot_be_packed_stays_as_it_is() -> None:
    wide = nn.Linear(64, 96)
    assert packed(wide) is wide


@pytest.mark.parametrize("missing", [True, False])
def test_where_torch_has_no_such_operators_a_layer_stays_as_it_is(
    missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(x: torch.Tensor, *_: object) -> torch.Tensor:
        if missing:
            raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")
        return torch.nn.functional.linear(x.flip(-1), plain.weight, plain.bias)

    plain = layer()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", answer)
    assert packed(plain) is plain
