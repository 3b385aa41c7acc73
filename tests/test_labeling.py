"""What the labeling jobs prepare; what they do with it is tested on a cluster."""

import torch

from persam_ray.labeling import _make_targets
from persam_ray.model_stages import SegmentOptions
from persam_ray.persam import make_target
from persam_ray.sam import Sam
from persam_ray.types import Checkpoint, Reference


def test_targets_are_made_in_float32_whatever_the_precision_of_labeling(
    small_checkpoint: Checkpoint, small_sam: Sam, disc_reference: Reference
) -> None:
    options = SegmentOptions("cpu", 1, 1, "bfloat16", "aligned")
    ((target,), _) = _make_targets(small_checkpoint, {"disc": [disc_reference]}, options, "persam")
    rounded = make_target(Sam(small_checkpoint, precision="bfloat16"), [disc_reference])
    exact = make_target(small_sam, [disc_reference])
    torch.testing.assert_close(target.embedding_c, exact.embedding_c, atol=1e-5, rtol=1e-5)
    assert (rounded.embedding_c - exact.embedding_c).abs().max() > 1e-3
