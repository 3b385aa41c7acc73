"""A compact SAM before its training: seeded weights, what cannot be built or written."""

import pytest
import torch

from persam_ray.compact_sam.network import CompactSam, new_compact_sam, to_compact_checkpoint

SIZE_PX = 128


def small_sam() -> CompactSam:
    return new_compact_sam("mobilenetv3_small_050", SIZE_PX, seed=0)


def test_new_weights_follow_from_the_seed_and_leave_torchs_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, again = small_sam().state_dict(), small_sam().state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = new_compact_sam("mobilenetv3_small_050", SIZE_PX, seed=1).state_dict()
    assert not torch.equal(first["image_encoder.fuse.0.weight"], other["image_encoder.fuse.0.weight"])


def test_a_model_that_cannot_be_built_says_why() -> None:
    with pytest.raises(ValueError, match="no model 'resnet_of_mine'"):
        new_compact_sam("resnet_of_mine", SIZE_PX, seed=0)
    with pytest.raises(ValueError, match=r"features at strides \[16, 16, 16\], but 8, 16 and 32 are needed"):
        new_compact_sam("vit_tiny_patch16_224", SIZE_PX, seed=0)
    with pytest.raises(ValueError, match="multiple of 32, at least 64, but got 100"):
        new_compact_sam("mobilenetv3_small_050", 100, seed=0)


def test_weights_beyond_float16_are_refused() -> None:
    model = small_sam()
    model.mask_decoder.iou_token.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"iou_token\.weight holds numbers that float16 cannot: up to 1e\+06"):
        to_compact_checkpoint(model)
