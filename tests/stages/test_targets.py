"""Targets are made from references: each photo encoded once, mask weights fitted in float32."""

from typing import Any

import numpy as np
import pytest
import torch

from persam_ray.methods import mask_weights
from persam_ray.methods.persam import FeatureTarget
from persam_ray.methods.persam_f import make_target_f
from persam_ray.methods.references import encode_references
from persam_ray.methods.registry import MethodName
from persam_ray.sam.model import Sam
from persam_ray.stages.targets import SegmentOptions, make_targets
from persam_ray.types import Checkpoint, Reference
from tests.conftest import disc, scene


@pytest.mark.parametrize("method", ["persam", "persam_f"])
def test_a_photo_of_several_categories_and_references_is_encoded_once(
    method: MethodName, small_checkpoint: Checkpoint, disc_reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = Sam.encode

    def counting(self: Sam, resized: Any) -> Any:
        encoded.append(len(resized))
        return encode(self, resized)

    monkeypatch.setattr(Sam, "encode", counting)
    monkeypatch.setattr(mask_weights, "STEPS", 5)
    # Each reference has read its own copy of the photo, as a job's do.
    background = Reference("other", disc_reference.image_hw3.copy(), ~disc_reference.mask_hw)
    top = Reference("top", disc_reference.image_hw3.copy(), disc_reference.mask_hw & (np.mgrid[:90, :120][0] < 45))
    again = Reference("other", scene(128, 90, seed=3), disc(128, 90))
    references = {"disc": [disc_reference], "other": [background, again], "top": [top, background]}
    options = SegmentOptions("cpu", 1, 1, "float32", "aligned")
    shared, _ = make_targets(small_checkpoint, "sam.pth", references, options, method)
    assert encoded == [1, 1]
    alone = [
        make_targets(small_checkpoint, "sam.pth", {name: own}, options, method)[0][0]
        for name, own in references.items()
    ]
    for one, other in zip(shared, alone, strict=True):
        assert isinstance(one, FeatureTarget)
        assert isinstance(other, FeatureTarget)
        assert torch.equal(one.feature_c, other.feature_c)


def test_mask_weights_are_fitted_in_float32_whatever_the_precision_of_labeling(
    small_checkpoint: Checkpoint, small_sam: Sam, disc_reference: Reference
) -> None:
    options = SegmentOptions("cpu", 1, 1, "bfloat16", "aligned")
    ((target,), _) = make_targets(small_checkpoint, "sam.pth", {"disc": [disc_reference]}, options, "persam_f")
    assert isinstance(target, FeatureTarget)
    rounded_sam = Sam(small_checkpoint, precision="bfloat16")
    rounded = make_target_f(rounded_sam, encode_references(rounded_sam, [disc_reference]))
    exact = make_target_f(small_sam, encode_references(small_sam, [disc_reference]))
    torch.testing.assert_close(target.feature_c, exact.feature_c, atol=1e-5, rtol=1e-5)
    assert (rounded.feature_c - exact.feature_c).abs().max() > 1e-4
