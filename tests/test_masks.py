import itertools

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from persam_ray.masks import (
    boundary,
    check_rle,
    components,
    decode_rle,
    drop_small_components,
    encode_components,
    encode_rle,
    rle_object,
    rle_runs,
    tight_box,
)
from persam_ray.types import BoolArray


def drawn(*rows: str) -> BoolArray:
    """Read a mask that is drawn in text: `#` is True."""
    return np.array([[character == "#" for character in row] for row in rows])


def random_masks(count: int = 40) -> list[BoolArray]:
    generator = np.random.default_rng(3)
    sizes = generator.integers(1, 40, (count, 2))
    return [generator.random(tuple(size)) < generator.random() for size in sizes]


def written(runs: list[int], groups: int | None = None) -> str:
    """Write runs as pycocotools' rleToString does; `groups` pads the last number to that many 6-bit groups."""
    text = ""
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        wanted = groups if groups is not None and index == len(runs) - 1 else 0
        length = 0
        while True:
            group, value, length = value & 0x1F, value >> 5, length + 1
            is_last = value == (-1 if group & 0x10 else 0) and length >= wanted
            text += chr(48 + (group if is_last else group | 0x20))
            if is_last:
                break
    return text


# --- run-length encoding ---------------------------------------------------------------------------------------------

SQUARE = drawn(".....", "..##.", "..##.", ".....")
SQUARE_RUNS = [9, 2, 2, 2, 5]  # by hand, column by column: 4 + 4 + 1 zeros, 2 ones, 1 + 1 zeros, 2 ones, 1 + 4 zeros


def test_runs_go_down_the_columns_and_begin_with_zeros() -> None:
    assert rle_runs(encode_rle(SQUARE)) == SQUARE_RUNS
    assert rle_runs(encode_rle(~SQUARE)) == [0, *SQUARE_RUNS]


def test_the_string_is_that_of_the_coco_format() -> None:
    # COCO: each number plus 48 as a character; from the third on the difference to the number two before:
    # 9, 2, 2, 2 - 2, 5 - 2
    assert encode_rle(SQUARE) == "".join(chr(48 + number) for number in (9, 2, 2, 0, 3))


@pytest.mark.parametrize("mask", [*random_masks(), np.zeros((3, 4), np.bool_), np.ones((3, 4), np.bool_)])
def test_a_mask_survives_encoding(mask: BoolArray) -> None:
    size_hw = (mask.shape[0], mask.shape[1])
    rle = encode_rle(mask)
    decoded = decode_rle(rle, size_hw)
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, mask)
    assert coco_mask.area(rle_object(rle, size_hw)) == mask.sum()


@pytest.mark.parametrize("mask", random_masks())
def test_runs_are_those_that_pycocotools_packs(mask: BoolArray) -> None:
    height, width = mask.shape
    runs = rle_runs(encode_rle(mask))
    packed = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    assert packed["counts"].decode() == encode_rle(mask) == written(runs)


@pytest.mark.parametrize(
    ("rle", "reason"),
    [
        ("", "covers 0 pixels, but the mask is 5 x 4 = 20"),
        (written([19]), "covers 19 pixels"),
        (written([9, 12]), "covers 21 pixels"),
        (written([0, 10**6]), "covers 1000000 pixels"),
        (written([25, -5]), "covers 20 pixels"),
        (written([10, -5, 15]), "covers 20 pixels"),
        (written([5, 5, 5, -5, 10]), "covers 20 pixels"),
        (written([9, 0, 2, 2, 7]), "length 0 inside"),
        (written([20 + 2**32]), "30 bits"),  # pycocotools counts in 32 bits: 20
        (written([9, 2, 2, 2, 5], groups=7), "30 bits"),
        ("92203\0", "character"),
        ("92203 ", "character"),
        ("9220z", "character"),
        ("92203é", "ascii"),
        ("92203\ud800", "ascii"),
        ("o" * 1000, "30 bits"),
        ("9220o", "ends in the middle"),
    ],
)
def test_a_string_that_is_no_mask_of_the_size_is_refused(rle: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_rle(rle, (4, 5))
    with pytest.raises(ValueError, match=reason):
        decode_rle(rle, (4, 5))


def test_numbers_that_pycocotools_would_read_otherwise_are_refused() -> None:
    runs = [10, 25, 30, 5]  # 5 is written as 5 - 25 = -20
    size_hw = (sum(runs), 1)
    check_rle(written(runs), size_hw)
    check_rle(written(runs, groups=6), size_hw)
    too_long = written(runs, groups=7)  # the same number, with leading ones that pycocotools shifts round
    assert coco_mask.area(rle_object(written(runs), size_hw)) == 25 + 5
    assert coco_mask.area(rle_object(too_long, size_hw)) != 25 + 5
    with pytest.raises(ValueError, match="30 bits"):
        check_rle(too_long, size_hw)


# --- boxes and components --------------------------------------------------------------------------------------------


def test_a_box_ends_after_its_last_pixel() -> None:
    assert tight_box(SQUARE) == (2.0, 1.0, 4.0, 3.0)
    assert tight_box(np.ones((1, 1), np.bool_)) == (0.0, 0.0, 1.0, 1.0)


def test_an_empty_mask_has_no_box() -> None:
    with pytest.raises(ValueError, match="empty mask"):
        tight_box(np.zeros((2, 2), np.bool_))


BLOBS = drawn(
    "##...#",
    "##..#.",  # the diagonal on the right is one component: 8 neighbours
    "...#..",
    "#.....",
)


def test_components_are_8_connected_and_in_scan_order() -> None:
    expected = [
        drawn("##....", "##....", "......", "......"),
        drawn(".....#", "....#.", "...#..", "......"),
        drawn("......", "......", "......", "#....."),
    ]
    found = components(BLOBS)
    assert len(found) == 3
    for mask, one in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, one)


