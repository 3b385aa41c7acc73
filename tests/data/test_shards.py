import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persam_ray.data.annotations import from_mask
from persam_ray.data.coco import CocoTruth
from persam_ray.data.deepfashion import IndexMap
from persam_ray.data.files import FileShard, ImageFile
from persam_ray.data.parquet import ParquetShard
from persam_ray.data.schema import ANNOTATION, READ, SchemaError
from persam_ray.data.shard import ROWS_PER_TABLE, Shard
from persam_ray.data.storage import StorageError
from persam_ray.data.webdataset import TarShard
from tests.encoded_images import encoded

PHOTO = b"the bytes of a photo"
MASK = np.zeros((4, 5), np.bool_)
MASK[1:3, 2:4] = True
CUP = from_mask("cup", MASK)


def rows_of(shard: Shard) -> list[dict[str, Any]]:
    tables = list(shard.read())
    assert all(table.schema == READ for table in tables)
    assert all(0 < len(table) <= ROWS_PER_TABLE for table in tables)
    return [row for table in tables for row in table.to_pylist()]


# --- files -----------------------------------------------------------------------------------------------------------


def write_files(folder: Path, count: int) -> tuple[ImageFile, ...]:
    for index in range(count):
        (folder / f"{index}.jpg").write_bytes(PHOTO + bytes([index]))
    return tuple(ImageFile(f"{index}.jpg", str(folder / f"{index}.jpg")) for index in range(count))


def test_files_are_read_in_order_and_in_small_tables(tmp_path: Path) -> None:
    files = write_files(tmp_path, ROWS_PER_TABLE + 1)
    rows = rows_of(FileShard(files))
    assert [(row["image_id"], row["image"]) for row in rows] == [
        (f"{index}.jpg", PHOTO + bytes([index])) for index in range(len(files))
    ]
    assert all(row["annotations"] is None and row["error"] is None for row in rows)
    assert list(FileShard(files).image_ids()) == [file.image_id for file in files]


def test_a_file_that_cannot_be_read_is_a_row_with_an_error(tmp_path: Path) -> None:
    files = (*write_files(tmp_path, 1), ImageFile("gone.jpg", str(tmp_path / "gone.jpg")))
    good, bad = rows_of(FileShard(files))
    assert good["error"] is None
    assert (bad["image_id"], bad["image"]) == ("gone.jpg", b"")
    assert bad["error"].startswith("the file cannot be read: ")
    assert "not found" in bad["error"]


def test_the_map_beside_a_photo_becomes_its_annotations(tmp_path: Path) -> None:
    segm = tmp_path / "0_segm.png"
    segm.write_bytes(encoded(MASK.astype(np.uint8) * 12))  # class 12 is the bag
    (file,) = write_files(tmp_path, 1)
    shard = FileShard((ImageFile(file.image_id, file.uri, IndexMap(str(segm))),))
    (row,) = rows_of(shard)
    assert (row["height"], row["width"]) == (4, 5)
    assert row["annotations"] == [CUP | {"category": "bag"}]
    assert list(shard.annotated()) == [("0.jpg", frozenset({"bag"}))]


@pytest.mark.parametrize(("content", "reason"), [(None, "annotation cannot be read"), (b"text", "segm map cannot")])
def test_a_bad_map_is_an_error_and_its_photo_is_kept(tmp_path: Path, content: bytes | None, reason: str) -> None:
    segm = tmp_path / "0_segm.png"
    if content is not None:
        segm.write_bytes(content)
    (file,) = write_files(tmp_path, 1)
    shard = FileShard((ImageFile(file.image_id, file.uri, IndexMap(str(segm))),))
    (row,) = rows_of(shard)
    assert reason in row["error"]
    assert (row["image"], row["annotations"]) == (PHOTO + b"\0", None)
    assert list(shard.annotated()) == [("0.jpg", frozenset())]


