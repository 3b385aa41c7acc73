"""What the labeling jobs prepare; what they do with it is tested on a cluster."""

import pytest
import torch

from persam_ray.labeling import CALLS_PER_ACTOR, ROWS_PER_CALL, _make_targets, _rows_per_call
from persam_ray.model_stages import SegmentOptions
from persam_ray.persam_f import make_target_f
from persam_ray.sam import Sam
from persam_ray.types import Checkpoint, Reference


def test_mask_weights_are_fitted_in_float32_whatever_the_precision_of_labeling(
    small_checkpoint: Checkpoint, small_sam: Sam, disc_reference: Reference
) -> None:
    options = SegmentOptions("cpu", 1, 1, "bfloat16", "aligned")
    ((target,), _) = _make_targets(small_checkpoint, {"disc": [disc_reference]}, options, "persam_f")
    rounded = make_target_f(Sam(small_checkpoint, precision="bfloat16"), [disc_reference])
    exact = make_target_f(small_sam, [disc_reference])
    torch.testing.assert_close(target.embedding_c, exact.embedding_c, atol=1e-5, rtol=1e-5)
    assert (rounded.embedding_c - exact.embedding_c).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("images", "actors", "batch_size"), [(1, 2, 1), (24, 2, 1), (48, 2, 1), (240, 2, 1), (600, 4, 8)]
)
def test_a_small_run_is_cut_finely_enough_that_all_actors_work(images: int, actors: int, batch_size: int) -> None:
    rows = _rows_per_call(images, actors, batch_size)
    assert rows == batch_size or images / rows >= actors * CALLS_PER_ACTOR
    assert rows % batch_size == 0


def test_a_large_run_is_cut_in_whole_batches() -> None:
    assert _rows_per_call(10**6, 2, 1) == ROWS_PER_CALL
    assert _rows_per_call(10**6, 2, 12) == 24
    assert _rows_per_call(10**6, 2, 32) == 32
