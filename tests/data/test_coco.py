"""COCO: images found where they usually lie, annotations of every form, errors that name the annotation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from persam_ray.cluster.references import load_reference
from persam_ray.data.annotations import BadAnnotationError, from_mask
from persam_ray.data.coco import CocoTruth, from_coco
from persam_ray.data.dataset import DatasetError
from persam_ray.data.files import FileShard, ImageFile
from persam_ray.data.listing import open_dataset
from persam_ray.data.storage import StorageError
from persam_ray.errors import BadReferenceError
from persam_ray.masks import decode_rle, encode_rle
from tests.data.datasets import SQUARE_POLYGON, coco_content, keys_of, mask, rows_of, write, write_coco
from tests.data.shards import CUP, rows_of_shard, write_files


def test_coco_truth_becomes_annotations_and_crowds_are_no_category_to_refer_to(tmp_path: Path) -> None:
    runs = {"size": [4, 5], "counts": [9, 2, 2, 2, 5]}
    truth = CocoTruth(
        (4, 5),
        ({"category_id": 1, "segmentation": runs}, {"category_id": 2, "segmentation": runs, "iscrowd": 1}),
        {1: "cup", 2: "crowd"},
    )
    (file,) = write_files(tmp_path, 1)
    shard = FileShard((ImageFile(file.image_id, file.uri, truth),))
    (row,) = rows_of_shard(shard)
    assert row["annotations"] == [CUP, CUP | {"category": "crowd", "iscrowd": True}]
    assert list(shard.annotated()) == [("0.jpg", frozenset({"cup"}))]


def test_bad_coco_truth_is_an_error_of_its_image_alone(tmp_path: Path) -> None:
    bad = CocoTruth((4, 5), ({"id": 3, "category_id": 1, "segmentation": [[0, 0, float("nan"), 1, 1, 1]]},), {1: "cup"})
    too_big = CocoTruth((3 * 10**9, 5), (), {})  # does not fit the column
    one, two, three = write_files(tmp_path, 3)
    files = (ImageFile("0.jpg", one.uri, bad), ImageFile("1.jpg", two.uri, too_big), three)
    rows = rows_of_shard(FileShard(files))
    assert "annotation 3: a polygon must be" in rows[0]["error"]
    assert "a size of 5 x 3000000000 pixels" in rows[1]["error"]
    assert rows[2]["error"] is None


def test_a_category_id_of_a_wrong_type_is_no_category(tmp_path: Path) -> None:
    truth = CocoTruth((4, 5), ({"category_id": [1], "segmentation": []},), {1: "cup"})
    (file,) = write_files(tmp_path, 1)
    shard = FileShard((ImageFile(file.image_id, file.uri, truth),))
    assert list(shard.annotated()) == [("0.jpg", frozenset({""}))]
    assert "category_id [1] is not in" in rows_of_shard(shard)[0]["error"]


@pytest.mark.parametrize("images", ["annotations", "annotations/images", "val", "images", "images/val"])
def test_the_images_of_a_coco_file_are_found_where_they_usually_lie(tmp_path: Path, images: str) -> None:
    uri = write_coco(write(tmp_path / "my [coco]", f"{images}/a.jpg", f"{images}/b.jpg"), coco_content())
    dataset = open_dataset(uri)
    assert (dataset.format, dataset.images) == ("coco", 2)
    assert keys_of(dataset) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("uri", ["instances_val.json", "./instances_val.json", "../annotations/instances_val.json"])
def test_a_coco_file_may_be_given_by_a_relative_path(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(write(tmp_path, "val/a.jpg", "val/b.jpg"), coco_content())
    monkeypatch.chdir(tmp_path / "annotations")
    assert keys_of(open_dataset(uri)) == ["a.jpg", "b.jpg"]


def test_a_coco_file_may_stand_beside_its_folder(tmp_path: Path) -> None:
    uri = write_coco(write(tmp_path / "photos", "a.jpg", "b.jpg"), coco_content(), "../elsewhere.json")
    for folder in (str(tmp_path / "photos"), f"{tmp_path}/photos/"):
        assert keys_of(open_dataset(folder, annotations=uri)) == ["a.jpg", "b.jpg"]
        assert keys_of(open_dataset(folder, "coco", uri)) == ["a.jpg", "b.jpg"]


def test_coco_annotations_of_every_form_go_to_their_images(tmp_path: Path) -> None:
    uri = write_coco(write(tmp_path, "val/a.jpg", "val/b.jpg"), coco_content())
    first, second = rows_of(open_dataset(uri))
    assert first["annotations"] == [
        {"category": "cup", "rle": "d0", "bbox_xywh": [0, 0, 0, 0], "area": 0, "iscrowd": True},
    ]  # fmt: skip
    assert second["annotations"] == [from_mask("cup", mask(1, 2, 2, 2)), from_mask("spoon", mask(3, 4))]
    assert (second["height"], second["width"]) == (4, 5)


def test_an_image_that_no_annotation_names_has_none(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][0]["image_id"] = None
    uri = write_coco(write(tmp_path, "val/a.jpg", "val/b.jpg"), content)
    assert [row["category"] for row in rows_of(open_dataset(uri))[1]["annotations"]] == ["spoon"]


def test_a_file_that_coco_lists_and_nobody_has_is_a_row_with_an_error(tmp_path: Path) -> None:
    uri = write_coco(write(tmp_path, "val/b.jpg"), coco_content())
    assert ["not found" in (row["error"] or "") for row in rows_of(open_dataset(uri))] == [True, False]


def changed(*path: str | int, value: object = ...) -> dict[str, Any]:
    """Return the COCO content with one value set, or deleted."""
    content = coco_content()
    target: Any = content
    for step in path[:-1]:
        target = target[step]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "not a COCO instances file"),
        (None, "not a COCO instances file"),
        (changed("images"), r"not a COCO instances file \(KeyError: 'images'\)"),
        (changed("annotations"), r"not a COCO instances file \(KeyError: 'annotations'\)"),
        (changed("categories"), r"not a COCO instances file \(KeyError: 'categories'\)"),
        (changed("annotations", 0, value=5), "not a COCO instances file"),
        (changed("annotations", 0, "image_id"), r"\(KeyError: 'image_id'\)"),
        (changed("annotations", 0, "image_id", value=[5]), "not a COCO instances file"),
        (changed("images", 0, "height"), r"\(KeyError: 'height'\)"),
        (changed("images", 0, "height", value=None), "not a COCO instances file"),
        (changed("images", 0, "width", value=float("inf")), "not a COCO instances file"),
        (changed("images", 0, "width", value=float("nan")), "not a COCO instances file"),
        (changed("images", 1, "file_name", value="b.jpg"), "two images have the file_name 'b.jpg'"),
        (changed("images", 1, "id", value=5), "two images have the id 5"),
        (changed("images", value=[]), "lists no images"),
        (changed("images", 0, "file_name", value="gone.jpg"), "its first image 'gone.jpg' is in none of .*--images"),
    ],
)
def test_a_coco_file_that_cannot_be_used_says_why(tmp_path: Path, content: object, reason: str) -> None:
    uri = write_coco(write(tmp_path, "val/a.jpg", "val/b.jpg"), content)
    with pytest.raises(DatasetError, match=reason):
        open_dataset(uri)


def test_a_photo_of_another_size_than_coco_says_is_an_error_of_the_reference(tmp_path: Path) -> None:
    content = changed("images", 0, "height", value=8)
    content["annotations"] = [{"id": 1, "image_id": 5, "category_id": 7, "segmentation": [SQUARE_POLYGON]}]
    uri = write_coco(write(tmp_path, "val/a.jpg", "val/b.jpg"), content)
    with pytest.raises(BadReferenceError, match=r"'b\.jpg': .* for an image of 5 x 8 pixels, but the photo is 5 x 4"):
        load_reference(open_dataset(uri), "b.jpg", "cup")


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    with pytest.raises(DatasetError, match=r"--annotations .* does not go with --format parquet"):
        open_dataset(str(tmp_path), "parquet", "x.json")
    with pytest.raises(DatasetError, match=r"--format coco needs the instances_\*\.json"):
        open_dataset(str(tmp_path), "coco")
    with pytest.raises(StorageError, match="not valid JSON"):
        open_dataset(str(write(tmp_path, "b.json", content=b"{") / "b.json"))


# --- masks of every form ----------------------------------------------------------------------------------------------

SIZE_HW = (4, 5)
SQUARE = mask(1, 2, 2, 2)
SQUARE_RUNS = [9, 2, 2, 2, 5]  # see test_masks.py


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
    np.testing.assert_array_equal(decode_rle(row["rle"], SIZE_HW), SQUARE | mask(0, 0, 1, 1))


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


@pytest.mark.parametrize("size_hw", [(0, 5), (4, -5), (10**6, 10**6), (3 * 10**9, 1)])
def test_a_size_that_no_photo_has_is_refused(size_hw: tuple[int, int]) -> None:
    with pytest.raises(BadAnnotationError, match=f"a size of {size_hw[1]} x {size_hw[0]} pixels"):
        from_coco([], {}, size_hw)
