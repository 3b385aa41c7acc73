"""What tests of shards share."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from persam_ray.data.annotations import from_mask
from persam_ray.data.files import ImageFile
from persam_ray.data.schema import READ
from persam_ray.data.shard import ROWS_PER_TABLE, Shard
from persam_ray.data.webdataset import TarShard

PHOTO = b"the bytes of a photo"


MASK = np.zeros((4, 5), np.bool_)


MASK[1:3, 2:4] = True


CUP = from_mask("cup", MASK)


def rows_of_shard(shard: Shard) -> list[dict[str, Any]]:
    tables = list(shard.read())
    assert all(table.schema == READ for table in tables)
    assert all(0 < len(table) <= ROWS_PER_TABLE for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def write_files(folder: Path, count: int) -> tuple[ImageFile, ...]:
    for index in range(count):
        (folder / f"{index}.jpg").write_bytes(PHOTO + bytes([index]))
    return tuple(ImageFile(f"{index}.jpg", str(folder / f"{index}.jpg")) for index in range(count))


BIG = bytes(range(256)) * 50  # 12,800 bytes: 25 blocks of a tar


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
