"""References from pairs of files and from annotated images: which are chosen, and what makes one unusable."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persam_ray.cluster.references import choose_references, load_reference, load_references
from persam_ray.data.annotations import from_mask
from persam_ray.data.dataset import Dataset, DatasetError
from persam_ray.data.listing import open_dataset
from persam_ray.data.schema import ANNOTATION
from persam_ray.data.storage import StorageError
from persam_ray.errors import BadReferenceError
from persam_ray.options.label import LabelConfig
from tests.data.datasets import coco_content, mask, write, write_coco, write_parquet, write_tar
from tests.encoded_images import encoded, plain_jpeg

OBJECT = np.zeros((4, 5), np.uint8)
OBJECT[1:3, 2:4] = 255
CUP, SPOON = from_mask("cup", OBJECT > 0), from_mask("spoon", mask(3, 4))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with photos and masks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(plain_jpeg(4, 5, gray=10))
    (tmp_path / "b.jpg").write_bytes(plain_jpeg(4, 5, gray=200))
    (tmp_path / "mask.png").write_bytes(encoded(OBJECT))
    (tmp_path / "other mask.png").write_bytes(encoded(255 - OBJECT))
    (tmp_path / "small.png").write_bytes(encoded(OBJECT[:2]))
    (tmp_path / "black.png").write_bytes(encoded(OBJECT * 0))
    (tmp_path / "text.png").write_bytes(b"text")
    return tmp_path


def config(*pairs: str, **options: Any) -> LabelConfig:
    return LabelConfig(**{"images": "photos", "output": "out", "reference": pairs, **options})


# --- pairs of files --------------------------------------------------------------------------------------------------


def test_pairs_of_one_category_belong_together_in_the_order_given(folder: Path) -> None:
    pairs = ("cup=a.jpg,mask.png", "spoon=a.jpg,mask.png", f"cup=file://{folder}/b.jpg,{folder}/other mask.png")
    references = load_references(config(*pairs))
    assert {category: len(found) for category, found in references.by_category.items()} == {"cup": 2, "spoon": 1}
    first, second = references.by_category["cup"]
    assert abs(int(first.image_hw3.mean()) - 10) <= 1
    assert abs(int(second.image_hw3.mean()) - 200) <= 1
    np.testing.assert_array_equal(first.mask_hw, OBJECT > 0)
    np.testing.assert_array_equal(second.mask_hw, OBJECT == 0)
    assert references.image_ids == frozenset()


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("cup=text.png,mask.png", r"reference photo text\.png: not an image"),
        ("cup=a.jpg,text.png", r"reference mask text\.png: not an image"),
        ("cup=a.jpg,small.png", r"a\.jpg, small\.png: reference mask of 'cup' is 5 x 2 pixels, but its photo is 5 x 4"),
        ("cup=a.jpg,black.png", r"a\.jpg, black\.png: reference mask of 'cup' is empty"),
    ],
)
def test_a_pair_that_cannot_be_used_is_named(folder: Path, pair: str, reason: str) -> None:
    with pytest.raises(BadReferenceError, match=reason):
        load_references(config(pair))


@pytest.mark.parametrize("pair", ["cup=nowhere.jpg,mask.png", "cup=a.jpg,nowhere.png"])
def test_a_file_that_is_missing_is_named(folder: Path, pair: str) -> None:
    with pytest.raises(StorageError, match=r"^nowhere\.\w+: not found"):
        load_references(config(pair))


def test_fingerprints_follow_pixels_and_mask(folder: Path) -> None:
    pairs = ["cup=a.jpg,mask.png", "cup=a.jpg,mask.png", "cup=b.jpg,mask.png", "cup=a.jpg,other mask.png"]
    first, again, other_photo, other_mask = load_references(config(*pairs)).fingerprints()["cup"]
    assert first == again
    assert len({first, other_photo, other_mask}) == 3
    assert all(print_.startswith("sha256:") and len(print_) == 7 + 64 for print_ in (first, other_photo))


# --- annotated images ------------------------------------------------------------------------------------------------


def write_shards(path: Path) -> str:
    path.mkdir()
    columns = {
        "image_id": ["c", "b"],
        "image": [plain_jpeg(4, 5)] * 2,
        "annotations": pa.array([[CUP], [CUP | {"category": "spoon"}, CUP]], pa.list_(ANNOTATION)),
    }
    pq.write_table(pa.table(columns), path / "a.parquet")
    return str(path)


def test_the_first_annotated_image_of_each_category_is_its_reference(folder: Path) -> None:
    uri = write_shards(folder / "shards")
    references = load_references(config(references=uri, category=("cup", "spoon")))
    assert {category: len(found) for category, found in references.by_category.items()} == {"cup": 1, "spoon": 1}
    np.testing.assert_array_equal(references.by_category["cup"][0].mask_hw, OBJECT > 0)
    assert references.image_ids == frozenset()  # they are not among the photos to label


def test_named_ids_are_taken_instead(folder: Path) -> None:
    uri = write_shards(folder / "shards")
    references = load_references(config(references=uri, images=uri, category=("cup",), reference_ids=("c,b",)))
    assert len(references.by_category["cup"]) == 2
    assert references.image_ids == {"b", "c"}
    with pytest.raises(DatasetError, match="no annotated image has the id 'x'"):
        load_references(config(references=uri, category=("cup",), reference_ids=("x",)))


@pytest.mark.parametrize("images", ["shards", "./shards/", "{}/shards", "file://{}/shards/"])
def test_references_among_the_photos_are_known_however_the_place_is_written(folder: Path, images: str) -> None:
    write_shards(folder / "shards")
    options = config(references="shards", images=images.format(folder), category=("cup",))
    assert load_references(options).image_ids == {"b"}


def test_references_among_the_photos_are_read_as_the_photos_are(folder: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 5}],
        "categories": [{"id": 7, "name": "cup"}],
        "annotations": [{"image_id": 1, "category_id": 7, "segmentation": {"size": [4, 5], "counts": CUP["rle"]}}],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    options = config(images=str(folder), references=str(folder), annotations="coco.json", category=("cup",))
    references = load_references(options)
    np.testing.assert_array_equal(references.by_category["cup"][0].mask_hw, OBJECT > 0)
    assert references.image_ids == {"a.jpg"}


# --- which annotated images, and what makes one unusable -------------------------------------------------------------


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
