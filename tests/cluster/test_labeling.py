"""What the labeling jobs prepare; what they do with it is tested on a cluster."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch

from persam_ray.cluster.labeling import CALLS_PER_ACTOR, ROWS_PER_CALL, _rows_per_call, _rows_per_file
from persam_ray.cluster.labeling_run import TooManyFailuresError, check_failures
from persam_ray.methods import mask_weights
from persam_ray.methods.persam import FeatureTarget
from persam_ray.methods.persam_f import make_target_f
from persam_ray.methods.references import ReferenceEncoder, encode_references
from persam_ray.methods.registry import MethodName
from persam_ray.runs.counts import Counts
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


def test_features_of_a_reference_photo_are_let_go_of_with_its_last_reference(
    small_sam: Sam, disc_reference: Reference
) -> None:
    encode = ReferenceEncoder(small_sam, [disc_reference, disc_reference])
    first = weakref.ref(encode(disc_reference).features_1chw)
    assert first() is not None
    encode(disc_reference)
    assert first() is None


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


def test_files_grow_with_the_run_so_that_little_is_lost_and_they_are_not_too_many() -> None:
    assert [_rows_per_file(images) for images in (1, 300, 100_000, 10**6, 10**8)] == [16, 16, 100, 1000, 1024]


def test_a_run_that_goes_wrong_is_stopped() -> None:
    check_failures(Counts(99, 0, 99), 0.1)  # too early to tell
    check_failures(Counts(200, 180, 20), 0.1)
    with pytest.raises(
        TooManyFailuresError, match=r"21 of the first 200 images failed \(21 damaged\): more than --max-"
    ):
        check_failures(Counts(200, 179, 21, 0, {"damaged": 21}), 0.1)
