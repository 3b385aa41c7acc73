"""DeepFashion-MultiModal: photos with their index maps."""

from pathlib import Path

import numpy as np
import pytest

from persam_ray.data.annotations import from_mask
from persam_ray.data.deepfashion import IndexMap
from persam_ray.data.files import FileShard, ImageFile
from persam_ray.data.listing import open_dataset
from tests.data.datasets import JPEG, mask, rows_of, write
from tests.data.shards import CUP, MASK, PHOTO, rows_of_shard, write_files
from tests.encoded_images import encoded


def test_the_map_beside_a_photo_becomes_its_annotations(tmp_path: Path) -> None:
    segm = tmp_path / "0_segm.png"
    segm.write_bytes(encoded(MASK.astype(np.uint8) * 12))  # class 12 is the bag
    (file,) = write_files(tmp_path, 1)
    shard = FileShard((ImageFile(file.image_id, file.uri, IndexMap(str(segm))),))
    (row,) = rows_of_shard(shard)
    assert (row["height"], row["width"]) == (4, 5)
    assert row["annotations"] == [CUP | {"category": "bag"}]
    assert list(shard.annotated()) == [("0.jpg", frozenset({"bag"}))]


@pytest.mark.parametrize(("content", "reason"), [(None, "annotation cannot be read"), (b"text", "segm map cannot")])
def test_a_bad_map_is_an_error_and_its_photo_is_kept(tmp_path: Path, content: bytes | None, reason: str) -> None:
    segm = tmp_path / "0_segm.png"
    if content is not None:
        segm.write_bytes(content)
    (file,) = write_files(tmp_path, 1)
    shard = FileShard((ImageFile(file.image_id, file.uri, IndexMap(str(segm))),))
    (row,) = rows_of_shard(shard)
    assert reason in row["error"]
    assert (row["image"], row["annotations"]) == (PHOTO + b"\0", None)
    assert list(shard.annotated()) == [("0.jpg", frozenset())]


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
