"""The size of a SAM's input is read from its tensors or metadata."""

import numpy as np
import pytest

from persam_ray.errors import CheckpointError
from persam_ray.sam.build import build_modules
from persam_ray.sam.layout import COMPACT_FORMAT, image_size_px
from persam_ray.types import Checkpoint
from tests.seeded_weights import compact_checkpoint


@pytest.mark.parametrize("size", ["", "-32", "0", "100", "x", "4128", "32" * 3000])
def test_compact_sam_needs_a_size_that_its_strides_divide(size: str) -> None:
    with pytest.raises(CheckpointError, match=f"multiple of 32.*not '{size[:20]}'"):
        image_size_px(compact_checkpoint({"format": COMPACT_FORMAT, "backbone": "mobilenetv2_035", "image_size": size}))


def test_the_size_of_the_input_is_known_without_building_anything(small_checkpoint: Checkpoint) -> None:
    assert image_size_px(small_checkpoint) == build_modules(small_checkpoint).image_size_px
    without = {name: array for name, array in small_checkpoint.tensors.items() if name != "image_encoder.pos_embed"}
    with pytest.raises(CheckpointError, match=r"no tensor 'image_encoder\.pos_embed'"):
        image_size_px(Checkpoint(without))


@pytest.mark.parametrize("grid_hw", [(4, 5), (50_000, 50_000), (0, 0)])
def test_a_vit_of_no_possible_size_is_refused_before_photos_are_resized_to_it(
    small_checkpoint: Checkpoint, grid_hw: tuple[int, int]
) -> None:
    position = np.broadcast_to(np.float32(0), (1, *grid_hw, 1))
    with pytest.raises(CheckpointError, match=f"for {grid_hw[0]} x {grid_hw[1]} patches"):
        image_size_px(Checkpoint({**small_checkpoint.tensors, "image_encoder.pos_embed": position}))
