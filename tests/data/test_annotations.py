import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from persam_ray.data.annotations import BadAnnotationError, category_mask, category_rle, check_truth, from_mask
from persam_ray.data.coco import from_coco
from persam_ray.data.deepfashion import DEEPFASHION_CATEGORIES, from_index_map
from persam_ray.masks import decode_rle, encode_rle
from persam_ray.types import BoolArray
from tests.encoded_images import encoded, huge_png

SIZE_HW = (4, 5)


def rectangle(y: int, x: int, height: int, width: int) -> BoolArray:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[y : y + height, x : x + width] = True
    return mask


SQUARE = rectangle(1, 2, 2, 2)
SQUARE_RUNS = [9, 2, 2, 2, 5]  # see test_masks.py
SQUARE_POLYGON = [2, 1, 4, 1, 4, 3, 2, 3]  # its corners, x before y


# --- DeepFashion-MultiModal ------------------------------------------------------------------------------------------

INDEX_MAP = np.array([[0, 1, 1], [0, 1, 23]], np.uint8)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_an_index_map_holds_one_mask_for_each_class_but_the_background(mode: str) -> None:
    image = Image.fromarray(INDEX_MAP)
    if mode == "P":
        image.putpalette([255 - value for value in range(256) for _ in range(3)])  # colours are of no account
    rows, size_hw = from_index_map(encoded(image))
    assert size_hw == (2, 3)
    assert [row["category"] for row in rows] == ["top", "tie"]
    for row, index in zip(rows, (1, 23), strict=True):
        np.testing.assert_array_equal(decode_rle(row["rle"], size_hw), index == INDEX_MAP)
    assert rows[0]["bbox_xywh"] == [1, 0, 2, 2]
    assert (rows[0]["area"], rows[0]["iscrowd"]) == (3, False)


def test_a_map_of_background_alone_has_no_annotation() -> None:
    assert from_index_map(encoded(np.zeros((3, 4), np.uint8))) == ([], (3, 4))


def test_there_are_24_classes_as_published() -> None:
    assert len(DEEPFASHION_CATEGORIES) == 24
    assert [DEEPFASHION_CATEGORIES[index] for index in (0, 11, 17, 23)] == [
        "background", "footwear", "wrist wearing", "tie",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded(np.full((2, 2), 24, np.uint8)), "indices 0 to 23, but it is uint8 .* values up to 24"),
        (encoded(np.zeros((2, 2, 3), np.uint8)), r"of shape \(2, 2, 3\)"),
        (b"", "cannot be read"),
        (encoded(np.zeros((64, 64), np.uint8))[:60], "cannot be read"),
        (huge_png(20_000), "cannot be read: 20000 x 20000 pixels is more than"),
    ],
)
def test_what_is_no_index_map_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(BadAnnotationError, match=reason):
        from_index_map(content)


# --- COCO ------------------------------------------------------------------------------------------------------------


def coco(segmentation: object, **fields: object) -> dict[str, Any]:
    return {"id": 31, "image_id": 1, "category_id": 7, "segmentation": segmentation, **fields}


def read(annotation: dict[str, Any], size_hw: tuple[int, int] = SIZE_HW) -> dict[str, Any]:
    (row,) = from_coco([json.loads(json.dumps(annotation))], {7: "cup"}, size_hw)
    return row


@pytest.mark.parametrize(
    "segmentation",
    [
        [SQUARE_POLYGON],
        {"size": [4, 5], "counts": SQUARE_RUNS},
        {"size": [4, 5], "counts": encode_rle(SQUARE)},
        [SQUARE_POLYGON, [0, 0, 1, 1]],  # two points enclose nothing
    ],
    ids=["polygon", "uncompressed", "compressed", "polygon and a line"],
)
def test_every_form_of_a_coco_mask_is_read(segmentation: object) -> None:
    row = read(coco(segmentation))
    assert row == from_mask("cup", SQUARE)
    np.testing.assert_array_equal(decode_rle(row["rle"], SIZE_HW), SQUARE)


