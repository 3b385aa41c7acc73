"""Decoding: photos become pixels of the model frame, a bad one a row with its error."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from persam_ray.images import decode_image, resize_longest_side, resized_size_hw
from persam_ray.stages.decode import DecodeImages
from persam_ray.stages.tables import PIXELS
from tests.stages.read_rows import CUP, ENCODED, read_row, read_table


def decoded(*given: dict[str, Any], image_size_px: int = 24) -> list[dict[str, Any]]:
    table = DecodeImages(partial(resized_size_hw, image_size_px=image_size_px))(read_table(*given))
    assert table.schema == PIXELS
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_photos_become_the_resized_pixels_of_the_model_frame() -> None:
    (row,) = decoded(read_row("a"))
    pixels = np.frombuffer(row["pixels"], np.uint8).reshape(row["pixels_height"], row["pixels_width"], 3)
    np.testing.assert_array_equal(pixels, resize_longest_side(decode_image(ENCODED), 24))
    assert (row["pixels_height"], row["pixels_width"]) == (16, 24)
    assert (row["height"], row["width"], row["error"]) == (40, 60, None)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image": b""}, r"the file is empty (0 bytes)"),
        ({"image": None}, r"the file is empty (0 bytes)"),
        ({"image": b"text"}, "not an image"),
        ({"image": ENCODED[:500]}, "the image is damaged"),
        ({"image": b"", "error": "the file cannot be read: gone"}, "the file cannot be read: gone"),
    ],
)
def test_a_bad_photo_is_a_row_with_its_error_among_the_good(fields: dict[str, Any], reason: str) -> None:
    first, bad, last = decoded(read_row("a"), read_row("b") | fields, read_row("c"))
    assert [row["image_id"] for row in (first, bad, last)] == ["a", "b", "c"]
    assert (first["error"], last["error"]) == (None, None)
    assert first["pixels"] == last["pixels"]
    assert reason in bad["error"]
    assert (bad["pixels"], bad["height"], bad["width"]) == (None, None, None)


def test_annotations_travel_with_their_photo() -> None:
    with_truth, without, empty = decoded(
        read_row("a", annotations=[CUP], height=40, width=60), read_row("b"), read_row("c", annotations=[])
    )
    assert with_truth["annotations"] == [CUP]
    assert (without["annotations"], empty["annotations"]) == (None, [])
    assert [row["error"] for row in (with_truth, without, empty)] == [None] * 3


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"annotations": [CUP], "height": 60, "width": 40}, "for an image of 40 x 60 pixels, but the photo is 60 x 40"),
        ({"annotations": [CUP | {"rle": "922"}]}, "annotation of 'cup': the run-length string covers"),
        ({"annotations": [CUP | {"rle": None}]}, "lacks its category or its mask"),
        ({"annotations": [None]}, "lacks its category or its mask"),
    ],
)
def test_truth_that_does_not_fit_is_an_error_of_the_image_whose_size_is_known(
    fields: dict[str, Any], reason: str
) -> None:
    (row,) = decoded(read_row("a", **fields))
    assert reason in row["error"]
    assert (row["height"], row["width"], row["pixels"]) == (40, 60, None)


def test_a_stated_size_without_annotations_is_of_no_account() -> None:
    (row,) = decoded(read_row("a", height=7, width=9))
    assert (row["error"], row["height"], row["width"]) == (None, 40, 60)
