"""Modules built from checkpoints: what does not fit is named, weights are shared."""

import numpy as np
import pytest

from persam_ray.errors import CheckpointError
from persam_ray.sam.build import build_modules
from persam_ray.sam.layout import COMPACT_FORMAT
from persam_ray.types import Checkpoint
from tests.seeded_weights import compact_checkpoint


def test_compact_sam_needs_its_backbones_name() -> None:
    checkpoint = compact_checkpoint({"format": COMPACT_FORMAT, "backbone": "no_such_model", "image_size": "128"})
    with pytest.raises(CheckpointError, match="'no_such_model'"):
        build_modules(checkpoint)


@pytest.mark.parametrize(
    "name",
    [
        "mask_decoder.iou_token.weight", "mask_decoder.iou_prediction_head.layers.0.weight",
        "mask_decoder.transformer.layers.0.mlp.lin1.weight", "prompt_encoder.mask_downscaling.3.weight",
        "prompt_encoder.no_mask_embed.weight",
    ],
)  # fmt: skip
def test_tensors_without_content_cost_no_memory(small_checkpoint: Checkpoint, name: str) -> None:
    shape = [0] * small_checkpoint.tensors[name].ndim
    shape[0 if "lin1" in name or "layers.0.weight" in name or "downscaling" in name else 1] = 40_000_000
    with pytest.raises(CheckpointError, match=r"(do not fit|have shapes that no SAM)"):
        build_modules(Checkpoint({**small_checkpoint.tensors, name: np.zeros(shape, np.float32)}))


@pytest.mark.parametrize("tensors", [{}, {"fc.weight": np.zeros((2, 2))}])
def test_an_unknown_layout_says_what_was_found(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(CheckpointError, match=f"unknown checkpoint layout.*found {len(tensors)} tensors"):
        build_modules(Checkpoint(tensors))


def test_a_missing_tensor_is_named(small_checkpoint: Checkpoint) -> None:
    tensors = dict(small_checkpoint.tensors)
    del tensors["mask_decoder.transformer.norm_final_attn.weight"]
    with pytest.raises(CheckpointError, match=r"mask_decoder.*norm_final_attn\.weight"):
        build_modules(Checkpoint(tensors))


def test_read_only_weights_are_shared_not_copied(small_checkpoint: Checkpoint) -> None:
    tensors = {name: np.array(array) for name, array in small_checkpoint.tensors.items()}
    for array in tensors.values():
        array.flags.writeable = False
    modules = build_modules(Checkpoint(tensors))
    weight = modules.mask_decoder.iou_token.weight
    assert weight.data_ptr() == tensors["mask_decoder.iou_token.weight"].ctypes.data