def test_the_polygons_of_one_annotation_are_united() -> None:
    row = read(coco([SQUARE_POLYGON, [0, 0, 1, 0, 1, 1, 0, 1]]))
    np.testing.assert_array_equal(decode_rle(row["rle"], SIZE_HW), SQUARE | rectangle(0, 0, 1, 1))


def test_a_polygon_is_clipped_at_the_image() -> None:
    row = read(coco([[-50, -50, 99, -50, 99, 99, -50, 99]]))
    assert decode_rle(row["rle"], SIZE_HW).all()


def test_box_and_area_of_the_file_are_kept() -> None:
    row = read(coco([SQUARE_POLYGON], bbox=[2.5, 1.25, 1, 1], area=3.5, iscrowd=0))
    assert (row["bbox_xywh"], row["area"], row["iscrowd"]) == ([2.5, 1.25, 1.0, 1.0], 3.5, False)


def test_a_crowd_stays_marked() -> None:
    assert read(coco({"size": [4, 5], "counts": SQUARE_RUNS}, iscrowd=1))["iscrowd"] is True


def test_an_image_without_annotations_has_an_empty_list() -> None:
    assert from_coco([], {7: "cup"}, SIZE_HW) == []


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "must be polygons or RLE, but it is None"),
        ([], "must be polygons or RLE"),
        ("9220", "must be polygons or RLE"),
        ([[]], "no polygon of three points"),
        ([[1, 1, 2, 2]], "no polygon of three points"),
        ([[0, 0, 4, 0, 4, 4, 1]], "must be x, y, x, y"),
        ([0, 0, 4, 0, 4, 4], "must be x, y, x, y"),
        ([[0, 0, 4, 0, "x", 4]], "malformed"),
        ([{"size": [4, 5], "counts": SQUARE_RUNS}], "malformed"),
        # each of these four ended the process, inside pycocotools
        ([[0, 0, NAN, 0, 4, 4]], "within 100000 pixels"),
        ([[0, 0, INFINITY, 0, 4, 4]], "within 100000 pixels"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "within 100000 pixels"),
        ([[0, 0, -1e30, 0, 4, 4]], "within 100000 pixels"),
        ({"size": [5, 4], "counts": SQUARE_RUNS}, r"of size \[5, 4\], but its image is \[4, 5\]"),
        ({"counts": SQUARE_RUNS}, "of size None"),
        ({"size": None, "counts": SQUARE_RUNS}, "malformed"),
        ({"size": [4, 5]}, "malformed"),
        ({"size": [4, 5], "counts": None}, "malformed"),
        ({"size": [4, 5], "counts": [9, 2, 2, 2]}, "covers 15 pixels"),
        ({"size": [4, 5], "counts": [25, -5]}, "malformed"),
        ({"size": [4, 5], "counts": [2**32 + 20]}, "malformed"),
        ({"size": [4, 5], "counts": "92203é"}, "ascii"),
        ({"size": [4, 5], "counts": "922"}, "covers"),
    ],
)
def test_a_malformed_mask_is_refused_with_the_id_of_its_annotation(segmentation: object, reason: str) -> None:
    with pytest.raises(BadAnnotationError, match=rf"annotation 31: .*{reason}"):
        read(coco(segmentation))


@pytest.mark.parametrize("category_id", [None, 8, "7", [7], {"id": 7}])
def test_an_unknown_category_is_refused(category_id: object) -> None:
    with pytest.raises(BadAnnotationError, match=r"annotation 31: category_id .* is not in `categories`"):
        read(coco([SQUARE_POLYGON]) | {"category_id": category_id})


@pytest.mark.parametrize(
    "fields", [{"bbox": "x"}, {"bbox": [1, 2, 3]}, {"bbox": [None] * 4}, {"area": [1]}, {"bbox": 5}]
)
def test_a_box_or_area_of_another_form_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(BadAnnotationError, match="annotation 31: `bbox` must be four numbers and `area` one"):
        read(coco([SQUARE_POLYGON], **fields))


