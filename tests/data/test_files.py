"""Photos in files of their own: read in order, a few at a time, and an unreadable one is a row that says so."""

from pathlib import Path

from persam_ray.data.coco import CocoTruth
from persam_ray.data.files import FileShard, ImageFile
from persam_ray.data.schema import READ
from persam_ray.data.shard import ROWS_PER_TABLE
from tests.data.shards import CUP, PHOTO, rows_of_shard, tar_bytes, tar_shard, write_files


def test_files_are_read_in_order_and_in_small_tables(tmp_path: Path) -> None:
    files = write_files(tmp_path, ROWS_PER_TABLE + 1)
    rows = rows_of_shard(FileShard(files))
    assert [(row["image_id"], row["image"]) for row in rows] == [
        (f"{index}.jpg", PHOTO + bytes([index])) for index in range(len(files))
    ]
    assert all(row["annotations"] is None and row["error"] is None for row in rows)
    assert list(FileShard(files).image_ids()) == [file.image_id for file in files]


def test_a_file_that_cannot_be_read_is_a_row_with_an_error(tmp_path: Path) -> None:
    files = (*write_files(tmp_path, 1), ImageFile("gone.jpg", str(tmp_path / "gone.jpg")))
    good, bad = rows_of_shard(FileShard(files))
    assert good["error"] is None
    assert (bad["image_id"], bad["image"]) == ("gone.jpg", b"")
    assert bad["error"].startswith("the file cannot be read: ")
    assert "not found" in bad["error"]


def test_without_pixels_the_truth_is_read_and_no_photo(tmp_path: Path) -> None:
    truth = CocoTruth((4, 5), ({"category_id": 1, "segmentation": {"size": [4, 5], "counts": CUP["rle"]}},), {1: "cup"})
    shard = FileShard((ImageFile("gone.jpg", str(tmp_path / "gone.jpg"), truth),))
    (table,) = shard.read(pixels=False)
    assert table.schema == READ
    (row,) = table.to_pylist()
    assert (row["image"], row["annotations"], row["error"]) == (None, [CUP], None)


def test_a_file_is_found_by_its_key(tmp_path: Path) -> None:
    shard = FileShard(write_files(tmp_path, 3))
    found = shard.find("1.jpg")
    assert found is not None
    assert found["image"] == PHOTO + b"\x01"
    assert shard.find("9.jpg") is None


def test_files_and_tars_give_the_rows_of_some_keys(tmp_path: Path) -> None:
    files = FileShard(write_files(tmp_path, 5))
    first, second = files.files[1].image_id, files.files[4].image_id
    assert [row["image_id"] for row in rows_of_shard(files.only({second, first}))] == [first, second]
    tar = tar_shard(tmp_path, tar_bytes(("a.jpg", "b.jpg", "d/c.jpg")))
    assert [row["image_id"] for row in rows_of_shard(tar.only({"x/d/c", "x/a"}))] == ["x/a", "x/d/c"]
