"""What `auto` means where."""

import pytest
import torch

from persam_ray.compute.precision import bfloat16_products, compute_dtype

CPU = torch.device("cpu")


def test_a_stated_precision_is_kept_everywhere() -> None:
    assert compute_dtype("float32", CPU) == torch.float32
    assert compute_dtype("bfloat16", CPU) == torch.bfloat16


@pytest.mark.parametrize(
    ("able", "products"),
    [
        ({}, None),
        ({"avx512_bf16": False, "amx_bf16": False}, None),
        ({"avx512_bf16": True}, "vectors"),
        ({"avx512_bf16": True, "amx_bf16": True}, "tiles"),
    ],
)
def test_a_cpu_takes_bfloat16_where_it_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], products: str | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert bfloat16_products() == products
    assert compute_dtype("auto", CPU) == (torch.float32 if products is None else torch.bfloat16)


def test_a_gpu_takes_bfloat16_where_it_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported in (False, True):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=supported, **_: has)
        expected = torch.bfloat16 if supported else torch.float32
        assert compute_dtype("auto", torch.device("cuda")) == expected
