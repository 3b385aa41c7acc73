"""Keys that occur twice are found by their hashes."""

from pathlib import Path

import numpy as np

from persam_ray.data.key_hashes import key_hashes, repeated_hashes, repeated_key
from persam_ray.data.parquet import ParquetShard
from persam_ray.data.webdataset import TarShard
from persam_ray.keys import image_key
from tests.data.datasets import write_parquet, write_tar


def test_keys_that_occur_twice_are_found_across_shards(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["x", "same"])
    write_parquet(tmp_path / "b.parquet", ["same", "y"])
    shards = [ParquetShard(str(tmp_path / name)) for name in ("a.parquet", "b.parquet")]
    hashes = key_hashes(shards)
    assert len(hashes) == 4
    assert repeated_hashes(hashes).tolist() == [image_key("same")]
    assert repeated_key(shards, repeated_hashes(hashes).tolist()) == "same"


def test_two_files_of_one_sample_in_a_tar_are_one_key(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", "a.jpg", "a.png")
    shards = [TarShard("x", str(tmp_path / "x.tar"))]
    assert repeated_key(shards, repeated_hashes(key_hashes(shards)).tolist()) == "x/a"


def test_keys_that_merely_share_a_hash_are_not_the_same(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["x", "y"])
    assert repeated_key([ParquetShard(str(tmp_path / "a.parquet"))], [image_key("x"), image_key("y")]) is None


def test_unique_keys_have_no_repeated_hash() -> None:
    hashes = np.array([image_key(str(index)) for index in range(1000)], np.uint64)
    assert repeated_hashes(hashes).size == 0
    assert repeated_hashes(hashes[:0]).size == 0
