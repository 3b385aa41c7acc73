"""Which format a place holds, and options that contradict it."""

from pathlib import Path

from persam_ray.data.listing import open_dataset
from persam_ray.data.webdataset import TarShard
from tests.data.datasets import keys_of, write, write_parquet, write_tar


def test_parquet_files_are_one_shard_each_and_uncounted(tmp_path: Path) -> None:
    write_parquet(tmp_path / "sub" / "b #[1].PARQUET", ["x"])
    write_parquet(tmp_path / "a.parquet", ["z", "y"])
    write(tmp_path, "_SUCCESS", "notes.txt")
    dataset = open_dataset(str(tmp_path))
    assert (dataset.format, dataset.images, len(dataset.shards)) == ("parquet", None, 2)
    assert keys_of(dataset) == ["z", "y", "x"]
    assert keys_of(open_dataset(str(tmp_path / "sub" / "b #[1].PARQUET"))) == ["x"]


def test_tars_are_one_shard_each_and_their_names_are_in_the_keys(tmp_path: Path) -> None:
    write_tar(tmp_path / "sub" / "1.TAR", "a.jpg", "a.json")
    write_tar(tmp_path / "0.tar", "a.jpg", "b/c.JPG")
    dataset = open_dataset(str(tmp_path))
    assert (dataset.format, dataset.images) == ("webdataset", None)
    assert keys_of(dataset) == ["0/a", "0/b/c", "sub/1/a"]
    assert keys_of(open_dataset(str(tmp_path / "0.tar"))) == ["0/a", "0/b/c"]


def test_some_photos_are_sought_only_where_they_can_be(tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar", "d/0.tar"):
        write_tar(tmp_path / "tars" / name, "a.jpg", "b/c.jpg")
    some = open_dataset(str(tmp_path / "tars")).only(["1/b/c", "d/0/a"])
    assert [shard.name for shard in some.shards if isinstance(shard, TarShard)] == ["1", "d/0"]
    assert (keys_of(some), some.images) == (["1/b/c", "d/0/a"], 2)
    files = open_dataset(str(write(tmp_path / "photos", "a.jpg", "b.jpg", "c/d.jpg"))).only(["c/d.jpg", "a.jpg"])
    assert (keys_of(files), files.images) == (["a.jpg", "c/d.jpg"], 2)


def test_the_format_can_be_forced(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["x"])
    write(tmp_path, "b.jpg")
    assert keys_of(open_dataset(str(tmp_path))) == ["x"]
    assert keys_of(open_dataset(str(tmp_path), "folder")) == ["b.jpg"]
