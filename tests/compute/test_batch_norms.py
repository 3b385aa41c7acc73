"""Batch norms are folded where that is exact, and nowhere else."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from persam_ray.compute.batch_norms import fold_batch_norms
from persam_ray.compute.precision import Precision
from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.data.weights import locate
from persam_ray.sam.build import CompactEncoder
from persam_ray.sam.model import Sam


def randomised(module: nn.Module) -> nn.Module:
    """Give batch norms statistics as if they were trained."""
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.normal_(norm.running_mean, std=0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
    return module.eval()


def norms_of(module: nn.Module) -> int:
    return sum(isinstance(child, nn.BatchNorm2d) for child in module.modules())


@pytest.mark.parametrize("name", ["cs3darknet_s", "mobilenetv2_035", "resnet18"])
@torch.inference_mode()
def test_a_backbones_norms_are_all_folded(name: str) -> None:
    backbone: Any = timm.create_model(name, features_only=True, out_indices=(2, 3, 4), pretrained=False)
    encoder = randomised(CompactEncoder(backbone, tuple(backbone.feature_info.channels())))
    images = torch.randn(2, 3, 96, 128)
    expected = encoder(images)
    assert norms_of(encoder) > 10
    folded = fold_batch_norms(copy.deepcopy(encoder))
    assert norms_of(folded) == 0
    torch.testing.assert_close(folded(images), expected, atol=1e-4, rtol=1e-4)


class UsedTwice(nn.Module):
    """Adds a convolution's output to what its norm makes of it: the norm cannot go into the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        normed: Tensor = self.norm(x)
        return normed + x


@torch.inference_mode()
def test_where_folding_would_change_the_features_nothing_is_folded() -> None:
    module = randomised(UsedTwice())
    image = torch.randn(1, 3, 8, 8)
    expected = module(image)
    folded = fold_batch_norms(module)
    assert norms_of(folded) == 1
    torch.testing.assert_close(folded(image), expected)


@pytest.mark.parametrize(
    ("precision", "dtype", "folded"),
    [("float32", torch.float32, False), ("auto", torch.float32, True), ("bfloat16", torch.bfloat16, True)],
)
def test_auto_keeps_convolutions_in_float32(
    monkeypatch: pytest.MonkeyPatch, precision: Precision, dtype: torch.dtype, folded: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    sam = Sam(read_checkpoint(locate("demo")), precision=precision)
    assert {weight.dtype for weight in sam._image_encoder.parameters()} == {dtype}
    assert (norms_of(sam._image_encoder) == 0) == folded
    assert (sam._folded_decoder is not None) == folded


@torch.inference_mode()
def test_without_batch_norms_only_the_memory_format_changes() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    image = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(fold_batch_norms(copy.deepcopy(module))(image), module(image))
