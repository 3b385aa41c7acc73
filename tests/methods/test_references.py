"""Features of reference photos."""

import weakref

from persam_ray.methods.references import ReferenceEncoder
from persam_ray.sam.model import Sam
from persam_ray.types import Reference


def test_features_of_a_reference_photo_are_let_go_of_with_its_last_reference(
    small_sam: Sam, disc_reference: Reference
) -> None:
    encode = ReferenceEncoder(small_sam, [disc_reference, disc_reference])
    first = weakref.ref(encode(disc_reference).features_1chw)
    assert first() is not None
    encode(disc_reference)
    assert first() is None
