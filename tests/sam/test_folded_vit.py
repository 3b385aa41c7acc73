"""The folded ViT encoder against the package's."""

from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from persam_ray.sam.folded_vit import FoldedViT
from persam_ray.sam.model import Sam
from persam_ray.types import Checkpoint


@pytest.fixture(scope="module")
def encoder() -> ImageEncoderViT:
    """A grid of 20 in windows of 14 (so they are padded), and two global blocks."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=320, embed_dim=48, depth=4, num_heads=3, out_chans=16, norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True, window_size=14, global_attn_indexes=(1, 3),
    )  # fmt: skip
    for name, weight in encoder.named_parameters():
        if "pos" in name or name.endswith("bias"):
            nn.init.normal_(weight, std=0.5)  # the package's zeros would hide them
    return encoder.eval().requires_grad_(False)


@torch.inference_mode()
def test_folding_is_exact(encoder: ImageEncoderViT) -> None:
    images = torch.randn(2, 3, 320, 320)
    torch.testing.assert_close(FoldedViT(encoder)(images), encoder(images), atol=2e-5, rtol=1e-5)
    double = encoder.double()
    torch.testing.assert_close(FoldedViT(double)(images.double()), double(images.double()), atol=1e-12, rtol=1e-12)
    encoder.float()


@torch.inference_mode()
def test_relative_positions_matter(encoder: ImageEncoderViT) -> None:
    images = torch.randn(1, 3, 320, 320)
    before = FoldedViT(encoder)(images)
    table = encoder.blocks[1].attn.rel_pos_w
    kept = table.clone()
    table.zero_()
    assert (FoldedViT(encoder)(images) - before).abs().max() > 1e-3
    table.copy_(kept)


@torch.inference_mode()
def test_queries_keys_and_values_may_have_no_bias() -> None:
    torch.manual_seed(1)
    encoder = ImageEncoderViT(
        img_size=320, embed_dim=48, depth=2, num_heads=3, out_chans=16, use_rel_pos=True, window_size=14,
        global_attn_indexes=(1,), qkv_bias=False,
    )  # fmt: skip
    images = torch.randn(1, 3, 320, 320)
    torch.testing.assert_close(FoldedViT(encoder)(images), encoder(images), atol=2e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 3])
def test_in_bfloat16_features_are_within_two_percent(encoder: ImageEncoderViT, batch: int) -> None:
    images = torch.randn(batch, 3, 320, 320)
    exact = encoder(images)
    rounded = FoldedViT(encoder.bfloat16())(images.bfloat16()).float()
    encoder.float()
    assert (rounded - exact).norm() < 0.02 * exact.norm()


def test_sam_folds_in_bfloat16_and_keeps_the_packages_pass_in_float32(small_checkpoint: Checkpoint) -> None:
    assert isinstance(Sam(small_checkpoint, precision="bfloat16")._image_encoder, FoldedViT)
    assert isinstance(Sam(small_checkpoint, precision="float32")._image_encoder, ImageEncoderViT)