@pytest.mark.parametrize("area", [NAN, INFINITY, -1])
def test_an_area_is_a_number_of_pixels(area: float) -> None:
    with pytest.raises(BadAnnotationError, match="annotation 31: `area` must be a number of pixels"):
        read(coco([SQUARE_POLYGON], area=area))
    with pytest.raises(BadAnnotationError, match="annotation of 'cup': `area` must be a number of pixels"):
        check_truth(image_row(annotations=[ROWS[0] | {"area": area}]), SIZE_HW)


@pytest.mark.parametrize("size_hw", [(0, 5), (4, -5), (10**6, 10**6), (3 * 10**9, 1)])
def test_a_size_that_no_photo_has_is_refused(size_hw: tuple[int, int]) -> None:
    with pytest.raises(BadAnnotationError, match=f"a size of {size_hw[1]} x {size_hw[0]} pixels"):
        from_coco([], {}, size_hw)


# --- rows ------------------------------------------------------------------------------------------------------------

CUPS = (rectangle(0, 0, 2, 2), rectangle(1, 1, 2, 2))
ROWS = [
    *(from_mask("cup", mask) for mask in CUPS),
    from_mask("spoon", rectangle(3, 0, 1, 5)),
    from_mask("cup", rectangle(3, 4, 1, 1)) | {"iscrowd": True},
]


def test_the_mask_of_a_category_unites_its_instances_without_crowds() -> None:
    np.testing.assert_array_equal(category_mask(ROWS, "cup", SIZE_HW), CUPS[0] | CUPS[1])
    np.testing.assert_array_equal(category_mask(ROWS, "spoon", SIZE_HW), rectangle(3, 0, 1, 5))


def test_a_category_that_is_not_there_has_an_empty_mask_and_no_rle() -> None:
    assert not category_mask(ROWS, "fork", SIZE_HW).any()
    assert category_mask([], "fork", SIZE_HW).shape == SIZE_HW
    assert category_rle(ROWS, "fork", SIZE_HW) is None


def test_a_row_that_does_not_say_whether_it_is_a_crowd_counts() -> None:
    row = from_mask("cup", SQUARE) | {"iscrowd": None}
    np.testing.assert_array_equal(category_mask([row], "cup", SIZE_HW), SQUARE)


def test_a_mask_of_another_size_is_refused_by_name() -> None:
    with pytest.raises(BadAnnotationError, match=r"annotation of 'cup': .* covers 20 pixels"):
        category_rle(ROWS, "cup", (4, 6))


def image_row(**fields: object) -> dict[str, Any]:
    return {"height": None, "width": None, "annotations": ROWS, **fields}


@pytest.mark.parametrize(
    "row",
    [
        image_row(),
        image_row(height=4, width=5),
        image_row(annotations=None, height=9),
        image_row(annotations=[ROWS[0] | {"area": None, "iscrowd": None, "bbox_xywh": None}]),
    ],
)
def test_truth_over_the_photos_own_size_is_accepted(row: dict[str, Any]) -> None:
    check_truth(row, SIZE_HW)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (image_row(height=5, width=4), "for an image of 4 x 5 pixels, but the photo is 5 x 4"),
        (image_row(height=-4), "for an image of 5 x -4 pixels"),
        (image_row(annotations=[ROWS[0] | {"rle": "922"}]), "annotation of 'cup': the run-length string covers"),
        (image_row(annotations=[ROWS[0] | {"rle": None}]), "lacks its category or its mask"),
        (image_row(annotations=[ROWS[0] | {"category": None}]), "lacks its category or its mask"),
        (image_row(annotations=[None]), "lacks its category or its mask: None"),
    ],
)
def test_truth_that_does_not_fit_is_refused(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadAnnotationError, match=reason):
        check_truth(row, SIZE_HW)