def test_coco_truth_becomes_annotations_and_crowds_are_no_category_to_refer_to(tmp_path: Path) -> None:
    runs = {"size": [4, 5], "counts": [9, 2, 2, 2, 5]}
    truth = CocoTruth(
        (4, 5),
        ({"category_id": 1, "segmentation": runs}, {"category_id": 2, "segmentation": runs, "iscrowd": 1}),
        {1: "cup", 2: "crowd"},
    )
    (file,) = write_files(tmp_path, 1)
    shard = FileShard((ImageFile(file.image_id, file.uri, truth),))
    (row,) = rows_of(shard)
    assert row["annotations"] == [CUP, CUP | {"category": "crowd", "iscrowd": True}]
    assert list(shard.annotated()) == [("0.jpg", frozenset({"cup"}))]


def test_bad_coco_truth_is_an_error_of_its_image_alone(tmp_path: Path) -> None:
    bad = CocoTruth((4, 5), ({"id": 3, "category_id": 1, "segmentation": [[0, 0, float("nan"), 1, 1, 1]]},), {1: "cup"})
    too_big = CocoTruth((3 * 10**9, 5), (), {})  # does not fit the column
    one, two, three = write_files(tmp_path, 3)
    files = (ImageFile("0.jpg", one.uri, bad), ImageFile("1.jpg", two.uri, too_big), three)
    rows = rows_of(FileShard(files))
    assert "annotation 3: a polygon must be" in rows[0]["error"]
    assert "a size of 5 x 3000000000 pixels" in rows[1]["error"]
    assert rows[2]["error"] is None


def test_a_category_id_of_a_wrong_type_is_no_category(tmp_path: Path) -> None:
    truth = CocoTruth((4, 5), ({"category_id": [1], "segmentation": []},), {1: "cup"})
    (file,) = write_files(tmp_path, 1)
    shard = FileShard((ImageFile(file.image_id, file.uri, truth),))
    assert list(shard.annotated()) == [("0.jpg", frozenset({""}))]
    assert "category_id [1] is not in" in rows_of(shard)[0]["error"]


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


# --- Parquet ---------------------------------------------------------------------------------------------------------


def parquet(folder: Path, columns: dict[str, Any], **options: Any) -> ParquetShard:
    path = folder / "date=2026" / "a [1]*#.parquet"  # a pattern and a partition, for tools that look for them
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return ParquetShard(str(path))


def many(count: int) -> dict[str, Any]:
    annotations = [[CUP] if index % 2 else None for index in range(count)]
    return {
        "image_id": [f"{index:03}" for index in range(count)],
        "image": [PHOTO + bytes([index]) for index in range(count)],
        "annotations": pa.array(annotations, pa.list_(ANNOTATION)),
    }


def test_a_parquet_file_is_read_in_small_tables_whatever_its_row_groups(tmp_path: Path) -> None:
    shard = parquet(tmp_path, many(40))
    rows = rows_of(shard)
    assert [row["image_id"] for row in rows] == list(shard.image_ids()) == many(40)["image_id"]
    assert [row["image"] for row in rows] == many(40)["image"]
    assert rows[1]["annotations"] == [CUP]
    assert rows[0]["annotations"] is None


def test_a_parquet_file_is_read_without_its_pixels(tmp_path: Path) -> None:
    rows = [row for table in parquet(tmp_path, many(40)).read(pixels=False) for row in table.to_pylist()]
    assert [row["image_id"] for row in rows] == many(40)["image_id"]
    assert all(row["image"] is None for row in rows)
    assert (rows[0]["annotations"], rows[1]["annotations"]) == (None, [CUP])


