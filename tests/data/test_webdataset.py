"""Tars: streamed once, and a damaged one is an error, never fewer photos."""

import io
import tarfile
from pathlib import Path

import pytest

from persam_ray.data.shard import ROWS_PER_TABLE
from persam_ray.data.storage import StorageError
from persam_ray.data.webdataset import TarShard
from tests.data.shards import BIG, rows_of_shard, tar_bytes, tar_shard

MEMBER = 512 + len(BIG)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_streamed_plain_or_compressed(tmp_path: Path, mode: str) -> None:
    names = [f"{index:02}.jpg" for index in range(ROWS_PER_TABLE + 1)]
    shard = tar_shard(tmp_path, tar_bytes(names, mode))
    rows = rows_of_shard(shard)
    assert [row["image_id"] for row in rows] == list(shard.image_ids()) == [f"x/{name[:2]}" for name in names]
    assert all(row["image"] == BIG for row in rows)
    assert list(shard.annotated()) == []


def test_a_key_is_the_members_path_up_to_the_first_dot_of_its_name(tmp_path: Path) -> None:
    names = ("a.jpg", "f.1/b.PNG", "ü #?.webp", "a.json", "a.seg.png", "no suffix", ".hidden.jpg", "f.1/._b.png")
    assert list(tar_shard(tmp_path, tar_bytes(names)).image_ids()) == ["x/a", "x/f.1/b", "x/ü #?"]


def test_a_name_that_is_not_utf8_is_kept_as_an_escape(tmp_path: Path) -> None:
    content = tar_bytes(["caf\xe9.jpg"], format=tarfile.USTAR_FORMAT, encoding="latin-1")
    (row,) = rows_of_shard(tar_shard(tmp_path, content))
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
    assert rows_of_shard(tar_shard(tmp_path, tar_bytes([]))) == []
