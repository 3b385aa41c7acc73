import numpy as np
import pytest

from persam_ray.errors import BadReferenceError
from persam_ray.types import Reference, as_binary_mask


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int8, np.uint16, np.int32, np.float32])
def test_a_mask_of_any_dtype_is_true_where_it_is_not_zero(dtype: type[np.generic]) -> None:
    mask = np.array([[0, 1], [1, 0]]).astype(dtype)
    assert as_binary_mask(mask).tolist() == [[False, True], [True, False]]


def test_any_channel_counts() -> None:
    mask = np.zeros((1, 3, 3), np.uint8)
    mask[0, 1, 2] = mask[0, 2, 0] = 1
    assert as_binary_mask(mask).tolist() == [[False, True, True]]


def test_negative_values_are_object_and_nan_is_not() -> None:
    assert as_binary_mask(np.array([[-128, 0]], np.int8)).tolist() == [[True, False]]
    assert as_binary_mask(np.array([[np.nan, -0.5, 0.0, np.inf]])).tolist() == [[False, True, False, True]]


@pytest.mark.parametrize("shape", [(4,), (1, 2, 3, 4)])
def test_a_mask_has_two_or_three_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadReferenceError, match="but got"):
        as_binary_mask(np.zeros(shape))


PHOTO = np.zeros((4, 6, 3), np.uint8)
MASK = np.ones((4, 6), np.bool_)


@pytest.mark.parametrize(
    ("image", "mask", "reason"),
    [
        (PHOTO[..., 0], MASK, r"must be uint8 of shape \(h, w, 3\), but got uint8 of shape \(4, 6\)"),
        (PHOTO.astype(np.float32), MASK, "but got float32"),
        (PHOTO, MASK.astype(np.uint8), "mask of 'cup' must be bool"),
        (PHOTO, MASK.T, "mask of 'cup' is 4 x 6 pixels, but its photo is 6 x 4"),
        (PHOTO, ~MASK, "is empty"),
    ],
)
def test_a_reference_that_cannot_be_used_says_why(image: np.ndarray, mask: np.ndarray, reason: str) -> None:
    with pytest.raises(BadReferenceError, match=reason):
        Reference("cup", image, mask)


def test_one_pixel_is_a_reference() -> None:
    mask = np.zeros((4, 6), np.bool_)
    mask[3, 5] = True
    assert Reference("cup", PHOTO, mask).mask_hw is mask
