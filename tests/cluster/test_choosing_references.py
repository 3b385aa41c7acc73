"""Which annotated photos become references, and what makes one unusable."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from persam_ray.cluster.references import choose_references, load_reference
from persam_ray.data.annotations import from_mask
from persam_ray.data.dataset import Dataset, DatasetError
from persam_ray.data.listing import open_dataset
from persam_ray.errors import BadReferenceError
from tests.data.datasets import coco_content, mask, write, write_coco, write_parquet, write_tar

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
