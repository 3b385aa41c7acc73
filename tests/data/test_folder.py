"""Folders of images: keys are paths below the folder, and what else lies there is counted."""

import os
from pathlib import Path

import pytest

from persam_ray.data import dataset as dataset_module
from persam_ray.data.dataset import DatasetError, tell_ignored
from persam_ray.data.listing import open_dataset
from persam_ray.data.storage import StorageError
from tests.data.datasets import JPEG, keys_of, write


def test_a_folder_gives_its_images_by_their_path_below_it(tmp_path: Path) -> None:
    write(tmp_path, "b.jpg", "a/c.PNG", "a/B.webp", "d.tiff", "e.JPeG", "notes.txt", ".hidden.jpg", "_MG_1.jpg")
    dataset = open_dataset(str(tmp_path))
    assert dataset.format == "folder"
    assert keys_of(dataset) == ["_MG_1.jpg", "a/B.webp", "a/c.PNG", "b.jpg", "d.tiff", "e.JPeG"]
    assert dataset.images == 6


def test_files_that_are_no_photos_by_their_names_are_counted_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = open_dataset(str(write(tmp_path, "a.jpg", "b.heic", "c.txt", "d/e.avif", "f.mp4")))
    assert (keys_of(dataset), dataset.ignored, dataset.ignored_count) == (["a.jpg"], ("b.heic", "c.txt", "d/e.avif"), 4)
    tell_ignored(dataset)
    assert "are no photos by their names, left out: b.heic, c.txt, d/e.avif, ..." in capsys.readouterr().err
    tell_ignored(open_dataset(str(tmp_path / "a.jpg")))
    assert capsys.readouterr().err == ""


def test_many_files_are_cut_into_shards_in_the_order_of_their_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "FILES_PER_SHARD", 3)
    names = [f"{index:02}.jpg" for index in range(7)]
    dataset = open_dataset(str(write(tmp_path, *names)))
    assert [list(shard.image_ids()) for shard in dataset.shards] == [names[:3], names[3:6], names[6:]]


ODD_NAMES = ["a b#1.jpg", "a::b.jpg", "br1.jpg", "br[1].jpg", "per%20cent?.jpg", "star*.jpg", "ü'\".jpg"]


def test_odd_names_are_keys_and_every_file_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "odd [folder] * ü", *ODD_NAMES)
    for uri in (str(folder), f"{folder}/", f"file://{folder}"):
        assert keys_of(open_dataset(uri)) == ODD_NAMES


def test_a_name_that_is_not_utf8_becomes_a_key_with_an_escape(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(JPEG)
    assert keys_of(open_dataset(str(tmp_path))) == [r"caf\xe9.jpg"]


@pytest.mark.parametrize("name", [*ODD_NAMES, ".hidden.jpg", "UPPER.JPG"])
def test_a_single_image_is_a_dataset(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, name, "other.jpg")
    assert keys_of(open_dataset(str(tmp_path / name))) == [name]
    monkeypatch.chdir(tmp_path)
    assert keys_of(open_dataset(name)) == [name]


@pytest.mark.parametrize("name", ["y.jpg", "y.parquet", "y.tar"])
def test_a_folder_may_be_named_like_a_file(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, "a.jpg", "y.jpg")  # y.jpg/y.jpg among them
    dataset = open_dataset(str(tmp_path / name))
    assert dataset.format == "folder"
    assert keys_of(dataset) == ["a.jpg", "y.jpg"]


def test_relative_folders_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "photos", "a.jpg")
    monkeypatch.chdir(tmp_path / "photos")
    for uri in (".", "../photos", "./"):
        assert keys_of(open_dataset(uri)) == ["a.jpg"]


def test_where_no_image_is_the_error_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no images \(\.jpg, .*\) there \(0 other files\)"):
        open_dataset(str(tmp_path))
    write(tmp_path, "a.txt", "b.json")
    with pytest.raises(DatasetError, match=r"no images .* \(2 other files\)"):
        open_dataset(str(tmp_path))
    with pytest.raises(DatasetError, match=r"no \.tar files there \(2 other files\)"):
        open_dataset(str(tmp_path), "webdataset")
    with pytest.raises(StorageError, match="nowhere: not found"):
        open_dataset(str(tmp_path / "nowhere"))
