"""Parquet shards: read a few rows at a time, found by key, refused where the schema is another."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persam_ray.data.parquet import ParquetShard
from persam_ray.data.schema import ANNOTATION, SchemaError
from persam_ray.data.storage import StorageError
from tests.data.shards import CUP, PHOTO, rows_of_shard


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
    rows = rows_of_shard(shard)
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
    assert list(shard.image_ids()) == [row["image_id"] for row in rows_of_shard(shard)] == ["a", "b", "c"]
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


@pytest.mark.parametrize("row_group_size", [3, 40])
@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_a_parquet_file_gives_the_rows_of_some_keys(tmp_path: Path, row_group_size: int, kind: pa.DataType) -> None:
    keys = pa.array(many(40)["image_id"]).cast(kind)
    shard = parquet(tmp_path, many(40) | {"image_id": keys}, row_group_size=row_group_size)
    kept = shard.only({"001", "005", "039", "elsewhere"})
    assert [row["image"][-1] for row in rows_of_shard(kept)] == [1, 5, 39]
    assert list(kept.image_ids()) == [image_id for image_id, _ in kept.annotated()] == ["001", "005", "039"]
    assert rows_of_shard(shard.only(set())) == []
