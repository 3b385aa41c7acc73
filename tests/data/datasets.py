"""Small datasets of every format, which several test files list."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from persam_ray.data.dataset import Dataset
from persam_ray.data.schema import ANNOTATION
from persam_ray.types import BoolArray
from tests.encoded_images import plain_jpeg

JPEG = plain_jpeg(4, 5)


SQUARE_POLYGON = [2, 1, 4, 1, 4, 3, 2, 3]


def mask(y: int, x: int, height: int = 1, width: int = 1) -> BoolArray:
    drawn = np.zeros((4, 5), np.bool_)
    drawn[y : y + height, x : x + width] = True
    return drawn


def write(folder: Path, *names: str, content: bytes = JPEG) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def rows_of(dataset: Dataset) -> list[dict[str, Any]]:
    return [row for shard in dataset.shards for table in shard.read() for row in table.to_pylist()]


def keys_of(dataset: Dataset) -> list[str]:
    """Return the keys, having seen that every photo could be read."""
    rows = rows_of(dataset)
    assert all(row["image"] == JPEG and row["error"] is None for row in rows), rows
    return [row["image_id"] for row in rows]


def write_parquet(path: Path, keys: list[str], annotations: list[Any] | None = None) -> None:
    columns: dict[str, Any] = {"image_id": keys, "image": [JPEG] * len(keys)}
    if annotations is not None:
        columns["annotations"] = pa.array(annotations, pa.list_(ANNOTATION))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write_tar(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(JPEG)
            tar.addfile(member, io.BytesIO(JPEG))


def coco_content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 5, "file_name": "b.jpg", "height": 4, "width": 5},
            {"id": 6, "file_name": "a.jpg", "height": 4, "width": 5},
        ],
        "categories": [{"id": 7, "name": "cup"}, {"id": 8, "name": "spoon"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 7, "segmentation": [SQUARE_POLYGON]},
            {"id": 2, "image_id": 5, "category_id": 8, "segmentation": {"size": [4, 5], "counts": [19, 1]}},
            {"id": 3, "image_id": 6, "category_id": 7, "segmentation": {"size": [4, 5], "counts": "d0"}, "iscrowd": 1},
        ],
    }


def write_coco(folder: Path, content: object, name: str = "annotations/instances_val.json") -> str:
    write(folder, name, content=json.dumps(content).encode())
    return str(folder / name)
