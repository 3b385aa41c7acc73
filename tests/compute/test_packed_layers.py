"""Layers with packed weights against plain ones."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from persam_ray.compute.packed_layers import pack_within, packed

# bfloat16 keeps 8 bits of results near 1, and sums come in another order
ROUNDED: dict[torch.dtype, dict[str, Any]] = {
    torch.bfloat16: {"rtol": 0.01, "atol": 0.004},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
}
needs_operators = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
TYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])


def linear(bias: bool = True, dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(64, 96, bias=bias).to(dtype).requires_grad_(False)


def convolution(dtype: torch.dtype, kernel: int = 3, **options: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    layer = nn.Conv2d(32, 48, kernel, **options).to(dtype)
    return layer.to(memory_format=torch.channels_last).requires_grad_(False)


def image(dtype: torch.dtype, size_hw: tuple[int, int] = (12, 20)) -> Tensor:
    return torch.randn(1, 32, *size_hw).to(dtype, memory_format=torch.channels_last)


def packed_alone(layer: nn.Conv2d, x: Tensor) -> nn.Module:
    """Return what becomes of a convolution."""
    return pack_within(nn.Sequential(layer), x).get_submodule("0")


@needs_operators
@TYPES
@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (2, 5, 3), (1, 64, 64)])
def test_results_are_the_plain_layers(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    plain, x = linear(bias, dtype), torch.randn(*shape, 64).to(dtype)
    found = packed(plain)
    assert not isinstance(found, nn.Linear)
    torch.testing.assert_close(found(x), plain(x), **ROUNDED[dtype])
    some = x[..., 1:4, :]  # rows that do not follow one another
    torch.testing.assert_close(found(some), plain(some), **ROUNDED[dtype])


@needs_operators
@TYPES
@torch.inference_mode()
@pytest.mark.parametrize(
    "options",
    [{"kernel": 1}, {"padding": 1}, {"padding": 1, "stride": 2}, {"padding": 2, "dilation": 2}, {"bias": False}],
)
def test_a_packed_convolution_gives_the_plain_ones_results(options: dict[str, Any], dtype: torch.dtype) -> None:
    plain, x = convolution(dtype, **options), image(dtype)
    found = packed_alone(plain, x)
    assert not isinstance(found, nn.Conv2d)
    torch.testing.assert_close(found(x), plain(x), **ROUNDED[dtype])
    other = image(dtype, (9, 11)).repeat(2, 1, 1, 1)  # of another size than it was packed for
    torch.testing.assert_close(found(other), plain(other), **ROUNDED[dtype])


@pytest.mark.parametrize("options", [{"groups": 4}, {"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}])
def test_convolutions_that_gain_nothing_stay_as_they_are(options: dict[str, Any]) -> None:
    plain = convolution(torch.float32, **options)
    assert packed_alone(plain, image(torch.float32)) is plain


def test_what_cannot_be_packed_stays_as_it_is() -> None:
    wide = linear(dtype=torch.float64)
    assert packed(wide) is wide


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("operator", ["_linear_pointwise", "_convolution_pointwise"])
def test_where_torch_has_no_such_operators_a_layer_stays_as_it_is(
    missing: bool, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(x: Tensor, *_: object) -> Tensor:
        if missing:
            raise AttributeError(f"'_OpNamespace' 'mkldnn' object has no attribute '{operator}'")
        answered: Tensor = plain(x.flip(-1))
        return answered

    monkeypatch.setattr(torch.ops.mkldnn, operator, answer)
    plain: nn.Linear | nn.Conv2d
    if operator == "_linear_pointwise":
        plain = linear()
        assert packed(plain) is plain
    else:
        plain = convolution(torch.float32)
        assert packed_alone(plain, image(torch.float32)) is plain


class Branches(nn.Module):
    """A convolution in a list, one whose output is changed in place, and a linear layer behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleList([nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 16, 1)])
        self.head = nn.Sequential(nn.Linear(16, 8), nn.SiLU(inplace=True))
        self.unused = nn.Linear(3, 3)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.stem[0](x_bchw).relu_()
        y: Tensor = self.head(self.stem[1](x_bchw).permute(0, 2, 3, 1))
        return y


@needs_operators
@torch.inference_mode()
def test_layers_within_a_module_are_packed_wherever_they_are() -> None:
    plain = Branches().eval().requires_grad_(False)
    found = pack_within(copy.deepcopy(plain), image(torch.float32))
    kept = [name for name, layer in found.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert kept == ["unused"]
    x = image(torch.float32)
    torch.testing.assert_close(found(x), plain(x), rtol=1e-4, atol=1e-5)


class ByName(nn.Module):
    """Gives its layer what it takes by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(32, 8, 1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        y_bchw: Tensor = self.layer(input=x_bchw)
        return y_bchw


def test_a_layer_that_is_given_its_input_by_name_stays_as_it_is() -> None:
    module = ByName().eval()
    assert isinstance(pack_within(module, image(torch.float32)).get_submodule("layer"), nn.Conv2d)