@pytest.mark.parametrize("row_group_size", [7, 40])
def test_a_row_is_found_by_its_key_in_any_row_group(tmp_path: Path, row_group_size: int) -> None:
    shard = parquet(tmp_path, many(40), row_group_size=row_group_size)
    for index in (0, 6, 7, 17, 39):
        found = shard.find(f"{index:03}")
        assert found is not None
        assert (found["image_id"], found["image"], found["error"]) == (f"{index:03}", PHOTO + bytes([index]), None)
    assert shard.find("nowhere") is None


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_keys_of_any_string_type_are_read_and_found(tmp_path: Path, kind: pa.DataType) -> None:
    shard = parquet(tmp_path, many(3) | {"image_id": pa.array(["a", "b", "c"]).cast(kind)})
    assert list(shard.image_ids()) == [row["image_id"] for row in rows_of(shard)] == ["a", "b", "c"]
    found = shard.find("b")
    assert found is not None
    assert found["image"] == PHOTO + b"\x01"


def test_annotated_categories_are_read_without_crowds_and_nulls(tmp_path: Path) -> None:
    lists = [[CUP, CUP | {"category": "spoon"}], [CUP | {"iscrowd": True}], [None, CUP | {"category": None}], [], None]
    columns = {"image_id": list("abcde"), "image": [PHOTO] * 5, "annotations": pa.array(lists, pa.list_(ANNOTATION))}
    assert list(parquet(tmp_path, columns).annotated()) == [
        ("a", frozenset({"cup", "spoon"})), *((key, frozenset()) for key in "bcde"),
    ]  # fmt: skip


def test_a_file_without_annotations_has_images_without_categories(tmp_path: Path) -> None:
    shard = parquet(tmp_path, {"image_id": ["a"], "image": [PHOTO]})
    assert list(shard.annotated()) == [("a", frozenset())]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"image_id": ["a"], "url": ["x"]}, r"parquet: has no column 'image' \(its columns: image_id, url\)"),
        ({"image": [PHOTO]}, "has no column 'image_id'"),
        ({"image_id": [1, 2], "image": [PHOTO] * 2}, "image_id must be a string in every row, but one is 1"),
        ({"image_id": ["a", None], "image": [PHOTO] * 2}, "image_id must be a string in every row, but one is None"),
        ({"image_id": ["a"], "image": [{"bytes": PHOTO}]}, "column 'image' must be binary"),
        ({"image_id": ["a"], "image": [PHOTO], "annotations": ["x"]}, "column 'annotations' must be list"),
    ],
)
def test_a_file_of_another_schema_is_refused_before_any_pixel(
    tmp_path: Path, columns: dict[str, Any], reason: str
) -> None:
    shard = parquet(tmp_path, columns)
    with pytest.raises(SchemaError, match=reason):
        list(shard.image_ids())
    with pytest.raises(SchemaError, match=reason):
        list(shard.annotated())


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", None])
def test_what_is_no_parquet_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.parquet"
    if content is not None:
        path.write_bytes(content)
    shard = ParquetShard(str(path))
    reason = "a.parquet: not found" if content is None else "a.parquet: not a Parquet file"
    with pytest.raises(StorageError, match=reason):
        list(shard.image_ids())
    with pytest.raises(StorageError, match=reason):
        list(shard.read())
    with pytest.raises(StorageError, match=reason):
        shard.find("a")


# --- WebDataset ------------------------------------------------------------------------------------------------------

BIG = bytes(range(256)) * 50  # 12,800 bytes: 25 blocks of a tar
MEMBER = 512 + len(BIG)


def tar_bytes(names: Sequence[str] = ("a.jpg", "b.jpg", "c.jpg"), mode: str = "w", **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **options) as tar:  # type: ignore[call-overload]
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(BIG)
            tar.addfile(member, io.BytesIO(BIG))
    return buffer.getvalue()


def tar_shard(folder: Path, content: bytes) -> TarShard:
    (folder / "x.tar").write_bytes(content)
    return TarShard("x", str(folder / "x.tar"))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_streamed_plain_or_compressed(tmp_path: Path, mode: str) -> None:
    names = [f"{index:02}.jpg" for index in range(ROWS_PER_TABLE + 1)]
    shard = tar_shard(tmp_path, tar_bytes(names, mode))
    rows = rows_of(shard)
    assert [row["image_id"] for row in rows] == list(shard.image_ids()) == [f"x/{name[:2]}" for name in names]
    assert all(row["image"] == BIG for row in rows)
    assert list(shard.annotated()) == []


