"""What `auto` means where."""

import pytest
import torch

from persam_ray.precision import compute_dtype

CPU = torch.device("cpu")


def test_a_stated_precision_is_kept_everywhere() -> None:
    assert compute_dtype("float32", CPU) == torch.float32
    assert compute_dtype("bfloat16", CPU) == torch.bfloat16


@pytest.mark.parametrize("amx", [False, True])
def test_a_cpu_takes_bfloat16_where_it_has_amx(monkeypatch: pytest.MonkeyPatch, amx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})
    assert compute_dtype("auto", CPU) == (torch.bfloat16 if amx else torch.float32)


def test_a_gpu_takes_bfloat16_where_it_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported in (False, True):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=supported, **_: has)
        expected = torch.bfloat16 if supported else torch.float32
        assert compute_dtype("auto", torch.device("cuda")) == expected
