import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persam_ray.cluster.references import choose_references, load_reference
from persam_ray.data import dataset as dataset_module
from persam_ray.data.annotations import from_mask
from persam_ray.data.dataset import Dataset, DatasetError, tell_ignored
from persam_ray.data.key_hashes import key_hashes, repeated_hashes, repeated_key
from persam_ray.data.listing import open_dataset
from persam_ray.data.parquet import ParquetShard
from persam_ray.data.schema import ANNOTATION
from persam_ray.data.storage import StorageError
from persam_ray.data.webdataset import TarShard
from persam_ray.errors import BadReferenceError
from persam_ray.keys import image_key
from persam_ray.types import BoolArray
from tests.encoded_images import encoded, plain_jpeg

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


# --- folders of images -----------------------------------------------------------------------------------------------


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


# --- Parquet and WebDataset ------------------------------------------------------------------------------------------


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


# --- DeepFashion-MultiModal ------------------------------------------------------------------------------------------


def test_a_photo_has_another_version_when_it_or_its_map_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, "images/a.jpg", "images/b.jpg")
    write(tmp_path, "segm/a_segm.png", content=b"map")

    def versions() -> dict[str, str]:
        return dict(pair for shard in open_dataset(str(tmp_path)).shards for pair in shard.versions())

    first = versions()
    assert all(first.values())
    write(tmp_path, "segm/a_segm.png", content=b"longer map")
    second = versions()
    assert (second["a.jpg"] != first["a.jpg"], second["b.jpg"] == first["b.jpg"]) == (True, True)
    write(tmp_path, "images/b.jpg", content=JPEG + b"1")
    assert versions()["b.jpg"] != first["b.jpg"]


def test_deepfashion_photos_carry_their_maps(tmp_path: Path) -> None:
    write(tmp_path, "images/WOMEN-a_1.jpg", "images/b.jpg", "readme.txt")
    write(tmp_path, "segm/WOMEN-a_1_segm.png", content=encoded(mask(1, 2, 2, 2).astype(np.uint8) * 12))
    dataset = open_dataset(str(tmp_path))
    assert (dataset.format, dataset.images) == ("deepfashion", 2)
    first, second = rows_of(dataset)
    assert (first["image_id"], second["image_id"]) == ("WOMEN-a_1.jpg", "b.jpg")
    assert first["annotations"] == [from_mask("bag", mask(1, 2, 2, 2))]
    assert second["annotations"] is None


# --- COCO ------------------------------------------------------------------------------------------------------------


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


# --- keys ------------------------------------------------------------------------------------------------------------


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


# --- references ------------------------------------------------------------------------------------------------------

CUP, SPOON = from_mask("cup", mask(1, 2, 2, 2)), from_mask("spoon", mask(3, 4))


@pytest.fixture
def annotated(tmp_path: Path) -> Dataset:
    """Parquet shards whose keys are not in the order of their files."""
    write_parquet(tmp_path / "1.parquet", ["d", "b"], [[CUP], [SPOON, CUP | {"iscrowd": True}]])
    write_parquet(tmp_path / "2.parquet", ["c", "a"], [[CUP, SPOON], None])
    return open_dataset(str(tmp_path))


def test_the_first_in_key_order_that_holds_a_category_is_its_reference(annotated: Dataset) -> None:
    assert choose_references(annotated, ["cup", "spoon"], []) == {"cup": ["c"], "spoon": ["b"]}


def test_named_images_are_the_references_of_what_they_hold(annotated: Dataset) -> None:
    assert choose_references(annotated, ["cup", "spoon"], ["d", "c"]) == {"cup": ["c", "d"], "spoon": ["c"]}


@pytest.mark.parametrize(
    ("categories", "image_ids", "reason"),
    [
        (["fork"], [], "no annotated image holds the category 'fork'; seen: cup, spoon"),
        (["spoon"], ["d"], "the images d do not hold the category 'spoon'"),
        (["cup"], ["d", "nowhere"], "no annotated image has the id 'nowhere'"),
    ],
)
def test_a_category_or_id_that_is_nowhere_is_named(
    annotated: Dataset, categories: list[str], image_ids: list[str], reason: str
) -> None:
    with pytest.raises(DatasetError, match=reason):
        choose_references(annotated, categories, image_ids)


def test_references_are_chosen_from_files_too(tmp_path: Path) -> None:
    uri = write_coco(write(tmp_path, "val/a.jpg", "val/b.jpg"), coco_content())
    assert choose_references(open_dataset(uri), ["cup"], []) == {"cup": ["b.jpg"]}  # a.jpg has a crowd only


def test_images_without_annotations_hold_no_category(tmp_path: Path) -> None:
    for dataset in (open_dataset(str(write(tmp_path / "photos", "a.jpg"))), tar_dataset(tmp_path / "tars")):
        with pytest.raises(DatasetError, match="no annotated image holds the category 'cup'; seen: no category"):
            choose_references(dataset, ["cup"], [])


def tar_dataset(folder: Path) -> Dataset:
    write_tar(folder / "x.tar", "a.jpg")
    return open_dataset(str(folder))


def test_the_mask_of_a_reference_unites_the_instances_of_its_category(tmp_path: Path) -> None:
    other_cup = from_mask("cup", mask(0, 0))
    write_parquet(
        tmp_path / "a.parquet", ["a"], [[CUP, other_cup, SPOON, SPOON | {"category": "cup", "iscrowd": True}]]
    )
    reference = load_reference(open_dataset(str(tmp_path)), "a", "cup")
    assert reference.category == "cup"
    assert reference.image_hw3.shape == (4, 5, 3)
    np.testing.assert_array_equal(reference.mask_hw, mask(1, 2, 2, 2) | mask(0, 0))


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ([CUP | {"rle": "922"}], "covers"),
        ([CUP | {"rle": None}], "lacks its category or its mask"),
        ([None], "lacks its category or its mask"),
        ([CUP | {"rle": "d0"}], "is empty"),
        (None, "is empty"),
    ],
)
def test_a_reference_that_cannot_be_used_is_named(tmp_path: Path, annotations: Any, reason: str) -> None:
    write_parquet(tmp_path / "a.parquet", ["a"], [annotations])
    with pytest.raises(BadReferenceError, match=rf"reference 'a': .*{reason}"):
        load_reference(open_dataset(str(tmp_path)), "a", "cup")


def test_a_reference_photo_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    uri = write_coco(write(tmp_path, "val/a.jpg", "val/b.jpg"), coco_content())
    dataset = open_dataset(uri)
    write(tmp_path, "val/b.jpg", content=b"text")
    with pytest.raises(BadReferenceError, match=r"reference 'b\.jpg': not an image"):
        load_reference(dataset, "b.jpg", "cup")
    (tmp_path / "val" / "b.jpg").unlink()
    with pytest.raises(BadReferenceError, match=r"reference 'b\.jpg': the file cannot be read"):
        load_reference(dataset, "b.jpg", "cup")
    with pytest.raises(BadReferenceError, match="the reference 'nowhere' is gone"):
        load_reference(dataset, "nowhere", "cup")