def test_a_key_is_the_members_path_up_to_the_first_dot_of_its_name(tmp_path: Path) -> None:
    names = ("a.jpg", "f.1/b.PNG", "ü #?.webp", "a.json", "a.seg.png", "no suffix", ".hidden.jpg", "f.1/._b.png")
    assert list(tar_shard(tmp_path, tar_bytes(names)).image_ids()) == ["x/a", "x/f.1/b", "x/ü #?"]


def test_a_name_that_is_not_utf8_is_kept_as_an_escape(tmp_path: Path) -> None:
    content = tar_bytes(["caf\xe9.jpg"], format=tarfile.USTAR_FORMAT, encoding="latin-1")
    (row,) = rows_of(tar_shard(tmp_path, content))
    assert row["image_id"] == r"x/caf\xe9"


def test_folders_and_pipes_named_like_photos_are_passed_over(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (("folder.jpg", tarfile.DIRTYPE), ("pipe.jpg", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member)
    assert list(tar_shard(tmp_path, buffer.getvalue()).image_ids()) == []


def damaged_header(content: bytes) -> bytes:
    """Change a byte in the header of the second member."""
    return content[: MEMBER + 100] + b"\xff" + content[MEMBER + 101 :]


WHOLE = tar_bytes()
BROKEN = {
    "nothing": b"",
    "text": b"this is no tar" * 100,
    "cut in a header": WHOLE[: MEMBER + 300],
    "cut in a photo": WHOLE[: MEMBER + 600],
    "cut after a header": WHOLE[: MEMBER + 512],
    "cut between members": WHOLE[:MEMBER],  # tarfile would take this for the end, and two photos would be lost
    "damaged header": damaged_header(WHOLE),  # and this
    "cut gzip": tar_bytes(mode="w:gz")[:-40],
    "cut xz": tar_bytes(mode="w:xz")[:-40],
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_tar_that_is_not_whole_is_an_error_and_never_fewer_photos(tmp_path: Path, damage: str) -> None:
    shard = tar_shard(tmp_path, BROKEN[damage])
    with pytest.raises(StorageError, match=r"x\.tar: not a readable tar"):
        list(shard.image_ids())
    with pytest.raises(StorageError, match=r"x\.tar: not a readable tar"):
        list(shard.read())


def test_a_tar_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"x\.tar: not found"):
        list(TarShard("x", str(tmp_path / "x.tar")).read())


def test_an_empty_tar_has_no_rows(tmp_path: Path) -> None:
    assert rows_of(tar_shard(tmp_path, tar_bytes([]))) == []


# --- some of the rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row_group_size", [3, 40])
@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_a_parquet_file_gives_the_rows_of_some_keys(tmp_path: Path, row_group_size: int, kind: pa.DataType) -> None:
    keys = pa.array(many(40)["image_id"]).cast(kind)
    shard = parquet(tmp_path, many(40) | {"image_id": keys}, row_group_size=row_group_size)
    kept = shard.only({"001", "005", "039", "elsewhere"})
    assert [row["image"][-1] for row in rows_of(kept)] == [1, 5, 39]
    assert list(kept.image_ids()) == [image_id for image_id, _ in kept.annotated()] == ["001", "005", "039"]
    assert rows_of(shard.only(set())) == []


def test_files_and_tars_give_the_rows_of_some_keys(tmp_path: Path) -> None:
    files = FileShard(write_files(tmp_path, 5))
    first, second = files.files[1].image_id, files.files[4].image_id
    assert [row["image_id"] for row in rows_of(files.only({second, first}))] == [first, second]
    tar = tar_shard(tmp_path, tar_bytes(("a.jpg", "b.jpg", "d/c.jpg")))
    assert [row["image_id"] for row in rows_of(tar.only({"x/d/c", "x/a"}))] == ["x/a", "x/d/c"]