def test_encoded_components_are_the_components_largest_first() -> None:
    found = [decode_rle(rle, (4, 6)) for rle in encode_components(BLOBS)]
    for mask, one in zip(found, components(BLOBS), strict=True):  # of 4, 3 and 1 pixels, in scan order too
        np.testing.assert_array_equal(mask, one)


@pytest.mark.parametrize("mask", random_masks(20))
def test_encoded_components_are_canonical_strings_and_add_up_to_the_mask(mask: BoolArray) -> None:
    pieces = [decode_rle(rle, (mask.shape[0], mask.shape[1])) for rle in encode_components(mask)]
    assert sorted(encode_components(mask)) == sorted(encode_rle(one) for one in components(mask))
    np.testing.assert_array_equal(sum(pieces, np.zeros(mask.shape, int)), mask.astype(int))
    areas = [int(piece.sum()) for piece in pieces]
    assert areas == sorted(areas, reverse=True)


def test_nothing_has_no_components() -> None:
    assert components(np.zeros((3, 3), np.bool_)) == []
    assert encode_components(np.zeros((3, 3), np.bool_)) == []


@pytest.mark.parametrize(("fraction", "kept"), [(0, 8), (1 / 24, 8), (1.01 / 24, 7), (3 / 24, 7), (4 / 24, 4), (1, 0)])
def test_components_under_the_fraction_are_dropped(fraction: float, kept: int) -> None:
    # 24 pixels; components of 4, 3 and 1; one of exactly the fraction stays
    left = drop_small_components(BLOBS, fraction)
    assert left.sum() == kept
    assert not (left & ~BLOBS).any()


def test_a_full_mask_stays_at_a_fraction_of_one() -> None:
    assert drop_small_components(np.ones((3, 4), np.bool_), 1).all()


# --- boundary --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [np.ones((5, 5), np.bool_), BLOBS, *random_masks(10)])
def test_the_boundary_is_what_lies_within_the_distance_of_the_outside(mask: BoolArray) -> None:
    height, width = mask.shape
    distance_px = max(1, round(0.1 * float(np.hypot(height, width))))
    outside = np.pad(~mask, distance_px, constant_values=True)  # the image's edge is contour
    window = np.lib.stride_tricks.sliding_window_view(outside, (2 * distance_px + 1,) * 2)
    np.testing.assert_array_equal(boundary(mask, 0.1), mask & window.any(axis=(2, 3)))


def test_the_default_distance_is_two_percent_of_the_diagonal() -> None:
    mask = np.ones((300, 400), np.bool_)  # diagonal 500: 10 pixels
    inner = cv2.copyMakeBorder(np.zeros((280, 380), np.uint8), 10, 10, 10, 10, cv2.BORDER_CONSTANT, value=[1])
    np.testing.assert_array_equal(boundary(mask), inner > 0)


def test_the_edge_of_the_image_belongs_to_the_boundary() -> None:
    everything_hw = np.ones((100, 100), dtype=np.bool_)
    assert np.count_nonzero(boundary(everything_hw)) == 100**2 - 94**2
    assert np.count_nonzero(boundary(everything_hw, dilation_ratio=0.0)) == 100**2 - 98**2


def test_encoded_components_of_random_masks_are_the_components_largest_first() -> None:
    rng = np.random.default_rng(0)
    for size_hw, density in itertools.product([(1, 1), (1, 9), (9, 1), (23, 17)], [0.0, 0.1, 0.4, 1.0]):
        mask_hw = rng.random(size_hw) < density
        encoded = encode_components(mask_hw)
        assert sorted(encoded) == sorted(encode_rle(component) for component in components(mask_hw))
        areas = [np.count_nonzero(decode_rle(rle, size_hw)) for rle in encoded]
        assert areas == sorted(areas, reverse=True)
