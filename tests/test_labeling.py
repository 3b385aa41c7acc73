"""What the labeling jobs prepare; what they do with it is tested on a cluster."""

import torch

from persam_ray.labeling import _make_targets
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
