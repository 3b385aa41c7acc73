"""The batch follows the GPU's free memory. There is no GPU here: its counters are given, the encoder is real."""

import pytest
import torch

from persam_ray.sam.memory import images_that_fit
from persam_ray.sam.model import Sam

GIB = 2**30


@pytest.mark.parametrize(("free", "images"), [(80 * GIB, 8), (8 * GIB, 8), (6 * GIB, 6), (2 * GIB, 2), (GIB // 2, 1)])
def test_as_many_images_as_half_of_the_free_memory_holds(
    small_sam: Sam, monkeypatch: pytest.MonkeyPatch, free: int, images: int
) -> None:
    weights, peak = 3 * GIB, 0

    def forget_peak(_device: object) -> None:
        nonlocal peak
        peak = weights

    def encode(resized: list[object]) -> torch.Tensor:
        nonlocal peak
        peak = weights + len(resized) * GIB // 2
        return type(small_sam).encode(small_sam, resized)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forget_peak)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: weights)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: peak)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 80 * GIB))
    monkeypatch.setattr(small_sam, "encode", encode)
    assert images_that_fit(small_sam, 8) == images
